"""Download a built-in dataset. The user's own images stay where they are.

The out is the folder `raw`: the files, and `source.json` with their dataset and digests.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from latentworks.config import Config
from latentworks.datasets import fashion_mnist
from latentworks.datasets.config import BUILT_IN, DatasetConfig
from latentworks.errors import DataError
from latentworks.params import load
from latentworks.repository import timings
from latentworks.system.disk import file_digest, read_json, replacing, write_json
from latentworks.system.state import STATE

DOWNLOADS = STATE / "downloads"
SOURCE = "source.json"


class Params(Config):
    dataset: DatasetConfig


def main(raw: Path, download: Callable[[Path, Path], list[str]] | None = None) -> None:
    """Fill `raw` by `download`, or by `dataset.fetch` of the dataset.

    Raises DataError if dataset.path does not exist or cannot be used.
    """
    dataset = load(Params).dataset
    path = Path(dataset.path)
    inside = path.resolve().is_relative_to(raw.resolve())
    if inside and not isinstance(dataset, BUILT_IN):
        raise DataError(
            f"params.yaml: dataset.path {path} lies in {raw}, which stage fetch replaces. "
            "Move your images to another folder and correct dataset.path."
        )
    foreign = [] if not raw.exists() else _foreign_files(raw)
    if foreign:
        raise DataError(
            f"{foreign[0]} is not a file of stage fetch, which replaces {raw}. "
            "Move your own files to another folder."
        )
    if not inside and not path.exists():
        raise DataError(f"{path}: no such file or folder. Correct dataset.path in params.yaml.")
    if not inside:
        _require_readable(path)

    digests: dict[str, str] = {}
    said = f"your own images stay at {path}: nothing to fetch"
    with replacing(raw) as folder:
        folder.mkdir()
        if inside and isinstance(dataset, BUILT_IN):
            files = folder / path.resolve().relative_to(raw.resolve())
            outcomes = (download or dataset.fetch)(files, DOWNLOADS)
            written = sorted(file for file in files.rglob("*") if file.is_file())
            digests = {file.relative_to(files).as_posix(): file_digest(file) for file in written}
            said = f"{len(digests)} files of {dataset.kind} fetched; {'; '.join(outcomes)}"
        write_json(folder / SOURCE, {"kind": dataset.kind, "files": digests})

    print(f"fetch: {said}")
    timings.write("fetch", file_digest(raw / SOURCE))


def _foreign_files(raw: Path) -> list[Path]:
    """Return the files in `raw` that this stage did not write: its SOURCE names those it did."""
    try:
        own = {SOURCE, *read_json(raw / SOURCE)["files"]}
    except (OSError, ValueError, KeyError, TypeError):  # damaged, or removed
        own = {SOURCE, *(file.name for file in fashion_mnist.FILES)}
    paths = sorted(path for path in raw.rglob("*") if not path.is_dir() or path.is_symlink())
    return [path for path in paths if not own.intersection(_endings(path))]


def _endings(path: Path) -> Iterator[str]:
    """Yield `c`, `b/c` and `a/b/c` for the path a/b/c."""
    for number in range(len(path.parts)):
        yield "/".join(path.parts[number:])


def _require_readable(path: Path) -> None:
    """Raise DataError for a broken link or a pipe: DVC would fail or hang on it."""
    for entry in [path, *path.rglob("*")]:
        if not entry.exists():
            raise DataError(
                f"{entry} is a broken link. Remove it. If DVC or git-annex made it, run "
                "`dvc checkout` or `git annex get` instead."
            )
        if not entry.is_file() and not entry.is_dir():
            raise DataError(f"{entry} is neither a file nor a folder. Remove it.")
