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
        _check_images(part.images)
        if part.labels is not None:
            _check_labels(part.labels, part.images)
            num_classes = max(num_classes, _num_classes(part.labels))
    items = chain.from_iterable(_items(part, part.split if parts[1:] else None) for part in parts)
    num_items = sum(part.images.shape[0] for part in parts)
    return Source(items, num_items, tuple(str(label) for label in range(num_classes)))


def _check_images(images: ArrayFile) -> None:
    if images.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise DataError(
            f"{images.where}: expected uint8 (0 to 255) or uint16 (0 to 65535). "
            f"Received: {images.dtype}. "
            "Floats from 0 to 1 become (x * 255).round().astype('uint8')."
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


def _check_labels(labels: ArrayFile, images: ArrayFile) -> None:
    if labels.dtype.kind not in "iu":
        raise DataError(
            f"{labels.where}: expected integer labels from 0. Received: {labels.dtype}. "
            "Convert with y.astype('int64')."
        )
    if len(labels.shape) != 1 and labels.shape[1:] != (1,):
        raise DataError(
            f"{labels.where}: expected labels [N]. Received shape: {labels.shape}. "
            "One-hot rows become y.argmax(axis=1)."
        )
    if labels.shape[0] != images.shape[0]:
        raise DataError(
            f"{labels.where}: expected a label for each of the {images.shape[0]} images "
            f"of {images.where}. Received: {labels.shape[0]} labels."
        )


def _num_classes(labels: ArrayFile) -> int:
    highest = 0
    for block in labels.blocks(BLOCK_BYTES // labels.row_bytes):
        low, high = int(block.min()), int(block.max())
        if low < 0 or high >= MAX_CLASSES:
            raise DataError(
                f"{labels.where}: expected class numbers from 0 to {MAX_CLASSES - 1}. "
                f"Received: {low if low < 0 else high}."
            )
        highest = max(highest, high)
    return highest + 1


def _items(part: Part, split: Split | None) -> Iterator[Item]:
    rows = max(1, BLOCK_BYTES // part.images.row_bytes)
    blocks: Iterable[np.ndarray | None] = part.labels.blocks(rows) if part.labels else repeat(None)
    row = 0
    for images, labels in zip(part.images.blocks(rows), blocks, strict=False):
        images = images.reshape(*images.shape[:3], -1)  # [n, h, w] -> [n, h, w, 1]
        numbers = repeat(None) if labels is None else labels.ravel().tolist()
        for image, label in zip(images, numbers, strict=False):
            yield Item(f"{part.images.name}[{row}]", partial(np.asarray, image), label, split)
            row += 1
