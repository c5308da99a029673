"""Datasets stored as a few large arrays: headers are checked first, then rows are read in blocks.

A format such as IDX or `.npz` supplies only the offset, shape and dtype of each array.
"""

import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Protocol

import numpy as np

from latentworks.datasets.source import MAX_PIXELS, Item, Source, Split
from latentworks.errors import DataError
from latentworks.params.faults import escaped

BLOCK_BYTES = 4 << 20  # read into memory at once
MAX_CLASSES = 100_000
MAX_REASON = 150  # characters

# Errors of gzip, zipfile and the file system on a damaged or unreadable file.
DAMAGE = (
    *(OSError, EOFError, RuntimeError, UnicodeDecodeError),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile),
)


def reason(error: Exception) -> str:
    """Shorten an error to one printable line: its text may quote the bytes of a damaged file."""
    first = (str(error).splitlines() or [""])[0][:MAX_REASON].rstrip(".")
    return escaped(first) or type(error).__name__


class Readable(Protocol):
    """The common interface of files, gzip streams and zip members."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file. Its header was read; its elements were not."""

    name: str  # prefix of the names of its rows: `x_train` gives `x_train[0]`
    where: str  # how messages name the file
    shape: tuple[int, ...]
    dtype: np.dtype
    open: Callable[[], AbstractContextManager[Readable]]  # positioned at the first element

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def check_length(self, received: int) -> None:
        """Raise DataError if `received`, in bytes, is not the length that the header declares."""
        expected = self.shape[0] * self.row_bytes
        if received != expected:
            fault = "truncated" if received < expected else "too long"
            raise DataError(
                f"{self.where}: {fault}. Expected {expected} bytes for shape {self.shape}. "
                f"Received: {received}."
            )

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yield at most `rows` rows at a time. Raises DataError if the length is wrong."""
        received = 0
        try:
            with self.open() as file:
                for start in range(0, self.shape[0], rows):
                    shape = (min(rows, self.shape[0] - start), *self.shape[1:])
                    content = file.read(shape[0] * self.row_bytes)
                    received += len(content)
                    if len(content) < shape[0] * self.row_bytes:
                        break
                    block = np.frombuffer(content, self.dtype).reshape(shape)
                    yield block.astype(self.dtype.newbyteorder("="), copy=False)
                self.check_length(received + len(file.read(1)))
        except DAMAGE as error:
            raise DataError(
                f"{self.where}: damaged: {reason(error)}. Expected shape {self.shape}."
            ) from None


@dataclass(frozen=True)
class Part:
    """The images of one split, and their labels."""

    images: ArrayFile
    labels: ArrayFile | None
    split: Split


def open_parts(parts: list[Part]) -> Source:
    """Build a Source from arrays. The images of a single part have no split yet.

    Raises DataError if a shape or dtype is wrong, or if a label is not a class number.
    """
    num_classes = 0
    for part in parts:
        _check_images(part.images, [each.images for each in parts])
        if part.labels is not None:
            every = [each.labels for each in parts if each.labels]
            _check_labels(part.labels, part.images, every)
            num_classes = max(num_classes, _num_classes(part.labels, every))
    items = chain.from_iterable(_items(part, part.split if parts[1:] else None) for part in parts)
    num_items = sum(part.images.shape[0] for part in parts)
    return Source(items, num_items, tuple(str(label) for label in range(num_classes)))


def _check_images(images: ArrayFile, every: list[ArrayFile]) -> None:
    if not _has_pixels(images):
        raise DataError(
            f"{images.where}: expected uint8 (0 to 255) or uint16 (0 to 65535). "
            f"Received: {_as_pixels(images, every)}"
        )
    if len(images.shape) not in (3, 4) or 0 in images.shape or images.shape[3:] > (4,):
        raise DataError(
            f"{images.where}: expected images [N, height, width] or [N, height, width, channels] "
            f"with 1 to 4 channels. Received shape: {images.shape}."
        )
    if images.shape[1] * images.shape[2] > MAX_PIXELS:
        raise DataError(
            f"{images.where}: images too large. Expected at most {MAX_PIXELS} pixels each. "
            f"Received shape: {images.shape}."
        )


def _has_pixels(images: ArrayFile) -> bool:
    return images.dtype.newbyteorder("=") in (np.uint8, np.uint16)


def _check_labels(labels: ArrayFile, images: ArrayFile, every: list[ArrayFile]) -> None:
    if len(labels.shape) != 1 and labels.shape[1:] != (1,):
        raise DataError(
            f"{labels.where}: expected labels [N]. Received shape: {labels.shape}. "
            f"{_as_classes(labels)}"
        )
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{labels.where}: expected integer labels from 0. Received: {labels.dtype}. "
            f"{_as_numbers(labels, every)}"
        )
    if labels.shape[0] != images.shape[0]:
        raise DataError(
            f"{labels.where}: expected a label for each of the {images.shape[0]} images "
            f"of {images.where}. Received: {labels.shape[0]} labels."
        )


# --- cures ---------------------------------------------------------------------------------------

# Ranges of floats, from the narrowest, and the code that makes pixels of them.
RANGES = (
    (0, 1, "({} * 255).round().astype('uint8')"),
    (-1, 1, "(({} + 1) * 127.5).round().astype('uint8')"),
    (0, 255, "{}.round().astype('uint8')"),
    (0, 65535, "{}.round().astype('uint16')"),
)


def _as_pixels(images: ArrayFile, every: list[ArrayFile]) -> str:
    """Describe images of another type, and how they become pixels, as far as the range tells.

    `every` has the images of all splits: one range, and one code, for those of this type.
    """
    kind = images.dtype.kind
    alike = [each for each in every if each.dtype.kind == kind and not _has_pixels(each)]
    if kind == "b":
        return f"bool. Save {_code('{} * np.uint8(255)', alike, 'x')}."
    if kind not in "iuf" or any(0 in each.shape for each in alike):
        return f"{images.dtype}."
    low, high = _range(alike)
    if not math.isfinite(low + high):
        return (
            f"{images.dtype} with numbers that are not finite. Save whole numbers in their place."
        )
    received = f"{images.dtype} from {low:g} to {high:g}."
    if kind == "f":
        for bottom, top, formula in RANGES:
            if bottom <= low and high <= top:
                code = _code(formula, alike, "x")
                return f"{received} If their range is {bottom} to {top}, save {code}."
    elif low >= 0 and high <= 1:
        code = _code("{}.astype('uint8') * 255", alike, "x")
        return f"{received} If 1 is white, save {code}."
    elif low >= 0 and high <= 255:
        code = _code("{}.astype('uint8')", alike, "x")
        return f"{received} If their range is 0 to 255, save {code}."
    elif low >= 0 and high <= 65535:  # 12-bit images would be nearly black
        code = _code("{}.astype('uint16')", alike, "x")
        return f"{received} If their range is 0 to 65535, save {code}."
    elif low >= -128 and high <= 127:
        code = _code("({}.astype('int16') + 128).astype('uint8')", alike, "x")
        return f"{received} If their range is -128 to 127, save {code}."
    return f"{received} Scale them to 0 to 255."


def _as_classes(labels: ArrayFile) -> str:
    """Say how labels of several columns become class numbers, if each row names one class."""
    if len(labels.shape) == 2 and 0 not in labels.shape and labels.dtype.kind in "biuf":
        blocks = labels.blocks(_rows(labels))
        if all(
            (np.sort(block)[:, :-1] == 0).all() and (block.max(1) == 1).all() for block in blocks
        ):
            return f"Its rows are one-hot: save `{_variable(labels, 'y')}.argmax(axis=1)`."
    return "Save the number of one class for each image, or leave the labels out."


def _as_numbers(labels: ArrayFile, every: list[ArrayFile]) -> str:
    """Say how labels of another type become class numbers. `every` has the labels of all splits."""
    kind = labels.dtype.kind
    if kind == "b" or (kind == "f" and 0 not in labels.shape and _are_whole(labels)):
        return f"Save {_code('{}.astype(' + repr('int64') + ')', [labels], 'y')}."
    if kind in "US" and all(each.dtype.kind in "US" for each in every):
        return f"Save {_ranks(every)}."
    return "Save the number of the class of each image, or leave the labels out."


def _ranks(every: list[ArrayFile]) -> str:
    """Code that numbers the classes of all splits from 0, in the order of their labels."""
    names = ", ".join(f"{_variable(each, 'y')}.ravel()" for each in every)
    number = f"np.searchsorted(np.unique(np.concatenate([{names}])), {{}})"
    return _code(number, every, "y")


def _code(formula: str, arrays: list[ArrayFile], otherwise: str) -> str:
    """Code in backticks that computes an array, or assigns all arrays at once."""
    names = [_variable(array, otherwise) for array in arrays]
    if not names[1:]:
        return f"`{formula.format(names[0])}`"
    listed = ", ".join(names)
    return f"`{listed} = [{formula.format('a')} for a in ({listed})]`"


def _variable(array: ArrayFile, otherwise: str) -> str:
    """A name for the array in code."""
    return array.name if array.name.isidentifier() else otherwise


def _are_whole(labels: ArrayFile) -> bool:
    blocks = labels.blocks(_rows(labels))
    return all((np.isfinite(block) & (block == np.rint(block))).all() for block in blocks)


def _range(arrays: list[ArrayFile]) -> tuple[float, float]:
    """The lowest and the highest number in arrays; NaN if there is one."""
    blocks = chain.from_iterable(array.blocks(_rows(array)) for array in arrays)
    ends = [(float(block.min()), float(block.max())) for block in blocks]
    return float(np.min(ends)), float(np.max(ends))


def _rows(array: ArrayFile) -> int:
    """The number of rows to read at once."""
    return max(1, BLOCK_BYTES // array.row_bytes)


def _num_classes(labels: ArrayFile, every: list[ArrayFile]) -> int:
    highest = 0
    for block in labels.blocks(_rows(labels)):
        low, high = int(block.min()), int(block.max())
        if low < 0 or high >= MAX_CLASSES:
            raise DataError(
                f"{labels.where}: expected class numbers from 0 to {MAX_CLASSES - 1}. "
                f"Received: {low if low < 0 else high}. If each number is a class, save "
                f"{_ranks(every)}."
            )
        highest = max(highest, high)
    return highest + 1


def _items(part: Part, split: Split | None) -> Iterator[Item]:
    rows = _rows(part.images)
    blocks: Iterable[np.ndarray | None] = part.labels.blocks(rows) if part.labels else repeat(None)
    row = 0
    for images, labels in zip(part.images.blocks(rows), blocks, strict=False):
        images = images.reshape(*images.shape[:3], -1)  # [n, h, w] -> [n, h, w, 1]
        numbers = repeat(None) if labels is None else labels.ravel().tolist()
        for image, label in zip(images, numbers, strict=False):
            yield Item(f"{part.images.name}[{row}]", partial(np.asarray, image), label, split)
            row += 1
