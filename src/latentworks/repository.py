"""The checkout: where it is, what git says of it, what DVC is to run."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from latentworks.errors import LatentworksError

DAG = "dvc.yaml"
LOCK = "dvc.lock"
# Kept with every run, so an edit in them does not make the code another one.
NOT_CODE = ("params.yaml", LOCK, "reports")
MAX_HASHED_BYTES = 500_000_000  # a second; larger outs are taken at their word


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
    return {name: dict(stage) for name, stage in _read_stages(folder / DAG).items()}


def _read_stages(path: Path) -> dict[str, Any]:
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        return dict(content.get("stages", {}))
    except Exception as error:  # what a damaged file, or one with conflict marks, can raise
        fault = type(error).__name__
        raise LatentworksError(
            f"{path.name} cannot be read ({fault}). Expected stages, as DVC writes them. "
            f"Look at it, or take the committed one: `git checkout {path.name}`."
        ) from None


@dataclass(frozen=True)
class Record:
    """What dvc.lock knows of a stage."""

    outs: list[Path]  # in the order of dvc.yaml, metrics last
    params: dict[str, Any]  # the sections of params.yaml that it was run with


def recorded(folder: Path) -> dict[str, Record]:
    """The stages whose outs are there, as locked, and made from what other stages have now.

    After a repro that was interrupted, later stages still have the outs of an earlier result;
    after `git checkout` without `dvc checkout`, all of them have.
    """
    if not (folder / LOCK).is_file():
        return {}
    locked = _read_stages(folder / LOCK)
    made = {out["path"]: out for stage in locked.values() for out in stage.get("outs", ())}
    current = {}
    for name, written in stages(folder).items():
        stage = locked.get(name, {})
        names = paths([*written["outs"], *written.get("metrics", ())])
        fresh = all(
            dep.get("md5") == made.get(dep["path"], dep).get("md5") for dep in stage.get("deps", ())
        )
        if stage and fresh and all(_is_as_locked(folder / out, made.get(out, {})) for out in names):
            outs = [folder / out for out in names]
            current[name] = Record(outs, stage.get("params", {}).get("params.yaml", {}))
    return current


def _is_as_locked(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a file or folder is the one in dvc.lock. Folders are hashed as DVC does."""
    if not path.exists():
        return False
    if entry.get("size", 0) > MAX_HASHED_BYTES:
        return True
    md5 = str(entry.get("md5"))
    if not path.is_dir():
        return _md5(path) == md5
    files = sorted(file for file in path.rglob("*") if file.is_file())
    entries = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    entries.sort(key=lambda entry: entry["relpath"].split("/"))
    text = json.dumps(entries, sort_keys=True)
    return f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}.dir" == md5


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


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
    return Code(commit, bool(differences(folder)))


def differences(folder: Path) -> list[str]:
    """Tracked files that are not as committed, but for those in NOT_CODE, and new ones in src."""
    others = [f":(exclude){name}" for name in NOT_CODE]
    call = ["git", "status", "--porcelain", "-uno", "--", ".", *others]
    try:
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ["git, which is not installed"]
    if done.returncode != 0:
        return [f"git, which fails: {_first_line(done.stderr)}"]
    new = _git(folder, "ls-files", "--others", "--exclude-standard", "--", "src")
    return [line[2:].strip() for line in done.stdout.splitlines()] + new.splitlines()


def committed(folder: Path, name: str) -> str | None:
    """The text of a file in the last commit; None where it is not in git."""
    call = ["git", "show", f"HEAD:./{name}"]
    try:
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return None
    return done.stdout if done.returncode == 0 else None


def _git(folder: Path, *arguments: str) -> str:
    try:
        call = ["git", *arguments]
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


# --- DVC, run as a command -----------------------------------------------------------------------

OUTCOMES = {  # what DVC prints for a stage, and what that means
    "didn't change, skipping": "unchanged",
    "is cached - skipping run, checking out outputs": "restored",
    "Running stage": "ran",
}


def order(folder: Path) -> list[str]:
    """The stages, each after those whose outs it needs, as DVC sees them."""
    edges = re.findall(r'"([^"]+)" -> "([^"]+)"', _dvc(folder, "dag", "--dot"))
    graph: dict[str, set[str]] = {name: set() for name in stages(folder)}
    for before, after in edges:
        graph[after].add(before)
    return list(TopologicalSorter(graph).static_order())


def reproduce(folder: Path, stage: str, report: Callable[[str], None]) -> str:
    """Run one stage if it is out of date, telling every line; return one of OUTCOMES' meanings.

    The stages before it are the caller's duty. Raises StageError with DVC's exit code.
    """
    call = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]
    outcome = "unchanged"
    with subprocess.Popen(
        call,
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            outcome = next((OUTCOMES[sign] for sign in OUTCOMES if sign in line), outcome)
            report(line.rstrip())
    if process.returncode != 0:
        raise StageError(f"stage {stage} failed: dvc exited with {process.returncode}.")
    return outcome


def stale(folder: Path) -> list[str]:
    """What differs from dvc.lock, a sentence for each stage; none where all is up to date."""
    status = json.loads(_dvc(folder, "status", "--json") or "{}")
    return [f"stage {stage}: {_changes(changes)}" for stage, changes in status.items()]


def _changes(changes: list[Any]) -> str:
    """What DVC found: `models/autoencoder modified; changed command`."""
    said: list[str] = []
    for change in changes:
        kinds = change.values() if isinstance(change, dict) else [{change: ""}]
        for kind in kinds:
            for name, how in kind.items():
                keys = how if isinstance(how, dict) else {"": how}  # of a params file
                said += [" ".join(filter(None, (name, key, state))) for key, state in keys.items()]
    return "; ".join(said)


class StageError(LatentworksError):
    """DVC could not reproduce a stage; its lines say why."""


def _dvc(folder: Path, *arguments: str) -> str:
    call = ["dvc", *arguments]
    done = subprocess.run(
        call, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise LatentworksError(f"dvc {' '.join(arguments)} failed: {_first_line(done.stderr)}")
    return done.stdout


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["it does not say why"])[0]


def _environment(folder: Path) -> dict[str, str]:
    """A stage's `python` is the one that runs us, and DVC keeps its notes inside the project."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    notes = os.environ.get("DVC_SITE_CACHE_DIR", str(folder / ".dvc/site_cache"))
    return {**os.environ, "PATH": path, "DVC_SITE_CACHE_DIR": notes, "PYTHONUNBUFFERED": "1"}
