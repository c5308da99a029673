"""Datasets stored as a few large arrays: headers are checked first, then rows are read in blocks.

A format such as IDX or `.npz` supplies only the offset, shape and dtype of each array.
"""

import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from typing import Protocol

import numpy as np

from latentworks.datasets.labels import Classes, are_flags, classes, distinct, doubts, row_ids
from latentworks.datasets.source import MAX_PIXELS, Item, Reject, Source, Split, Stream
from latentworks.errors import DataError
from latentworks.params.faults import escaped

# Names of images and labels: of Keras, of MedMNIST, without a split, and of np.savez(file, x, y).
NAMES = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("x", "y"), ("arr_0", "arr_1"))
SPLITS: tuple[Split, ...] = ("train", "val", "test")
BLOCK_BYTES = 4 << 20  # read into memory at once
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

    Raises DataError if a shape or dtype is wrong, or if a label names no class.
    """
    for part in parts:
        _check_images(part.images)
        if part.labels is not None:
            _check_labels(part.labels, part.images)
    labels = [part.labels for part in parts if part.labels]
    known = Classes()
    if labels:
        ids = chain.from_iterable(distinct(_ids(each, labels)) for each in labels)
        known = classes(ids, labels[0].where)
    num_items = sum(part.images.shape[0] for part in parts)
    splits = frozenset(part.split for part in parts)
    return Source(
        Stream(
            lambda: chain.from_iterable(
                _items(part, part.split if parts[1:] else None, known) for part in parts
            )
        ),
        num_items=num_items,
        class_names=known.names,
        dtypes=tuple(sorted({_native(part.images.dtype).name for part in parts})),
        splits=splits,
        notes=doubts(known, num_items),
    )


def open_named(names: Collection[str], array: Callable[[str], ArrayFile], where: str) -> Source:
    """Open the arrays of a file by their names, which say what they are: see NAMES.

    `array` opens the array of a name. Raises DataError if there are no images.
    """
    for images, labels in NAMES:
        if images.format("train") not in names:
            continue
        own = SPLITS if "{}" in images else ("train",)
        return open_parts(
            [
                Part(
                    array(images.format(split)),
                    array(labels.format(split)) if labels.format(split) in names else None,
                    split,
                )
                for split in own
                if images.format(split) in names
            ]
        )
    received = ", ".join(escaped(name[:20]) for name in sorted(names)[:10]) or "none"
    expected = ", ".join(images.format("train") for images, _ in NAMES)
    raise DataError(f"{where}: expected an array called {expected}. Received: {received}.")


def _native(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("=")


# --- images --------------------------------------------------------------------------------------


def _check_images(images: ArrayFile) -> None:
    if images.dtype.kind not in "biuf" or images.dtype.itemsize > 8:
        raise DataError(
            f"{images.where}: expected images of integers, floats or bool. "
            f"Received: {images.dtype}."
        )
    shape = images.shape
    if len(shape) not in (3, 4) or 0 in shape or not (shape[3:] < (5,) or _channels_first(shape)):
        raise DataError(
            f"{images.where}: expected images [N, height, width], [N, height, width, channels] "
            f"or [N, channels, height, width], with 1 to 4 channels. Received shape: {shape}."
            f"{_rows_as_images(images)}"
        )
    height, width = shape[2:] if _channels_first(shape) else shape[1:3]
    if height * width > MAX_PIXELS:
        raise DataError(
            f"{images.where}: images too large. Expected at most {MAX_PIXELS} pixels each. "
            f"Received shape: {shape}."
        )


def _channels_first(shape: tuple[int, ...]) -> bool:
    """True for [N, 3, 28, 28]. A shape such as [N, 3, 4, 4] has its channels last."""
    return len(shape) == 4 and shape[3] > 4 >= shape[1]


def _rows_as_images(images: ArrayFile) -> str:
    """Say how rows of pixels become images, if their number is a square."""
    if len(images.shape) != 2 or 0 in images.shape:
        return ""
    side = math.isqrt(images.shape[1])
    if side**2 != images.shape[1]:
        return ""
    return f" Save `{_variable(images, 'x')}.reshape(-1, {side}, {side})`."


def _items(part: Part, split: Split | None, known: Classes) -> Iterator[Item]:
    rows = _rows(part.images)
    blocks: Iterable[np.ndarray | None] = repeat(None)
    if part.labels is not None:
        blocks = _ids(part.labels, [part.labels], rows)
    row = 0
    for images, ids in zip(part.images.blocks(rows), blocks, strict=False):
        if _channels_first(images.shape):
            images = images.transpose(0, 2, 3, 1)
        images = images.reshape(*images.shape[:3], -1)  # [n, h, w] -> [n, h, w, 1]
        numbers = repeat(None) if ids is None else map(known.number, ids.tolist())
        for image, label in zip(images, numbers, strict=False):
            yield Item(f"{part.images.name}[{row}]", partial(finite, image), label, split)
            row += 1


def finite(image: np.ndarray) -> np.ndarray:
    """Return an image; raises Reject if a value is not finite."""
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise Reject("not_finite")
    return np.asarray(image)


# --- labels --------------------------------------------------------------------------------------


def _check_labels(labels: ArrayFile, images: ArrayFile) -> None:
    is_known = labels.dtype.kind in "biufSU" and labels.dtype.itemsize > 0
    if len(labels.shape) not in (1, 2) or 0 in labels.shape or not is_known:
        raise DataError(
            f"{labels.where}: expected labels [N], or one-hot [N, classes]. "
            f"Received: {labels.dtype} of shape {labels.shape}. "
            "Save the class of each image, or leave the labels out."
        )
    if labels.shape[0] != images.shape[0]:
        raise DataError(
            f"{labels.where}: expected a label for each of the {images.shape[0]} images "
            f"of {images.where}. Received: {labels.shape[0]} labels."
        )


def _ids(labels: ArrayFile, every: list[ArrayFile], rows: int = 0) -> Iterator[np.ndarray]:
    """Yield the ids, int64 [n] or str [n], of `rows` labels at a time.

    `every` has the labels of all splits. Raises DataError if labels name no single class.
    """
    for block in labels.blocks(rows or _rows(labels)):
        ids = row_ids(block)
        if ids is None:
            raise DataError(f"{labels.where}: {_no_single_class(labels, block, every)}")
        yield ids


def _no_single_class(labels: ArrayFile, block: np.ndarray, every: list[ArrayFile]) -> str:
    """Describe labels that name no single class, and say what to save in their place."""
    if block.ndim == 1 or block.shape[1] == 1:
        return (
            f"expected whole numbers below 2**53, or text. Received: other {labels.dtype}. "
            "Save the class of each image, or leave the labels out."
        )
    if not are_flags(block):
        return (
            f"expected one class for each image. Received: {block.shape[1]} numbers for each. "
            f"If one column is the class, save {_code('{}[:, 0]', every, 'y')}, or another column; "
            "otherwise leave the labels out."
        )
    ones = int((block != 0).sum(axis=1).max())
    return (
        f"several labels for an image: rows with up to {ones} ones of {block.shape[1]}. "
        f"Expected one class for each image. Save one label as two classes, "
        f"{_code('{}[:, 0]', every, 'y')}, or leave the labels out."
    )


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


def _rows(array: ArrayFile) -> int:
    """The number of rows to read at once."""
    return max(1, BLOCK_BYTES // max(1, array.row_bytes))
