"""Have the images at dataset.path changed? Nothing is written but a note of what was seen."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from latentworks import params
from latentworks.config import Config
from latentworks.datasets.config import DatasetConfig
from latentworks.errors import DataError
from latentworks.repository import dag
from latentworks.runner.workspace import RETRAINING, Workspace
from latentworks.system import disk
from latentworks.system.state import STATE

NOTE = STATE / "watch.json"


class _Params(Config):
    dataset: DatasetConfig


@dataclass(frozen=True)
class Look:
    """What a look at the source found."""

    path: str
    state: str  # no change, still changing, waiting, changed


def look(root: Path, cool_down: float, now: float, tell: Callable[[str], None]) -> Look:
    """Whether the images at dataset.path changed since that was last told.

    A change counts when two looks in a row find the same and nothing is being trained; `tell` is
    called with the path, once, and not again for `cool_down` seconds. `now` is in seconds since
    1970. What `fetch` brings changes with the parameters alone. Raises DataError where the images
    are gone.
    """
    path = Path(params.load(_Params, root / params.PARAMS).dataset.path)
    if dag.is_made(root, path):
        return Look(str(path), "no change")
    found = signature(root / path)
    try:
        note = dict(disk.read_json(root / NOTE))
        seen, told, when = str(note["seen"]), str(note["told"]), float(note["when"])
    except (OSError, ValueError, KeyError, TypeError):  # the first look, or its note was spoiled
        seen, told, when = found, found, 0.0
    if found == told:
        state = "no change"
    elif found != seen:
        state = "still changing"
    elif now < when + cool_down or Workspace(root, RETRAINING).is_held:
        state = "waiting"  # a retraining that is under way may not have it, and nobody else starts
    else:
        tell(str(path))
        state, told, when = "changed", found, now
    disk.write_json(root / NOTE, {"seen": found, "told": told, "when": when})
    return Look(str(path), state)


def signature(path: Path) -> str:
    """A digest of the names, sizes and times of all files; their content is not read."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. Correct dataset.path in params.yaml.")
    digest = hashlib.sha256()
    for name, status in sorted(_files(path)):
        digest.update(f"{name}\0{status.st_size} {status.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    if not path.is_dir():
        with suppress(FileNotFoundError):
            yield "", path.stat()
        return
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            with suppress(FileNotFoundError, NotADirectoryError):  # gone: the next look tells
                yield os.path.relpath(file, path), os.lstat(file)
