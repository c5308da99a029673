"""Detection of changes to the images at dataset.path. Writes only a note of its last look."""

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
from latentworks.runner.worktree import RETRAINING, Worktree
from latentworks.system import disk
from latentworks.system.state import STATE

NOTE = STATE / "watch.json"


class _Params(Config):
    dataset: DatasetConfig


@dataclass(frozen=True)
class Look:
    """Result of one look at the source."""

    path: str
    state: str  # no change, still changing, waiting, changed


def look(root: Path, cool_down: float, now: float, tell: Callable[[str], None]) -> Look:
    """Look for a change of the images at dataset.path since the last report.

    A change counts when two looks in a row find the same files and no retraining is running. Then
    `tell` is called once with the path, and not again for `cool_down` seconds. `now` is in seconds
    since 1970. Images that `fetch` downloads never count, since they change only with the params.
    Raises DataError if the images are missing.
    """
    path = Path(params.load(_Params, root / params.PARAMS).dataset.path)
    if dag.is_made(root, path):
        return Look(str(path), "no change")
    current = signature(root / path)
    try:
        note = dict(disk.read_json(root / NOTE))
        seen, reported, when = str(note["seen"]), str(note["told"]), float(note["when"])
    except (OSError, ValueError, KeyError, TypeError):  # the first look, or a damaged note
        seen, reported, when = current, current, 0.0
    if current == reported:
        state = "no change"
    elif current != seen:
        state = "still changing"
    elif now < when + cool_down or Worktree(root, RETRAINING).is_held:
        state = "waiting"  # the running retraining may lack the change, and a second cannot start
    else:
        tell(str(path))
        state, reported, when = "changed", current, now
    disk.write_json(root / NOTE, {"seen": current, "told": reported, "when": when})
    return Look(str(path), state)


def signature(path: Path) -> str:
    """Digest of the names, sizes and times of all files, without reading their content."""
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
            with suppress(FileNotFoundError, NotADirectoryError):  # deleted meanwhile
                yield os.path.relpath(file, path), os.lstat(file)
