"""The kind of dataset that a file is of: a cure for a wrong `dataset.kind` or `dataset.path`."""

from itertools import islice
from pathlib import Path

from latentworks.params.faults import escaped

MAX_LOOKED_AT = 1000  # files of a folder
ENDINGS = {
    **dict.fromkeys((".npz", ".npy"), "npz"),
    **dict.fromkeys((".h5", ".hdf5"), "hdf5"),
    ".parquet": "parquet",
    ".tar": "tar",
    ".csv": "csv",
}
OF_A_FILE = ("npz", "hdf5")  # kinds whose path is a file, and not a folder

STARTS = {
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"PAR1": "parquet",
    b"\x93NUMPY": "npz",
    b"PK\3\4": "npz",
}
TAR = slice(257, 262)  # where a tar file says ustar


def kind_inside(folder: Path, kind: str) -> str:
    """Return a sentence that names the kind of a file in a folder, if it is known.

    `kind` is the present kind.
    """
    files = (file for file in islice(folder.rglob("*"), MAX_LOOKED_AT) if file.is_file())
    found = sorted(file for file in files if file.suffix.lower() in ENDINGS)
    if not found:
        return ""
    name = ENDINGS[found[0].suffix.lower()]
    changes = [f"dataset.kind to {name}"] if name != kind else []
    changes += [f"dataset.path to {escaped(str(found[0]))}"] if name in OF_A_FILE else []
    return f" Set {' and '.join(changes)}."


def other_kind(path: Path, kind: str) -> str:
    """Return a sentence that names the kind of the file, or nothing if it is `kind` or unknown."""
    try:
        with path.open("rb") as file:
            start = file.read(TAR.stop)
    except OSError:
        return ""
    found = next((name for magic, name in STARTS.items() if start.startswith(magic)), "")
    if start[TAR] == b"ustar":
        found = "tar"
    if not found and path.suffix.lower() == ".csv":
        found = "csv"
    return f" Set dataset.kind to {found}." if found not in ("", kind) else ""
