"""NumPy arrays: an archive that `np.savez` wrote, or a `.npy` file of images alone.

An archive has `x_train`, and optionally `y_train`, `x_val`, `y_val`, `x_test` and `y_test`. It may
use the names of MedMNIST, `train_images` and so on; or, without a split, `x` and `y`, or `arr_0`
and `arr_1`.
Nothing is unpickled, and no array is read into memory as a whole.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from latentworks.datasets.arrays import (
    DAMAGE,
    ArrayFile,
    Part,
    open_named,
    open_parts,
    reason,
)
from latentworks.datasets.formats import kind_inside, other_kind
from latentworks.datasets.source import Source
from latentworks.errors import DataError

MAGIC = b"\x93NUMPY"  # the first bytes of a .npy file


def load(path: Path) -> Source:
    """Open an `.npz` or `.npy` file. Raises DataError if it is missing or invalid."""
    if not path.is_file():
        if path.is_dir():
            raise DataError(f"{path}: a folder, and not a file.{kind_inside(path, 'npz')}")
        raise DataError(f"{path}: no such file. Correct dataset.path, or put the archive there.")
    try:
        with path.open("rb") as file:
            is_array = file.read(len(MAGIC)) == MAGIC
        if is_array:
            images = _array_file("x", str(path), lambda: path.open("rb"), path.stat().st_size)
            return open_parts([Part(images, None, "train")])
        with zipfile.ZipFile(path) as archive:
            sizes = {each.filename: each.file_size for each in archive.infolist()}
            members = [name for name in archive.namelist() if name.endswith(".npy")]
    except DAMAGE as error:
        cure = other_kind(path, "npz")
        raise DataError(f"{path}: not an .npz archive: {reason(error)}.{cure}") from None
    names = {name.removesuffix(".npy") for name in members}
    if len(names) < len(members):
        raise DataError(f"{path}: two arrays have the same name. Expected each name once.")

    def array(name: str) -> ArrayFile:
        member = f"{name}.npy"
        return _array_file(name, f"{path}: {name}", lambda: _member(path, member), sizes[member])

    return open_named(names, array, str(path))


@contextmanager
def _member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as file:
        yield file


def _array_file(
    name: str,
    where: str,
    open: Callable[[], AbstractContextManager[IO[bytes]]],
    num_bytes: int,
) -> ArrayFile:
    """Read the header of an array in NumPy's format, of `num_bytes` bytes with its header."""
    try:
        with open() as file:
            shape, fortran_order, dtype = _read_header(file)
            offset = file.tell()
    except Exception as error:  # NumPy parses the header as Python: any error can occur
        raise DataError(f"{where}: not a plain NumPy array: {reason(error)}.") from None
    if not shape or min(shape) < 0 or any(type(size) is not int for size in shape):
        raise DataError(f"{where}: expected an array [N, …]. Received shape: {shape}.")
    if fortran_order:
        raise DataError(
            f"{where}: expected C order. Received: Fortran order. "
            f"Save `np.ascontiguousarray({name if name.isidentifier() else 'x'})`."
        )

    @contextmanager
    def elements() -> Iterator[IO[bytes]]:
        with open() as file:
            file.read(offset)
            yield file

    array = ArrayFile(name, where, shape, dtype, elements)
    array.check_length(num_bytes - offset)
    return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the shape, the Fortran-order flag and the dtype. Raises ValueError."""
    version = npy_format.read_magic(file)
    if version == (1, 0):
        shape, fortran_order, dtype = npy_format.read_array_header_1_0(file)
    else:
        shape, fortran_order, dtype = npy_format.read_array_header_2_0(file)
    if dtype.hasobject:
        raise ValueError("the array holds Python objects, which only pickle could read")
    return shape, fortran_order, dtype
