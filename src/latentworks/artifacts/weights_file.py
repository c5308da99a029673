"""The check of the weights in a `.keras` file, in a process of its own.

HDF5 has no defence against hostile files: a list that leads back to itself keeps the reader busy
for ever and takes all memory. `python -m latentworks.artifacts.weights_file model.keras` ends in
bounded time, and prints the fault of the weights or an empty line.
"""

import io
import resource
import sys
import zipfile
from pathlib import Path

import h5py  # type: ignore[import-untyped] # it comes with Keras

WEIGHTS = "model.weights.h5"
MAX_DEPTH = 40  # groups within groups
BYTES_A_SECOND = 50 << 20  # far below the speed of any disk
START_SECONDS = 5  # of processor time; Python and h5py start in less than one
START_BYTES = 2 << 30  # of addresses, most of which libraries reserve without using them


def main(path: Path) -> None:
    """Print the fault of the weights in `path`, or an empty line."""
    size = path.stat().st_size
    limits = {
        resource.RLIMIT_CPU: START_SECONDS + size // BYTES_A_SECOND,
        resource.RLIMIT_AS: START_BYTES + 4 * size,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(WEIGHTS)
        with h5py.File(io.BytesIO(content), "r") as file:
            print(fault(file, len(content)))
    except Exception as error:  # zipfile and h5py raise anything on a damaged file
        print(f"is damaged ({type(error).__name__})")


def fault(file: h5py.File, num_bytes: int) -> str:
    """Return the fault of an open HDF5 file of `num_bytes`, or "". Follow only hard links."""
    waiting, seen, declared = [(file, 0)], {_address(file["/"])}, 0
    while waiting:
        group, depth = waiting.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                return f"has a link {name[:80]!r} to another place"
            inner = group[name]
            address = _address(inner)
            if address in seen or depth > MAX_DEPTH:  # a group may hold itself
                return f"has a circle of groups, or too many levels, at {name[:80]!r}"
            seen.add(address)
            if isinstance(inner, h5py.Group):
                waiting.append((inner, depth + 1))
                continue
            if not isinstance(inner, h5py.Dataset) or inner.dtype.kind not in "biuf":
                return f"holds {name[:80]!r}, which is not an array of numbers"
            if inner.external or inner.is_virtual:
                return f"holds {name[:80]!r}, which lies in another file"
            declared += inner.nbytes
            if inner.chunks is not None or declared > num_bytes:
                return f"is compressed, or declares more than its {num_bytes} bytes"
    return ""


def _address(item: h5py.Group | h5py.Dataset) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
