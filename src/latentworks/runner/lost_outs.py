"""Entries of dvc.lock whose outs are not here: of a result that was made on another machine.

DVC has a run cache: for the same command, deps and params, it restores the outs of an earlier run
instead of running a stage. But it does not look there for an entry of dvc.lock with the same
command, deps and params, even if the outs of this entry are in no cache. After `git clone`, or in a
new worktree, it would train again what this machine has trained before.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentworks.repository import dag, dvc
from latentworks.repository.cache import Cache
from latentworks.system import disk
from latentworks.system.state import STATE

KEPT = STATE / "lost_outs.json"  # the entry that is left out now


@contextmanager
def forgotten(root: Path, stage: str, env: dvc.Environment = None) -> Iterator[None]:
    """Leave the entry of a stage out of dvc.lock while DVC runs it, if its outs are lost.

    DVC's new entry gets the place of the former one. If the block fails, the former entry is back:
    DVC's remote may have the outs. After a kill, `remember` brings it back.
    """
    lock = root / dag.LOCK
    parts = _parts(lock, stage) if _is_lost(root, stage, env) else None
    if parts is None:
        yield
        return
    head, former, tail = parts
    disk.write_json(root / KEPT, {"stage": stage, "entry": former})
    _write(lock, head + tail)
    try:
        yield
    except BaseException:
        _write(lock, head + former + tail)
        raise
    else:
        now = _parts(lock, stage)
        if now is not None and now[0] + now[2] == head + tail:  # DVC's entry is at the end
            _write(lock, head + now[1] + tail)
    finally:
        (root / KEPT).unlink(missing_ok=True)


def remember(root: Path) -> None:
    """Write an entry that a killed run has left out of dvc.lock, unless DVC has a new one.

    The caller holds the lock of the checkout.
    """
    lock = root / dag.LOCK
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = disk.read_json(root / KEPT)
        if kept["stage"] not in dag.locked(root):
            _write(lock, lock.read_text(encoding="utf-8") + str(kept["entry"]))
    (root / KEPT).unlink(missing_ok=True)


def _is_lost(root: Path, stage: str, env: dvc.Environment) -> bool:
    """True if dvc.lock has an entry whose outs are neither in the checkout nor in the cache."""
    entry = dag.locked(root).get(stage)
    if entry is None or dag.is_as_recorded(root, stage):
        return False
    cache, options = Cache(root, env), dag.options(dag.stages(root)[stage])
    recorded = (out for out in entry.get("outs", ()) if options.get(out["path"], {}).get("cache"))
    return not all(_is_in(cache, out["md5"]) for out in recorded)


def _is_in(cache: Cache, md5: str) -> bool:
    if not md5.endswith(dag.FOLDER):
        return cache.path(md5).is_file()
    files = cache.files(md5)
    return files is not None and all(cache.path(each).is_file() for each in files.values())


def _parts(lock: Path, stage: str) -> tuple[str, str, str] | None:
    """Return the text of dvc.lock before, of, and after the entry of a stage.

    None if there is no such entry, or no other, or if somebody has edited the file.
    """
    text = lock.read_text(encoding="utf-8")
    entry = re.search(rf"^  {re.escape(stage)}:\n(?: {{4}}.*\n)*", text, flags=re.MULTILINE)
    if entry is None:
        return None
    head, tail = text[: entry.start()], text[entry.end() :]
    others = {name: each for name, each in dag.stages_in(text).items() if name != stage}
    try:
        if not others or dag.stages_in(head + tail) != others:
            return None
    except Exception:  # a YAML reader raises errors of many kinds
        return None
    return head, entry[0], tail


def _write(lock: Path, text: str) -> None:
    with disk.replacing(lock) as temporary:
        temporary.write_text(text, encoding="utf-8")
