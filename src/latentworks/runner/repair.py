"""Repair of the files of DVC that a killed process left damaged."""

import itertools
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from latentworks.errors import Busy, LatentworksError
from latentworks.integrity.report import Fault, Verified
from latentworks.repository import dag
from latentworks.runner import lost_outs
from latentworks.system.state import STATE

RWLOCK = Path(".dvc/tmp/rwlock")
TORN = STATE / "torn"  # damaged files of DVC, moved here
CONFLICT = b"<<<<<<<"  # git's mark; the user has to resolve the conflict


def repair_checkout(root: Path) -> list[str]:
    """Move DVC's rwlock and dvc.lock away if a killed process left them damaged.

    An entry of dvc.lock that a killed process left out is back. Return a message for each file
    moved. The caller holds the lock of the checkout, so that no
    process still writes these files. Raises LatentworksError if one of them is a folder.
    """
    checks = [(RWLOCK, _is_rwlock), (Path(dag.LOCK), _is_complete_lock)]
    messages = []
    for path, is_valid in checks:
        content = _content(root / path)
        if content is None or CONFLICT in content or is_valid(content):
            continue
        kept = _move_away(root, root / path)
        messages.append(f"{path} was left damaged by a killed process; moved to {kept}")
    lost_outs.remember(root)
    return messages


def missing_lock(root: Path) -> Verified | None:
    """Return a fault if a damaged dvc.lock was moved away, and no other was written since."""
    torn = root / TORN / dag.LOCK
    if torn.exists() and (root / dag.LOCK).exists():
        torn.rename(_unused(torn))  # a later loss of dvc.lock has another cause
    if not torn.exists():
        return None
    fault = Fault(
        "checkout",
        dag.LOCK,
        dag.LOCK,
        wrong="cut off, or empty",
        kept=str(torn.relative_to(root)),
        cure=f"`git checkout {dag.LOCK}` restores the committed one; `make repro` makes a new one.",
    )
    return Verified(faults=(fault,))


def _move_away(root: Path, path: Path) -> Path:
    """Move a damaged file of DVC to TORN, beside earlier ones; return its new path."""
    target = root / TORN / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(_unused(target))
    shutil.move(path, target)  # DVC's cache may be on another disk
    return target.relative_to(root)


def _unused(path: Path) -> Path:
    """Return a path that does not exist: `path` with a number at its end."""
    return next(
        each
        for number in itertools.count(1)
        if not (each := path.with_name(f"{path.name}.{number}")).exists()
    )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise LatentworksError(
            f"{path} is a folder. Expected a file that DVC writes. Remove the folder."
        ) from None


def _is_rwlock(content: bytes) -> bool:
    """True if the rwlock is valid JSON and each process in it is a running DVC.

    DVC refuses all commands while the file is empty. If the process has ended and its number now
    belongs to another program, DVC waits for that program.
    """
    try:
        entries = _entries(content)
    except (ValueError, TypeError, AttributeError):
        return False
    return all(map(_is_running_dvc, entries))


def _entries(content: bytes) -> list[Any]:
    rwlock = json.loads(content)
    readers = [entry for entries in rwlock.get("read", {}).values() for entry in entries]
    return [*rwlock.get("write", {}).values(), *readers]


def _is_running_dvc(entry: Any) -> bool:
    """True if the process of an rwlock entry is the DVC command that wrote the entry."""
    try:
        words = psutil.Process(int(entry["pid"])).cmdline()
        return str(entry["cmd"]) in " ".join(words) and "dvc" in map(os.path.basename, words)
    except (psutil.Error, ValueError, TypeError, KeyError):
        return False


def refuse_beside_dvc(root: Path) -> None:
    """Raise Busy if a DVC command that the user started is writing in this checkout."""
    try:
        writers = json.loads(_content(root / RWLOCK) or b"{}").get("write", {}).values()
    except (ValueError, AttributeError):
        return
    for entry in filter(_is_running_dvc, writers):
        raise Busy(
            f"Cannot verify: process {entry['pid']}, `{entry['cmd']}`, is writing in this "
            "checkout. Wait for it, or end it."
        )


def _is_complete_lock(content: bytes) -> bool:
    """True if a dvc.lock is complete, and not cut off by a kill."""
    try:
        stages = dag.stages_in(content.decode())
    except Exception:  # half a file raises errors of many kinds in a YAML reader
        return False
    complete = all(dag.is_complete(stage) and stage.get("outs") for stage in stages.values())
    return bool(stages) and content.endswith(b"\n") and complete


def repair_run_cache(root: Path, cache: Path) -> None:
    """Move incomplete entries of DVC's run cache away; DVC would fail on them."""
    for entry in filter(Path.is_file, (cache / "runs").glob("*/*/*")):
        content = entry.read_bytes()
        try:
            stage = YAML(typ="safe").load(content)
        except YAMLError:
            stage = {}
        if not (content.endswith(b"\n") and dag.is_complete(stage) and stage.get("outs")):
            _move_away(root, entry)
    for folder in (cache / "runs").glob("*/*"):
        with suppress(OSError):  # the folder has entries
            folder.rmdir()  # DVC fails on an empty one
