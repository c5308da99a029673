"""Checks before the stages run: write access, disk space and memory."""

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

MARGIN = 100_000_000  # bytes of disk space that stay free
CGROUP = Path("/sys/fs/cgroup")  # the limits of a container


def make_ready(root: Path, stages: list[str], env: dvc.Environment = None) -> None:
    """Repair DVC's run cache, and check that these stages have disk space and memory.

    The sizes in dvc.lock and the memory in the timings of each stage's last run say how much they
    need. Raises LatentworksError if there is less, or if a folder cannot be written to.
    """
    cache = Path(dvc.run(root, "cache", "dir", env=env).strip())
    written = dag.stages(root)
    parents = [(root / out).parent for stage in stages for out in dag.outs_of(written[stage])]
    for folder in (root, root / STATE, root / ".dvc", cache, *parents):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise LatentworksError(
                f"{folder} cannot be written to. Nothing was started. Make it writable."
            )
    repair.repair_run_cache(root, cache)
    _require_disk(root, cache, stages)
    known = [record for stage in stages if (record := timings.read(stage, root))]
    peak = max((record["peak_memory_mb"] for record in known), default=0) * 1e6
    if peak > available_memory():
        raise LatentworksError(
            f"Too little memory. Expected {peak / 1e6:,.0f} MB, the peak of these stages in their "
            f"last run. Received: {available_memory() / 1e6:,.0f} MB. Nothing was started: end "
            "other programs, then run the same command again."
        )


def _require_disk(root: Path, cache: Path, stages: list[str]) -> None:
    """Raise LatentworksError if the outs do not fit: each is in the checkout and in DVC's cache."""
    locked = dag.locked(root)
    outs = [out for stage in stages for out in locked.get(stage, {}).get("outs", ())]
    size = sum(out.get("size", 0) for out in outs)
    needed: dict[int, int] = {}
    for folder in (root, cache):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        device = existing.stat().st_dev
        needed[device] = needed.get(device, MARGIN) + size
        free = shutil.disk_usage(existing).free
        if free < needed[device]:
            raise LatentworksError(
                f"Too little disk space in {existing}. Expected {needed[device] / 1e6:,.0f} MB for "
                f"the outs. Received: {free / 1e6:,.0f} MB. Nothing was started: free some space, "
                "then run the same command again."
            )


def available_memory() -> float:
    """Return the bytes of memory and swap that are free, within the limit of a container."""
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
    return float(limit) - float(used)  # without the page cache, which the kernel frees on demand
