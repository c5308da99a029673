"""The kind of dataset at a path, by the content of a file, or the names of the files of a folder.

Nothing is unpacked, and nothing that could run code is opened.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from latentworks.datasets.formats import ENDINGS, OF_A_FILE, STARTS, TAR
from latentworks.datasets.image_folder import EXPECTED, IGNORED, PICTURES, TEXTS
from latentworks.datasets.layout import listed, printable
from latentworks.datasets.pictures import FORMATS, START_BYTES, kind_of
from latentworks.errors import DataError

MAX_FILES = 100_000  # of a folder, whose names are looked at
MAX_OPENED = 20  # files without a known ending
IDX = re.compile(r"(images|labels)[-.]idx[134]-ubyte(\.gz)?$")
PICKLE = re.compile(rb"\x80[\x02-\x05]")  # how the protocols since Python 2.3 start
PICKLES = (".pkl", ".pickle", ".p", ".pt", ".pth", ".joblib")
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".gz", ".7z", ".rar", ".bz2", ".xz")
STRAY = 0.05  # of the files: fewer files of another kind beside pictures are left to `prepare`
CURES = {  # of files that are no images
    "pickle": "Pickles can run code when they are opened, and are not read. Save the images as an "
    ".npz file with numpy.savez.",
    "archive": "Unpack it, and give the folder that this gives.",
}
WORDS = {
    "image_folder": "pictures",
    "npz": "NumPy files",
    "hdf5": "HDF5 files",
    "idx": "IDX files",
    "parquet": "Parquet files",
    "tar": "tar files",
    "csv": "CSV files",
}
OTHER_FILES = "files of NumPy, HDF5, MNIST, Parquet, tar or CSV"
ADDRESS = re.compile(r"[A-Za-z][\w+.-]*:/")


def kind_at(path: Path) -> tuple[str, Path]:
    """Return the kind of dataset at a path, and its path: a file, if the folder holds just that.

    Raises DataError if there are no images, or images of several kinds.
    """
    if path.is_file():
        return _kind_of_file(path), path
    if not path.is_dir():
        if ADDRESS.match(str(path)):
            raise DataError(f"{path}: an address. Download the images, and give their folder.")
        exists = "neither a file nor a folder" if path.exists() else "no such file or folder"
        raise DataError(f"{path}: {exists}. Give the path of your images.")
    found = _by_kind(path)
    kinds = [kind for kind in found if kind in WORDS]
    num_pictures, num = len(found.get("image_folder", ())), sum(len(found[kind]) for kind in kinds)
    if num_pictures and num - num_pictures <= STRAY * num:
        kinds = ["image_folder"]
    if not kinds:
        for other in [kind for kind in CURES if kind in found]:
            raise DataError(f"{path}: no images, but the {other} {found[other][0]}. {CURES[other]}")
        raise DataError(f"{path}: the folder has no images. {EXPECTED}, or {OTHER_FILES}.")
    if len(kinds) > 1:
        received = [f"{WORDS[kind]} ({printable(found[kind][0])})" for kind in kinds]
        raise DataError(
            f"{path}: holds images of several kinds: {', '.join(received)}. Give the path of one."
        )
    (kind,) = kinds
    if kind not in OF_A_FILE:
        return kind, path
    if found[kind][1:]:
        raise DataError(
            f"{path}: holds {len(found[kind])} files with arrays: {listed(found[kind])}. Give the "
            "path of one."
        )
    return kind, path / found[kind][0]


def _kind_of_file(path: Path) -> str:
    kind = _kind_by_content(path)
    if kind in ("image_folder", "idx"):
        raise DataError(f"{path}: a single file of its kind. Give the folder that holds the files.")
    if kind in CURES:
        article = "an" if kind == "archive" else "a"
        raise DataError(f"{path}: no images, but {article} {kind}. {CURES[kind]}")
    if not kind:
        raise DataError(f"{path}: not a file of images. {EXPECTED} in a folder, or {OTHER_FILES}.")
    return kind


def _by_kind(folder: Path) -> dict[str, list[str]]:
    """Return the files of a folder by their kind, which includes the keys of CURES.

    The content tells the kind of a few files without a known ending. Files of labels beside
    pictures are left out.
    """
    found: dict[str, list[str]] = {}
    for file in islice(_files(folder), MAX_FILES):
        found.setdefault(_kind_by_name(file), []).append(file)
    for file in found.pop("", [])[:MAX_OPENED]:
        found.setdefault(_kind_by_content(folder / file), []).append(file)
    if "image_folder" in found:
        found.pop("csv", None)
    return {kind: files for kind, files in sorted(found.items()) if kind}


def _files(folder: Path) -> Iterator[str]:
    """Yield the relative paths of the files in a folder, but for hidden ones and texts."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_ignored(name))
        texts = tuple(ending for ending in TEXTS if ending != ".csv")
        for name in sorted(files):
            if not _is_ignored(name) and not name.casefold().endswith(texts):
                yield os.path.relpath(os.path.join(place, name), folder)


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.casefold() in IGNORED


def _kind_by_name(file: str) -> str:
    """Return the kind that a name means, or an empty text."""
    name = os.path.basename(file).casefold()
    if IDX.search(name):
        return "idx"
    if name.endswith(PICTURES):
        return "image_folder"
    if name.endswith(ARCHIVES):
        return "archive"
    if name.endswith(PICKLES):
        return "pickle"
    return ENDINGS.get(os.path.splitext(name)[1], "")


def _kind_by_content(path: Path) -> str:
    """Return the kind of a file by its first bytes, and by its name if it is a text or an IDX file.

    A compressed file is an archive, unless its name is that of an NPZ or IDX file.
    """
    named = _kind_by_name(path.name)
    if named in ("idx", "pickle") or not path.is_file():  # a pipe would block
        return named
    start = b""
    with suppress(OSError), path.open("rb") as file:
        start = file.read(START_BYTES)
    if start[TAR] == b"ustar":
        return "tar"
    known = next((kind for magic, kind in STARTS.items() if start.startswith(magic)), "")
    if known and not (known == "npz" and named != "npz" and start.startswith(b"PK")):
        return known
    if PICKLE.match(start):
        return "pickle"
    shown = kind_of(start) if start else ""
    if shown in FORMATS:
        return "image_folder"
    if shown == "archive":
        return "archive"
    return "csv" if named == "csv" else ""
