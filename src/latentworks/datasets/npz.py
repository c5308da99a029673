"""NumPy archives, as `np.savez` writes them: `x_train`, `y_train`, `x_test`, `y_test`.

Only `x_train` is required. An archive without a split may name its images `x` and its labels `y`.
Nothing is unpickled, and no array is read into memory as a whole.
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from latentworks.datasets.arrays import (
    DAMAGE,
    ArrayFile,
    Part,
    Readable,
    open_parts,
    reason,
)
from latentworks.datasets.source import Source
from latentworks.errors import DataError
from latentworks.params.faults import escaped


def load(path: Path) -> Source:
    """Open an `.npz` file. Raises DataError if it is missing or invalid."""
    if not path.is_file():
        raise DataError(f"{path}: no such file. Correct dataset.path, or put the archive there.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            names = {name.removesuffix(".npy") for name in members}
            if len(names) < len(members):
                raise DataError(f"{path}: two arrays have the same name. Expected each name once.")
    except DAMAGE as error:
        raise DataError(f"{path}: not an .npz archive: {reason(error)}.") from None
    suffix = "_train" if "x_train" in names else ""
    if f"x{suffix}" not in names:
        received = ", ".join(escaped(name[:20]) for name in sorted(names)[:10]) or "none"
        raise DataError(f"{path}: expected an array called x_train or x. Received: {received}.")
    train = Part(
        _array_file(path, f"x{suffix}"),
        _array_file(path, f"y{suffix}") if f"y{suffix}" in names else None,
        "train",
    )
    if "x_test" not in names:
        return open_parts([train])
    labels = _array_file(path, "y_test") if "y_test" in names else None
    return open_parts([train, Part(_array_file(path, "x_test"), labels, "test")])


def _array_file(path: Path, name: str) -> ArrayFile:
    where = f"{path}: {name}"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            shape, fortran_order, dtype = _read_header(file)
            offset = file.tell()
            num_bytes = archive.getinfo(f"{name}.npy").file_size - offset
    except Exception as error:  # NumPy parses the header as Python: any error can occur
        raise DataError(f"{where}: not a plain NumPy array: {reason(error)}.") from None
    if not shape or min(shape) < 0 or any(type(size) is not int for size in shape):
        raise DataError(f"{where}: expected an array [N, …]. Received shape: {shape}.")
    if fortran_order:
        raise DataError(
            f"{where}: expected C order. Received: Fortran order. "
            f"Save `np.ascontiguousarray({name})`."
        )
    array = ArrayFile(name, where, shape, dtype, open=lambda: _opened(path, name, offset))
    array.check_length(num_bytes)
    return array


@contextmanager
def _opened(path: Path, name: str, offset: int) -> Iterator[Readable]:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        file.read(offset)
        yield file


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
