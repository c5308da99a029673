"""Timings: seconds and memory of a stage on this machine, in files apart from the outs."""

import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Literal, TypedDict

import psutil

from latentworks.repository import dag, git
from latentworks.system import disk, memory
from latentworks.system.state import STATE

FIGURES: tuple[Literal["seconds", "peak_memory_mb"], ...] = ("seconds", "peak_memory_mb")


class Timings(TypedDict):
    """The record of the last run of a stage."""

    stage: str
    result: str  # a digest of the outs of the stage
    seconds: float
    peak_memory_mb: int
    code: dict[str, object]  # a `git.Code`
    machine: dict[str, object]


def write(stage: str, result: str, code: git.Code | None = None) -> None:
    """Record the time and memory of this process and its children, which ran `stage`.

    `code` is the state of git when the stage began; by default, the state now.
    """
    record: Timings = {
        "stage": stage,
        "result": result,
        "seconds": round(time.time() - psutil.Process().create_time(), 1),
        "peak_memory_mb": round(memory.peak() / 1e6),
        "code": asdict(code or git.code(dag.root())),
        "machine": machine(),
    }
    disk.write_json(_path(stage), record)


def read(stage: str, folder: Path = Path()) -> Timings | None:
    """Read the timings of the last run of `stage` in the checkout `folder`; None without any."""
    try:
        record: Timings = disk.read_json(folder / _path(stage))
    except (OSError, ValueError):  # the stage never ran here, or its file is damaged
        return None
    return record if isinstance(record, dict) and set(record) >= Timings.__required_keys__ else None


def known(root: Path) -> list[Timings]:
    """The timings of all stages that have run in a checkout, in the order of dvc.yaml."""
    return [record for stage in dag.stages(root) if (record := read(stage, root))]


def machine() -> dict[str, object]:
    return {
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def _path(stage: str) -> Path:
    return STATE / "records" / f"{stage}.json"
