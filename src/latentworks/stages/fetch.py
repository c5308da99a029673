"""Bring a built-in dataset to its place. Images of the user's own stay where they are.

The output is the folder `raw`: the files, and `source.json`, which says what they are.
"""

from collections.abc import Sequence
from pathlib import Path

from latentworks.config import Config
from latentworks.datasets import fashion_mnist
from latentworks.datasets.config import DatasetConfig
from latentworks.datasets.pinned import Mirror
from latentworks.errors import DataError
from latentworks.params import load
from latentworks.repository import timings
from latentworks.system.disk import file_digest, replacing, write_json
from latentworks.system.state import STATE

DOWNLOADS = STATE / "downloads"


class Params(Config):
    dataset: DatasetConfig


def main(raw: Path, mirrors: Sequence[Mirror] = fashion_mnist.MIRRORS) -> None:
    """Fill `raw`. Raises DataError where there is no such source."""
    dataset = load(Params).dataset
    path = Path(dataset.path)
    inside = path.resolve().is_relative_to(raw.resolve())
    if inside and dataset.kind != "fashion_mnist":
        raise DataError(
            f"{raw} is emptied by this stage. Expected images of your own somewhere else. "
            f"Received: dataset.path {path}."
        )
    strangers = [] if not raw.exists() else _not_from_here(raw)
    if strangers:
        raise DataError(
            f"{raw} is replaced by this stage, but {strangers[0]} is not from it. "
            "Move what is yours somewhere else."
        )
    if not inside and not path.exists():
        raise DataError(f"{path}: no such file or folder. Correct dataset.path in params.yaml.")
    if not inside:
        _require_readable(path)

    digests: dict[str, str] = {}
    outcomes = [f"{path} is a source of your own"]
    with replacing(raw) as folder:
        folder.mkdir()
        if inside:
            files = folder / path.resolve().relative_to(raw.resolve())
            outcomes = fashion_mnist.download(files, DOWNLOADS, mirrors)
            digests = {file.name: file_digest(file) for file in sorted(files.iterdir())}
        write_json(folder / "source.json", {"kind": dataset.kind, "files": digests})

    print(f"fetch: {len(digests)} files of {dataset.kind} fetched; {'; '.join(outcomes)}")
    timings.write("fetch", file_digest(raw / "source.json"))


def _not_from_here(raw: Path) -> list[Path]:
    """The files in `raw` that an earlier fetch did not put there."""
    names = {"source.json", *(file.name for file in fashion_mnist.FILES)}
    found = sorted(path for path in raw.rglob("*") if not path.is_dir() or path.is_symlink())
    return [path for path in found if path.name not in names]


def _require_readable(path: Path) -> None:
    """DVC hashes the whole source; a pipe would hang it and a broken link stop it."""
    for entry in [path, *path.rglob("*")]:
        if not entry.exists():
            raise DataError(f"{entry} is a link to nothing. Remove it.")
        if not entry.is_file() and not entry.is_dir():
            raise DataError(f"{entry} is neither a file nor a folder. Remove it.")
