"""A checkout made ready for DVC, and its stages run: what a kill has left is mended first."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from latentworks.errors import LatentworksError
from latentworks.repository import dag, dvc, timings
from latentworks.runner import repair
from latentworks.system.state import STATE

MARGIN = 100_000_000  # bytes of disk that a run leaves alone
CGROUP = Path("/sys/fs/cgroup")  # what a container may use


def make_ready(root: Path, stages: list[str], env: dvc.Environment = None) -> None:
    """Make DVC's cache fit for these stages.

    Raises LatentworksError where they cannot be run for want of disk or memory.

    It is judged by what they took the last time, as far as that is known.
    """
    cache = Path(dvc.run(root, "cache", "dir", env=env).strip())
    written = dag.stages(root)
    parents = [(root / out).parent for stage in stages for out in dag.outs_of(written[stage])]
    for folder in (root, root / STATE, root / ".dvc", cache, *parents):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise LatentworksError(f"{folder} cannot be written to. Nothing was started.")
    repair.repair_run_cache(root, cache)
    _require_disk(root, cache, stages)
    known = [record for stage in stages if (record := timings.read(stage, root))]
    peak = max((record["peak_memory_mb"] for record in known), default=0) * 1e6
    if peak > available_memory():
        raise LatentworksError(
            f"there is too little memory. Expected {peak / 1e6:,.0f} MB, which these stages took "
            f"the last time. Received: {available_memory() / 1e6:,.0f} MB. Nothing was started."
        )


def _require_disk(root: Path, cache: Path, stages: list[str]) -> None:
    """Each out is there twice: in the checkout and in DVC's cache."""
    locked = dag.locked(root)
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
