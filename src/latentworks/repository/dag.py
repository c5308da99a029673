"""The stages of dvc.yaml, and what dvc.lock records of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeGuard

from ruamel.yaml import YAML

from latentworks.errors import LatentworksError

if TYPE_CHECKING:
    from latentworks.params import RawSections

DAG = "dvc.yaml"
LOCK = "dvc.lock"
FOLDER = ".dir"  # suffix of the MD5 of a folder, which is that of a list of its files
MAX_HASHED_BYTES = 500_000_000  # a second of hashing; a larger out is assumed to match dvc.lock


Entry = str | dict[str, dict[str, object]]  # a path, or {path: options}


class Stage(TypedDict, total=False):
    """A stage of dvc.yaml."""

    cmd: str
    params: list[str | dict[str, list[str]]]  # sections, or the keys of another file
    deps: list[Entry]
    outs: list[Entry]
    metrics: list[Entry]
    plots: list[Entry]


class File(TypedDict, total=False):
    """A file or folder in dvc.lock."""

    path: str
    md5: str
    size: int
    nfiles: int  # of a folder


class Locked(TypedDict, total=False):
    """A stage of dvc.lock."""

    cmd: str
    deps: list[File]
    params: dict[str, RawSections]  # by file
    outs: list[File]


def root(start: Path | None = None) -> Path:
    """Return the nearest folder with a dvc.yaml, from `start` (the working directory) upwards.

    Where none has one, return the checkout that contains this module, so that commands work in any
    folder.
    """
    start = (start or Path.cwd()).resolve()
    own = Path(__file__).resolve().parents[3]
    for folder in (start, *start.parents, own):
        if (folder / DAG).is_file():
            return folder
    raise LatentworksError(f"No {DAG} in {start} or above it. Change to a checkout of the project.")


def stages(folder: Path) -> dict[str, Stage]:
    """Return the stages of dvc.yaml by name, in the order of the file."""
    return _read_stages(folder / DAG)


def stages_in(text: str) -> dict[str, Any]:
    """Parse the stages of a dvc.yaml or dvc.lock. Raises any error of the YAML reader."""
    return dict(YAML(typ="safe").load(text).get("stages", {}))


def is_complete(stage: object) -> TypeGuard[Locked]:
    """True if an entry of dvc.lock has a command, and a path, MD5 and size for every file."""
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
    except Exception as error:  # damage and conflict marks raise errors of many kinds
        fault = type(error).__name__
        raise LatentworksError(
            f"{path.name} cannot be read ({fault}). Expected stages, as DVC writes them. "
            f"Correct the file, or restore the committed one: `git checkout {path.name}`."
        ) from None


def by_name(outs: Iterable[Path]) -> dict[str, Path]:
    """Return outs by name: the last part of the path, without the ending.

    `models/sampler` is `sampler`.
    """
    return {out.stem: out for out in outs}


def is_made(folder: Path, path: Path) -> bool:
    """True if a path of the project is an out of a stage, or lies in one."""
    outs = (out for stage in stages(folder).values() for out in outs_of(stage))
    return any(Path(os.path.normpath(path)).is_relative_to(out) for out in outs)


def locked_md5(folder: Path, out: Path) -> str | None:
    """Return the MD5 that dvc.lock records for an out; None if it records none."""
    outs = [out for stage in locked(folder).values() for out in stage.get("outs", ())]
    return next((entry["md5"] for entry in outs if Path(entry["path"]) == out), None)


@dataclass(frozen=True)
class Record:
    """A stage as dvc.lock records it."""

    outs: dict[str, Path]  # by name, in the order of dvc.yaml, metrics last
    params: RawSections  # the sections of params.yaml with which the stage ran


def locked(folder: Path) -> dict[str, Locked]:
    """Return the stages of dvc.lock by name; an empty dict if the file does not exist.

    Raises LatentworksError if an entry is incomplete.
    """
    if not (folder / LOCK).exists():
        return {}
    stages: dict[str, Locked] = _read_stages(folder / LOCK)
    if not all(map(is_complete, stages.values())):
        raise LatentworksError(f"{LOCK} is incomplete. Run `make repro` to repair it.")
    return stages


def recorded(folder: Path) -> dict[str, Record]:
    """Return the stages whose outs match dvc.lock and were made from the recorded outs of others.

    The others are left out: after an interrupted repro, later stages still have the outs of an
    earlier result; after `git checkout` without `dvc checkout`, all stages have.
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
            outs = by_name(folder / out for out in names)
            current[name] = Record(outs, stage.get("params", {}).get("params.yaml", {}))
    return current


def is_as_recorded(folder: Path, stage: str) -> bool:
    """True if all outs of a stage exist and match dvc.lock."""
    made = {out["path"]: out for out in locked(folder).get(stage, {}).get("outs", ())}
    names = outs_of(stages(folder)[stage])
    return all(_is_as_locked(folder / name, made.get(name, {})) for name in names)


def _is_as_locked(path: Path, entry: File) -> bool:
    """True if a file or folder exists and has the MD5 of its entry in dvc.lock."""
    if not path.exists():
        return False
    if entry.get("size", 0) > MAX_HASHED_BYTES:
        return True
    return md5_of(path) == str(entry.get("md5"))


def md5_of(path: Path) -> str:
    """Return the MD5 of a file or folder, computed and written as DVC does."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    entries = (entry for entry in path.rglob("*") if "__pycache__" not in entry.parts)  # .dvcignore
    files = [entry for entry in entries if entry.is_file()]
    names = {file.relative_to(path).as_posix(): md5_of(file) for file in files}
    return md5(listing(names)) + FOLDER


def md5(content: bytes) -> str:
    """Return the MD5 of bytes, as DVC writes it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def listing(files: Mapping[str, str]) -> bytes:
    """Return the list of a folder's files as DVC writes it; `files` has their MD5s by path."""
    names = sorted(files, key=lambda name: name.split("/"))
    entries = [{"md5": files[name], "relpath": name} for name in names]
    return json.dumps(entries, sort_keys=True).encode()


def outs_of(stage: Stage) -> list[str]:
    """Return the paths of all outs of a stage of dvc.yaml, metrics last."""
    return paths([*stage.get("outs", ()), *stage.get("metrics", ())])


def metrics(folder: Path) -> list[str]:
    """Return the names of the outs that dvc.yaml lists as metrics: `reports/x.json` is `x`."""
    found = (path for stage in stages(folder).values() for path in paths(stage.get("metrics", ())))
    return [Path(path).stem for path in found]


def files_of(stage: Stage) -> list[str]:
    """Return the deps and outs of a stage of dvc.yaml, without its code."""
    deps = paths(stage.get("deps", ()))
    return [path for path in (*deps, *outs_of(stage)) if not path.startswith("src/")]


def paths(entries: Iterable[Entry]) -> list[str]:
    """Return the paths of entries that are `path` or `{path: options}`; dvc.yaml allows both."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def options(stage: Stage) -> dict[str, dict[str, bool]]:
    """Return the options `cache` and `persist` of each out of a stage, by path."""
    entries = [*stage.get("outs", ()), *stage.get("metrics", ()), *stage.get("plots", ())]
    written: dict[str, dict[str, object]] = {}
    for entry in entries:
        written |= {entry: {}} if isinstance(entry, str) else entry
    return {
        out: {"cache": bool(flags.get("cache", True)), "persist": bool(flags.get("persist", False))}
        for out, flags in written.items()
    }
