"""IDX files, the format of MNIST (LeCun et al. 1998), such as `train-images-idx3-ubyte`.

A file holds a magic number (0, 0, the type, the number of axes), the size of each axis as a
big-endian uint32, and the elements. It may be gzipped. Test images, `t10k-…`, and all labels are
optional. Names may have a start, as those of EMNIST: `emnist-letters-train-images-idx3-ubyte.gz`.
"""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from latentworks.datasets.arrays import DAMAGE, ArrayFile, Part, Readable, open_parts, reason
from latentworks.datasets.source import Source
from latentworks.errors import DataError

UNSIGNED_BYTE = 0x08


def load(path: Path) -> Source:
    """Open a folder of IDX files. Raises DataError if a file is missing or invalid."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Correct dataset.path, or put the files there.")
    train = _part(path, "train")
    if train is None:
        raise DataError(
            f"{path}: no training images. Expected a file train-images-idx3-ubyte or …-ubyte.gz."
        )
    test = _part(path, "t10k") or _part(path, "test")
    return open_parts([train] if test is None else [train, test])


def _part(folder: Path, prefix: str) -> Part | None:
    images = _find(folder, f"{prefix}-images[-.]idx[34]-ubyte")
    labels = _find(folder, f"{prefix}-labels[-.]idx1-ubyte")
    if images is None:
        return None
    return Part(
        _array_file(images, axes=(3, 4)),
        _array_file(labels, axes=(1,)) if labels else None,
        "train" if prefix == "train" else "test",
    )


def _find(folder: Path, pattern: str) -> Path | None:
    """Find the file that matches `pattern`, or its gzipped form, perhaps after another name.

    Raises DataError for files of several data sets, such as EMNIST's `letters` and `digits`.
    """
    for start in ("", "*-"):
        for end in ("", ".gz"):
            found = sorted(folder.glob(f"{start}{pattern}{end}"))
            if start and found[1:]:
                raise DataError(
                    f"{folder}: files of several data sets: {found[0].name} and {found[1].name}. "
                    "Move those of one to a folder of their own."
                )
            if found:
                return found[0]
    return None


def _array_file(path: Path, axes: tuple[int, ...]) -> ArrayFile:
    if not path.is_file():  # a folder, or a pipe, which would block forever
        raise DataError(f"{path}: not a file. Expected an IDX file.")
    try:
        with _opened(path) as file:
            magic = file.read(4)
            sizes = file.read(4 * magic[3]) if len(magic) == 4 else b""
    except DAMAGE as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}. Expected an IDX file.") from None
    if magic not in [bytes([0, 0, UNSIGNED_BYTE, number]) for number in axes]:
        expected = " or ".join(f"0x{UNSIGNED_BYTE << 8 | number:08x}" for number in axes)
        raise DataError(
            f"{path}: wrong IDX header for a file of this name. Expected magic {expected}. "
            f"Received: 0x{magic.hex()}."
        )
    if len(sizes) < 4 * magic[3]:
        raise DataError(
            f"{path}: truncated. Expected a header of {4 + 4 * magic[3]} bytes. "
            f"Received: {4 + len(sizes)}."
        )
    offset = 4 + len(sizes)
    array = ArrayFile(
        name=path.name.removesuffix(".gz"),
        where=str(path),
        shape=tuple(np.frombuffer(sizes, ">u4").tolist()),
        dtype=np.dtype(np.uint8),
        open=lambda: _opened(path, offset),
    )
    if path.suffix != ".gz":  # the length of a gzipped file is unknown before its end
        array.check_length(path.stat().st_size - offset)
    return array


@contextmanager
def _opened(path: Path, offset: int = 0) -> Iterator[Readable]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        file.read(offset)
        yield file
