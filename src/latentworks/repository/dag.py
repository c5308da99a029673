"""The checkout: where it is, what git says of it, what DVC is to run."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from latentworks.errors import LatentworksError

DAG = "dvc.yaml"
LOCK = "dvc.lock"
MAX_HASHED_BYTES = 500_000_000  # a second; larger outs are taken at their word


def root(start: Path | None = None) -> Path:
    """The nearest folder with a dvc.yaml, from `start` (the working directory) upwards.

    Elsewhere it is the checkout that this module stands in, so that commands work anywhere.
    """
    start = (start or Path.cwd()).resolve()
    own = Path(__file__).resolve().parents[3]
    for folder in (start, *start.parents, own):
        if (folder / DAG).is_file():
            return folder
    raise LatentworksError(f"no {DAG} in {start} or above it. Change to a checkout of the project.")


def stages(folder: Path) -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml by name, as written there."""
    return {name: dict(stage) for name, stage in _read_stages(folder / DAG).items()}


def stages_in(text: str) -> dict[str, Any]:
    """The stages of a dvc.yaml or dvc.lock. Raises what damage can make a YAML reader raise."""
    return dict(YAML(typ="safe", pure=True).load(text).get("stages", {}))


def is_complete(stage: Any) -> bool:
    """Whether an entry of dvc.lock has a command, and every file that it names a hash."""
    if not isinstance(stage, dict) or not isinstance(stage.get("cmd"), str):
        return False
    deps, outs = stage.get("deps") or (), stage.get("outs") or ()
    if not isinstance(deps, list | tuple) or not isinstance(outs, list | tuple):
        return False
    return all(
        isinstance(file, dict) and {"path", "md5", "size"} <= set(file) for file in (*deps, *outs)
    )


def _read_stages(path: Path) -> dict[str, Any]:
    try:
        return stages_in(path.read_text(encoding="utf-8"))
    except Exception as error:  # what a damaged file, or one with conflict marks, can raise
        fault = type(error).__name__
        raise LatentworksError(
            f"{path.name} cannot be read ({fault}). Expected stages, as DVC writes them. "
            f"Look at it, or take the committed one: `git checkout {path.name}`."
        ) from None


def is_made(folder: Path, path: Path) -> bool:
    """Whether a path of the project is, or lies in, what a stage writes."""
    outs = (out for stage in stages(folder).values() for out in paths(stage["outs"]))
    return any(Path(os.path.normpath(path)).is_relative_to(out) for out in outs)


def locked_md5(folder: Path, out: Path) -> str | None:
    """The MD5 that dvc.lock has for an out; None where it has none."""
    outs = [out for stage in locked(folder).values() for out in stage.get("outs", ())]
    return next((entry["md5"] for entry in outs if Path(entry["path"]) == out), None)


@dataclass(frozen=True)
class Record:
    """What dvc.lock knows of a stage."""

    outs: list[Path]  # in the order of dvc.yaml, metrics last
    params: dict[str, Any]  # the sections of params.yaml that it was run with


def locked(folder: Path) -> dict[str, Any]:
    """The stages of dvc.lock by name, as written there; none where there is no such file."""
    if not (folder / LOCK).exists():
        return {}
    stages = _read_stages(folder / LOCK)
    if not all(map(is_complete, stages.values())):
        raise LatentworksError(f"{LOCK} is not whole. `make repro` mends what a kill has left.")
    return stages


def recorded(folder: Path) -> dict[str, Record]:
    """The stages whose outs are there, as locked, and made from what other stages have now.

    After a repro that was interrupted, later stages still have the outs of an earlier result;
    after `git checkout` without `dvc checkout`, all of them have.
    """
    locks = locked(folder)
    made = {out["path"]: out for stage in locks.values() for out in stage.get("outs", ())}
    current = {}
    for name, written in stages(folder).items():
        stage = locks.get(name, {})
        names = outs_of(written)
        fresh = all(
            dep.get("md5") == made.get(dep["path"], dep).get("md5") for dep in stage.get("deps", ())
        )
        if stage and fresh and all(_is_as_locked(folder / out, made.get(out, {})) for out in names):
            outs = [folder / out for out in names]
            current[name] = Record(outs, stage.get("params", {}).get("params.yaml", {}))
    return current


def is_as_recorded(folder: Path, stage: str) -> bool:
    """Whether all outs of a stage are there, as dvc.lock has them."""
    made = {out["path"]: out for out in locked(folder).get(stage, {}).get("outs", ())}
    names = outs_of(stages(folder)[stage])
    return all(_is_as_locked(folder / name, made.get(name, {})) for name in names)


def _is_as_locked(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a file or folder is the one in dvc.lock. Folders are hashed as DVC does."""
    if not path.exists():
        return False
    if entry.get("size", 0) > MAX_HASHED_BYTES:
        return True
    return md5_of(path) == str(entry.get("md5"))


def md5_of(path: Path) -> str:
    """The MD5 of a file or folder, as DVC writes it."""
    if not path.is_dir():
        return _md5(path)
    found = (file for file in path.rglob("*") if "__pycache__" not in file.parts)  # .dvcignore
    files = sorted(file for file in found if file.is_file())
    entries = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    entries.sort(key=lambda entry: entry["relpath"].split("/"))
    text = json.dumps(entries, sort_keys=True)
    return f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}.dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def outs_of(stage: dict[str, Any]) -> list[str]:
    """All that a stage of dvc.yaml writes, metrics last."""
    return paths([*stage["outs"], *stage.get("metrics", ())])


def paths(entries: Iterable[Any]) -> list[str]:
    """`path` or `{path: options}`, as dvc.yaml allows both."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def options(stage: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """What dvc.yaml says of each out of a stage: `cache`, `persist`."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, ())]
    written: dict[str, Any] = {}
    for entry in entries:
        written |= {entry: {}} if isinstance(entry, str) else entry
    return {
        name: {"cache": bool(of.get("cache", True)), "persist": bool(of.get("persist", False))}
        for name, of in written.items()
    }
