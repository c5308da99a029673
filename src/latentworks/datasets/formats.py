"""The kind of dataset that a file is of, by its first bytes: a cure for a wrong `dataset.kind`."""

from pathlib import Path

STARTS = {
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"PAR1": "parquet",
    b"\x93NUMPY": "npz",
    b"PK\3\4": "npz",
}
TAR = slice(257, 262)  # where a tar file says ustar


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
