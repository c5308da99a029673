"""A checkout made ready for DVC, and its stages run: what a kill has left is mended first."""

import json
import os
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from latentworks.errors import Busy, LatentworksError
from latentworks.repository import dag
from latentworks.system.state import STATE

RWLOCK = Path(".dvc/tmp/rwlock")
TORN = STATE / "torn"  # what was moved out of DVC's way
CONFLICT = b"<<<<<<<"  # git's: a person has to choose


def repair_checkout(root: Path) -> list[str]:
    """Move what a killed process left half written out of DVC's way; say what that was.

    To be called by the holder of the checkout's lock: nobody is still at it.
    """
    damaged = [(RWLOCK, _is_rwlock), (Path(dag.LOCK), _is_whole)]
    moved = []
    for path, whole in damaged:
        content = _content(root / path)
        if content is None or CONFLICT in content or whole(content):
            continue
        (root / TORN).mkdir(parents=True, exist_ok=True)
        (root / path).replace(root / TORN / path.name)
        moved.append(f"{path} was cut off in the middle; it is in {TORN} now")
    return moved


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise LatentworksError(
            f"{path} is a folder. Expected a file of DVC's: remove it."
        ) from None


def _is_rwlock(content: bytes) -> bool:
    """Whether DVC can work with its note of who reads and writes what.

    With an empty one it refuses everything, and where the number of a dead process has been given
    to another program, it waits for that.
    """
    try:
        entries = _entries(content)
    except (ValueError, TypeError, AttributeError):
        return False
    return all(map(_is_at_work, entries))


def _entries(content: bytes) -> list[Any]:
    noted = json.loads(content)
    readers = [entry for some in noted.get("read", {}).values() for entry in some]
    return [*noted.get("write", {}).values(), *readers]


def _is_at_work(entry: Any) -> bool:
    """Whether the process that an entry names is the DVC that made it."""
    try:
        words = psutil.Process(int(entry["pid"])).cmdline()
        return str(entry["cmd"]) in " ".join(words) and "dvc" in map(os.path.basename, words)
    except (psutil.Error, ValueError, TypeError, KeyError):
        return False


def refuse_beside_dvc(root: Path) -> None:
    """Raises Busy where a DVC that a person started writes in this checkout."""
    try:
        writers = json.loads(_content(root / RWLOCK) or b"{}").get("write", {}).values()
    except (ValueError, AttributeError):
        return
    for entry in filter(_is_at_work, writers):
        raise Busy(f"cannot do this now; at it is process {entry['pid']}, `{entry['cmd']}`.")


def _is_whole(content: bytes) -> bool:
    """Whether a dvc.lock is all that was to be written."""
    try:
        stages = dag.stages_in(content.decode())
    except Exception:  # whatever half a file can raise in a YAML reader
        return False
    complete = all(dag.is_complete(stage) and stage.get("outs") for stage in stages.values())
    return bool(stages) and content.endswith(b"\n") and complete


def repair_run_cache(root: Path, cache: Path) -> None:
    """Move away what DVC did not write whole of its notes on earlier runs: it fails on them."""
    for note in (cache / "runs").glob("*/*/*"):
        content = note.read_bytes() if note.is_file() else b""
        try:
            whole = content.endswith(b"\n") and dag.is_complete(YAML(typ="safe").load(content))
        except YAMLError:
            whole = False
        if not whole and note.is_file():
            (root / TORN).mkdir(parents=True, exist_ok=True)
            note.replace(root / TORN / note.name)
