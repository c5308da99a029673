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


def fault(folder: Path, digest: str) -> str | None:
    """Describe the first file that differs from SHA256SUMS; None if no file differs.

    `digest` is the SHA-256 that `seal` returned. Call this before any file of the folder is opened.
    """
    sums = folder / SUMS
    if not sums.is_file() or disk.file_digest(sums) != digest:
        return f"{SUMS} does not match the recorded sha256"
    expected = read(sums)
    for name in sorted({*expected, *_names(folder)}):
        if name not in expected:
            return f"{name} is not part of the version"
        if not (folder / name).is_file():
            return f"{name} is missing"
        if disk.file_digest(folder / name) != expected[name]:
            return f"{name} does not match its sha256"
    return None


def lacking(folder: Path, digest: str) -> list[str]:
    """The names of the files that a folder lacks, or has with other content than SHA256SUMS."""
    sums = folder / SUMS
    if not sums.is_file() or disk.file_digest(sums) != digest:
        return [SUMS]
    return [
        name
        for name, expected in read(sums).items()
        if not (folder / name).is_file() or disk.file_digest(folder / name) != expected
    ]


def read(sums: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that a SHA256SUMS file names."""
    lines = sums.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def verify(folder: Path, digest: str, version: str) -> None:
    """Raise RegistryError with the fault of the folder of a version, if it has one."""
    if wrong := fault(folder, digest):
        raise RegistryError(
            f"{version}: {wrong}. The files were changed after the version was registered. "
            "Register it again."
        )


def content_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all files in a folder."""
    lines = [f"{disk.file_digest(folder / name)}  {name}\n" for name in _names(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _names(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file() or file.is_symlink())
    names = {file.relative_to(folder).as_posix() for file in files}
    return sorted(names - NOT_OURS - {SUMS})
