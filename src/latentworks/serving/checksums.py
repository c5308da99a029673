"""SHA256SUMS: the checksums that show that the files of a registered version are unchanged."""

import hashlib
from pathlib import Path

from latentworks.errors import RegistryError
from latentworks.system import disk

SUMS = "SHA256SUMS"
# MLflow adds this file to each download. It is no part of the version.
NOT_OURS = {"registered_model_meta"}


def seal(folder: Path) -> str:
    """Write SHA256SUMS and return the SHA-256 of that file, which identifies the whole folder."""
    lines = [f"{disk.file_digest(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    return disk.file_digest(folder / SUMS)


def verify(folder: Path, digest: str, version: str) -> None:
    """Compare SHA256SUMS with `digest`, which `seal` returned, and every file with SHA256SUMS.

    Call it before any file of the folder is opened. Raises RegistryError, which names the first
    file that differs.
    """
    cure = "The files were changed after the version was registered. Register it again."
    sums = folder / SUMS
    if not sums.is_file() or disk.file_digest(sums) != digest:
        raise RegistryError(f"{version}: {SUMS} does not match the recorded sha256. {cure}")
    lines = sums.read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in sorted({*expected, *_names(folder)}):
        if name not in expected:
            raise RegistryError(f"{version}: {name} is not part of the version. {cure}")
        if not (folder / name).is_file():
            raise RegistryError(f"{version}: {name} is missing. {cure}")
        if disk.file_digest(folder / name) != expected[name]:
            raise RegistryError(f"{version}: {name} does not match its sha256. {cure}")


def content_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all files in a folder."""
    lines = [f"{disk.file_digest(folder / name)}  {name}\n" for name in _names(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _names(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file() or file.is_symlink())
    names = {file.relative_to(folder).as_posix() for file in files}
    return sorted(names - NOT_OURS - {SUMS})
