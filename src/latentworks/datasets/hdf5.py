"""HDF5 files whose datasets have the names of arrays in an `.npz` file: `x_train`, `y_train`, …

Only what lies in the file itself is read: links, external storage and virtual datasets could name
other files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py  # type: ignore[import-untyped] # it comes with Keras
import numpy as np

from latentworks.datasets.arrays import ArrayFile, Readable, open_named, reason
from latentworks.datasets.formats import kind_inside, other_kind
from latentworks.datasets.source import Source
from latentworks.errors import DataError

DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)
TEXT_ROWS = 4096  # read at once


def load(path: Path) -> Source:
    """Open an HDF5 file. Raises DataError if it is missing or invalid."""
    if not path.is_file():
        if path.is_dir():
            raise DataError(f"{path}: a folder, and not a file.{kind_inside(path, 'hdf5')}")
        raise DataError(f"{path}: no such file. Correct dataset.path, or put the file there.")
    try:
        with h5py.File(path, "r") as file:
            names = [
                name
                for name in file
                if isinstance(file.get(name, getlink=True), h5py.HardLink)
                and file.get(name, getclass=True) is h5py.Dataset
            ]
    except DAMAGE as error:
        cure = other_kind(path, "hdf5")
        raise DataError(f"{path}: not a readable HDF5 file: {reason(error)}.{cure}") from None
    return open_named(names, lambda name: _array_file(path, name), str(path))


def _array_file(path: Path, name: str) -> ArrayFile:
    where = f"{path}: {name}"
    try:
        with h5py.File(path, "r") as file:
            dataset = file[name]
            is_inside = not dataset.external and not dataset.is_virtual
            shape, dtype = dataset.shape, _dtype(dataset)
    except DAMAGE as error:
        raise DataError(f"{where}: cannot be read: {reason(error)}.") from None
    if not is_inside:
        raise DataError(f"{where}: lies in other files. Save the array itself.")
    if not shape or dtype.hasobject:
        raise DataError(f"{where}: expected an array [N, …]. Received: {dtype} of shape {shape}.")

    @contextmanager
    def elements() -> Iterator[Readable]:
        with h5py.File(path, "r") as file:
            yield _Elements(file[name], dtype)

    return ArrayFile(name, where, shape, dtype, elements)


def _dtype(dataset: h5py.Dataset) -> np.dtype:
    """The dtype of a dataset; of texts of any length, that of the longest."""
    plain: np.dtype = dataset.dtype
    about = h5py.check_string_dtype(plain)
    if about is None or about.length is not None:
        return plain
    longest = 1
    for start in range(0, len(dataset), TEXT_ROWS):
        texts = dataset[start : start + TEXT_ROWS]
        longest = max([longest, *map(len, texts.ravel())])
    return np.dtype(f"S{longest}")


class _Elements:
    """The rows of a dataset as a stream of bytes."""

    def __init__(self, dataset: h5py.Dataset, dtype: np.dtype) -> None:
        self.dataset, self.dtype, self.row = dataset, dtype, 0

    def read(self, size: int, /) -> bytes:
        """Read `size` bytes, which are whole rows; none after the last row."""
        row_bytes = self.dtype.itemsize * int(np.prod(self.dataset.shape[1:]))
        rows = self.dataset[self.row : self.row + size // max(1, row_bytes)]
        self.row += len(rows)
        return np.asarray(rows, self.dtype).tobytes()
