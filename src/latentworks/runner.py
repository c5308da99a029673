"""A checkout made ready for DVC, and its stages run: what a kill has left is mended first."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from latentworks import disk, plan, records, repository, verification
from latentworks.errors import Busy, LatentworksError

RWLOCK = Path(".dvc/tmp/rwlock")
KEPT = records.STATE / "kept"  # outputs of before, while their stage runs
TORN = records.STATE / "torn"  # what was moved out of DVC's way
CONFLICT = b"<<<<<<<"  # git's: a person has to choose
MARGIN = 100_000_000  # bytes of disk that a run leaves alone
CGROUP = Path("/sys/fs/cgroup")  # what a container may use


# --- what a kill has left ------------------------------------------------------------------------


def mend(root: Path) -> list[str]:
    """Move what a killed process left half written out of DVC's way; say what that was.

    To be called by the holder of the checkout's lock: nobody is still at it.
    """
    damaged = [(RWLOCK, _is_rwlock), (Path(repository.LOCK), _is_whole)]
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
        stages = repository.stages_in(content.decode())
    except Exception:  # whatever half a file can raise in a YAML reader
        return False
    complete = all(repository.is_complete(stage) and stage.get("outs") for stage in stages.values())
    return bool(stages) and content.endswith(b"\n") and complete


def _mend_run_cache(root: Path, cache: Path) -> None:
    """Move away what DVC did not write whole of its notes on earlier runs: it fails on them."""
    for note in (cache / "runs").glob("*/*/*"):
        content = note.read_bytes() if note.is_file() else b""
        try:
            whole = content.endswith(b"\n") and repository.is_complete(
                YAML(typ="safe").load(content)
            )
        except YAMLError:
            whole = False
        if not whole and note.is_file():
            (root / TORN).mkdir(parents=True, exist_ok=True)
            note.replace(root / TORN / note.name)


# --- what is needed ------------------------------------------------------------------------------


def make_ready(root: Path, stages: list[str], env: repository.Environment = None) -> None:
    """Make DVC's cache fit for these stages.

    Raises LatentworksError where they cannot be run for want of disk or memory.

    It is judged by what they took the last time, as far as that is known.
    """
    cache = Path(repository.dvc(root, "cache", "dir", env=env).strip())
    written = repository.stages(root)
    parents = [
        (root / out).parent for stage in stages for out in repository.outs_of(written[stage])
    ]
    for folder in (root, root / records.STATE, root / ".dvc", cache, *parents):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise LatentworksError(f"{folder} cannot be written to. Nothing was started.")
    _mend_run_cache(root, cache)
    _require_disk(root, cache, stages)
    known = [record for stage in stages if (record := records.read(stage, root))]
    peak = max((record["peak_memory_mb"] for record in known), default=0) * 1e6
    if peak > available_memory():
        raise LatentworksError(
            f"there is too little memory. Expected {peak / 1e6:,.0f} MB, which these stages took "
            f"the last time. Received: {available_memory() / 1e6:,.0f} MB. Nothing was started."
        )


def _require_disk(root: Path, cache: Path, stages: list[str]) -> None:
    """Each out is there twice: in the checkout and in DVC's cache."""
    locked = repository.locked(root)
    outs = [out for stage in stages for out in locked.get(stage, {}).get("outs", ())]
    size = sum(out.get("size", 0) for out in outs)
    needed: dict[int, int] = {}
    for folder in (root, cache):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        device = there.stat().st_dev
        needed[device] = needed.get(device, MARGIN) + size
        free = shutil.disk_usage(there).free
        if free < needed[device]:
            raise LatentworksError(
                f"the disk of {there} has too little room. Expected {needed[device] / 1e6:,.0f} MB "
                f"for what is to be made. Received: {free / 1e6:,.0f} MB. Nothing was started."
            )


def available_memory() -> float:
    """Bytes that a process could still get, in a container with a limit, too."""
    free = float(psutil.virtual_memory().available + psutil.swap_memory().free)
    with suppress(OSError, ValueError, IndexError):
        (own,) = re.findall(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        for group in (CGROUP / own, *(CGROUP / own).parents):
            if group.is_relative_to(CGROUP) and (group / "memory.max").is_file():
                free = min(free, _left_in(group, free))
    return free


def _left_in(group: Path, free: float) -> float:
    limit = (group / "memory.max").read_text().strip()
    if limit == "max":
        return free
    (used,) = re.findall(r"^anon (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    return float(limit) - float(used)  # files in memory make room when it is needed


# --- the stages ----------------------------------------------------------------------------------


def reproduce(root: Path, report: Callable[[str], None]) -> None:
    """Run the stages that are out of date, on the terminal of this process.

    The caller holds the lock of the checkout. Raises LatentworksError where one cannot be run or
    fails; its outputs are then those of before.
    """
    steps = plan.plan(root)
    if not steps:
        require_whole(root, repository.stages(root), report)
        report("everything is up to date")
        return
    stages = [step.stage for step in steps]
    make_ready(root, stages)
    for step in steps:
        require_whole(root, step.needs, report)
        with outputs_kept(root, step.stage):
            repository.reproduce(root, step.stage, report, on_terminal=True)
    require_whole(root, stages, report)


@contextmanager
def outputs_kept(root: Path, stage: str, env: repository.Environment = None) -> Iterator[None]:
    """Where the stage fails, its outputs are those of before, and the error says so.

    DVC removes them before the stage runs. Other names for the same files take no room, so that
    they can be put back when the disk is full.
    """
    written = repository.stages(root)[stage]
    persisting = {name for name, of in repository.options(written).items() if of["persist"]}
    outs = [out for out in repository.outs_of(written) if out not in persisting]
    for out in outs:
        with suppress(OSError):  # some file systems have no second names
            _keep(root / out, root / KEPT / out)
    there = [out for out in outs if (root / out).exists() or (root / KEPT / out).exists()]
    try:
        yield
    except BaseException as error:
        for out in outs:
            with suppress(OSError):
                _put_back(root / KEPT / out, root / out)
        if not isinstance(error, repository.StageError):  # it was told to end
            raise
        if not all((root / out).exists() for out in there):
            with suppress(LatentworksError):
                repository.dvc(root, "checkout", "--quiet", stage, env=env)
        lost = [out for out in there if not (root / out).exists()]
        state = f"; bring back {', '.join(lost)} by `dvc checkout`" if lost else ""
        raise repository.StageError(
            f"{str(error).rstrip('.')}, and the lines above say why (-9 or 137 is most often too "
            f"little memory); its outputs are those of before{state}. When the cause is gone, the "
            "same command goes on from here."
        ) from None
    for out in outs:
        disk.remove(root / KEPT / out)


def _keep(path: Path, kept: Path) -> None:
    if not path.exists():
        return  # a run that was killed has kept it
    disk.remove(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, kept, copy_function=os.link)
    else:
        os.link(path, kept)


def _put_back(kept: Path, path: Path) -> None:
    if kept.exists():
        disk.remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept.rename(path)


def require_whole(
    root: Path,
    stages: Iterable[str],
    report: Callable[[str], None],
    env: repository.Environment = None,
) -> None:
    """Mend what DVC has taken from its cache for these stages, where that was damaged.

    It does not look, and what the next stage makes of it would be on record as made from what was
    whole. Raises Damaged where it cannot be mended.
    """
    for stage in stages:
        if not repository.is_as_recorded(root, stage):
            verified = verification.verify(root, report, env, stage=stage)
            for line in verified.lines():
                report(line)
            verified.demand_whole()
