"""The values of a source that become black and white: `prepare.value_range`.

Data often uses a part of its dtype's range: masks 0 and 1 of 255, X-rays 12 of 16 bits. Read by
the full range, such images would be black.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Literal

import numpy as np

from latentworks.datasets.decoding import decoded
from latentworks.datasets.source import Source
from latentworks.errors import DataError
from latentworks.preprocess import Range, full_range

NUM_LOOKED_AT = 256  # evenly spread images; if they use little of the range, all others, too
READ_IN_FULL = ("uint8", "uint16")  # unless the data uses at most half of the range
ROUNDING = 1e-6  # of a range: floats of 0 to 1 may end at 1.0000001

# From the narrowest. 0 to 1: masks; 4 bits; -1024 to 3071: CT in Hounsfield units; 8 to 16 bits.
USUAL: tuple[Range, ...] = (
    *((0, 1), (-1, 1), (0, 15), (-128, 127), (0, 255), (0, 511), (0, 1023), (0, 2047)),
    *((0, 4095), (-1024, 3071), (0, 8191), (0, 16383), (0, 32767), (-32768, 32767), (0, 65535)),
)


def value_ranges(
    source: Source, setting: Literal["auto", "full"] | Range
) -> tuple[dict[str, Range], list[str]]:
    """Return the range of each dtype that is not uint8 or uint16 in full, and a line on each.

    Raises DataError if the setting does not fit the data, or if the data has no usual range.
    """
    if setting == "full":
        return _full(source), []
    if setting != "auto":
        return _declared(source, setting), []
    extents = _extents(source, math.ceil(source.num_items / NUM_LOOKED_AT))
    if not extents or any(not _uses_most(dtype, extent) for dtype, extent in extents.items()):
        extents = _extents(source)
    ranges = {dtype: _usual(dtype, extent) for dtype, extent in sorted(extents.items())}
    lines = [_line(dtype, extents[dtype], chosen) for dtype, chosen in ranges.items()]
    return _recorded(ranges), [line for line in lines if line]


def _full(source: Source) -> dict[str, Range]:
    for dtype in source.dtypes:
        if not _has_full_range(dtype):
            raise DataError(
                f"prepare.value_range full does not fit images of {dtype}, which have no range of "
                "their own. Set it to auto, or to the values of black and white, such as [0, 1]."
            )
    return _recorded({dtype: full_range(dtype) for dtype in source.dtypes})


def _declared(source: Source, setting: Range) -> dict[str, Range]:
    """The declared range, for each dtype that can hold it: 0 to 4095 is of 16-bit images alone."""
    fitting = [dtype for dtype in source.dtypes if _holds(dtype, setting)]
    if not fitting:
        (dtype, *_) = source.dtypes
        low, high = full_range(dtype)
        raise DataError(
            f"prepare.value_range {list(setting)} does not fit images of {dtype}. "
            f"Expected values from {low} to {high}, or auto."
        )
    return _recorded(dict.fromkeys(fitting, setting))


def _recorded(ranges: dict[str, Range]) -> dict[str, Range]:
    return {
        dtype: chosen
        for dtype, chosen in ranges.items()
        if dtype not in READ_IN_FULL or chosen != full_range(dtype)
    }


def _has_full_range(dtype: str) -> bool:
    return np.dtype(dtype).kind in "biu" and np.dtype(dtype).itemsize <= 2


def _holds(dtype: str, between: Range) -> bool:
    low, high = full_range(dtype)
    return np.dtype(dtype).kind == "f" or (low <= between[0] and between[1] <= high)


def _extents(source: Source, every: int = 1) -> dict[str, Range]:
    """The lowest and the highest value of each dtype, among every `every`-th image.

    Ends early if the source has one dtype, and most of its range is used.
    """
    extents: dict[str, Range] = {}
    for dtype, low, high in _ends(source, every):
        before = extents.get(dtype, (low, high))
        extents[dtype] = min(low, before[0]), max(high, before[1])
        if len(source.dtypes) == 1 and _uses_most(dtype, extents[dtype]):
            break
    return extents


def _ends(source: Source, every: int) -> Iterator[tuple[str, float, float]]:
    """Yield the dtype, the lowest and the highest value of every `every`-th usable image."""
    num_items = math.ceil(source.num_items / every)
    part = replace(source, items=islice(source.items, 0, None, every), num_items=num_items)
    for _, result in decoded(part, lowest_and_highest):
        if result.image is not None:
            low, high = result.image.tolist()
            yield result.image.dtype.name, low, high


def lowest_and_highest(image: np.ndarray) -> np.ndarray:
    """Return the lowest and the highest value of an image [h, w, c], without its alpha."""
    colour = image if image.shape[2] % 2 else image[..., :-1]
    return np.array([colour.min(), colour.max()], image.dtype)


def _uses_most(dtype: str, extent: Range) -> bool:
    """True if values use more than half of the full range of their dtype."""
    low, high = full_range(dtype)
    return _has_full_range(dtype) and extent[1] - extent[0] > (high - low) / 2


def _usual(dtype: str, extent: Range) -> Range:
    """Choose the narrowest usual range that holds the values, or the full range of the dtype.

    Raises DataError if there is neither. The full range of signed integers is no choice: 0 is grey
    in it, and images that use a small part of it are grey, too.
    """
    low, high = extent
    if dtype == "bool" or _uses_most(dtype, extent):
        return full_range(dtype)
    for bottom, top in USUAL:
        more = ROUNDING * (top - bottom) if np.dtype(dtype).kind == "f" else 0
        holds = bottom - more <= low and high <= top + more and _holds(dtype, (bottom, top))
        if holds and (bottom == 0 or low <= bottom / 2) and high >= top / 8:
            return bottom, top
    if np.dtype(dtype).kind == "u" and _has_full_range(dtype):
        return full_range(dtype)
    ends = [_digits(dtype, end) for end in (low, high if high > low else low + 1)]
    raise DataError(
        f"Images of {dtype} from {ends[0]} to {_digits(dtype, high)} have no usual range, such as "
        f"{'-1024 to 3071' if np.dtype(dtype).kind == 'i' else '0 to 1'}. Set prepare.value_range "
        f"in params.yaml to the values of black and white: [{', '.join(ends)}], or wider."
    )


def _line(dtype: str, extent: Range, chosen: Range) -> str:
    """Say how values are read, unless they use most of the full range."""
    if dtype == "bool" or _uses_most(dtype, extent):
        return ""
    (low, high), (bottom, top) = (_digits(dtype, end) for end in extent), chosen
    line = f"{dtype} from {low} to {high} is read as {bottom:g} to {top:g}"
    if low != high and _has_full_range(dtype) and chosen == full_range(dtype):
        line += f"; if {high} is white, set prepare.value_range to [{low}, {high}]"
    return line


def _digits(dtype: str, value: float) -> str:
    """Write a value of a dtype in full, without an exponent, as params.yaml takes it."""
    if value == int(value):
        return str(int(value))
    return np.format_float_positional(np.dtype(dtype).type(value), trim="-")
