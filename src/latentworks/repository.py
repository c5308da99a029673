"""The checkout: where it is, what git says of it, what DVC is to run."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from latentworks.errors import LatentworksError

DAG = "dvc.yaml"
LOCK = "dvc.lock"
# Kept with every run, so an edit in them does not make the code another one.
NOT_CODE = ("params.yaml", LOCK, "reports")


def root(start: Path | None = None) -> Path:
    """The nearest folder with a dvc.yaml, from `start` (the working directory) upwards.

    Elsewhere it is the checkout that this module stands in, so that commands work anywhere.
    """
    start = (start or Path.cwd()).resolve()
    own = Path(__file__).resolve().parents[2]
    for folder in (start, *start.parents, own):
        if (folder / DAG).is_file():
            return folder
    raise LatentworksError(f"no {DAG} in {start} or above it. Change to a checkout of the project.")


def stages(folder: Path) -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml by name, as written there."""
    dag = YAML(typ="safe", pure=True).load((folder / DAG).read_text(encoding="utf-8"))
    return dict(dag["stages"])


@dataclass(frozen=True)
class Record:
    """What dvc.lock knows of a stage."""

    outs: list[Path]  # in the order of dvc.yaml, metrics last
    params: dict[str, Any]  # the sections of params.yaml that it was run with


def recorded(folder: Path) -> dict[str, Record]:
    """The stages whose outs are there and were made from the outs that other stages have now.

    After a repro that was interrupted, later stages still have the outs of an earlier result.
    """
    if not (folder / LOCK).is_file():
        return {}
    lock = YAML(typ="safe", pure=True).load((folder / LOCK).read_text(encoding="utf-8"))
    locked = dict(lock.get("stages", {}))
    made = {out["path"]: out["md5"] for stage in locked.values() for out in stage.get("outs", ())}
    current = {}
    for name, written in stages(folder).items():
        stage = locked.get(name, {"deps": ()})
        outs = [folder / out for out in paths([*written["outs"], *written.get("metrics", ())])]
        fresh = all(dep["md5"] == made.get(dep["path"], dep["md5"]) for dep in stage["deps"])
        if name in locked and fresh and all(out.exists() for out in outs):
            current[name] = Record(outs, stage.get("params", {}).get("params.yaml", {}))
    return current


def paths(entries: Iterable[Any]) -> list[str]:
    """`path` or `{path: options}`, as dvc.yaml allows both."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@dataclass(frozen=True)
class Code:
    """Which code was run."""

    commit: str  # empty outside git
    dirty: bool  # whether a tracked file differed, other than those in NOT_CODE


def code(folder: Path) -> Code:
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return Code("", True)
    others = [f":(exclude){name}" for name in NOT_CODE]
    return Code(commit, bool(_git(folder, "status", "--porcelain", "-uno", "--", ".", *others)))


def committed(folder: Path, name: str) -> str | None:
    """The text of a file in the last commit; None where it is not in git."""
    call = ["git", "show", f"HEAD:./{name}"]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def _git(folder: Path, *arguments: str) -> str:
    try:
        call = ["git", *arguments]
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
