"""The plan of a checkout: which stages `dvc repro` would run, and why. Nothing is run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from latentworks import params
from latentworks.repository import dag, dvc, timings
from latentworks.repository.result import flat
from latentworks.system.console import columns

MAX_REASONS = 4  # shown for a stage; of the others the number is shown
State = Literal["runs", "may run"]
IMAGES = frozenset(("dataset", "prepare"))  # the sections that decide on the images
MAX_HASHED = 20_000_000  # bytes; of a larger change the size is shown, not the hash


@dataclass(frozen=True)
class Step:
    """A stage that is out of date, or may be out of date once an earlier stage has run."""

    stage: str
    state: State
    reasons: list[str]  # each a file or parameter with its value before and now
    seconds: float | None  # of its last run in this checkout
    megabytes: float | None  # of its outs, as dvc.lock records them; None if of other images
    needs: set[str]  # the stages whose outs it reads


@dataclass(frozen=True)
class Outdated:
    """The stages that are out of date, and those that read their outs."""

    changed: dict[str, list[dvc.Change]]  # DVC's changes of each stage that is out of date
    needs: dict[str, set[str]]  # of every stage, in DVC's order: the stages whose outs it reads

    @classmethod
    def of(cls, root: Path, env: dvc.Environment = None) -> Outdated:
        changed = dvc.status(root, env)
        # Without a change, no order matters: DVC, which takes a second, is not asked for it.
        needs = dvc.needs(root, env) if changed else {stage: set() for stage in dag.stages(root)}
        return cls(changed, needs)

    def is_due(self, stage: str, remade: Container[str]) -> bool:
        """True if a stage must run once the stages `remade` have other outs than before."""
        return stage in self.changed or any(other in remade for other in self.needs[stage])

    def may_run(self) -> list[str]:
        """The changed stages and those after them, in their order."""
        found: list[str] = []
        for stage in self.needs:
            if self.is_due(stage, found):
                found.append(stage)
        return found


def plan(root: Path) -> list[Step]:
    """Return the stages that would run, in their order; an empty list if all are up to date."""
    outdated = Outdated.of(root)
    due = outdated.may_run()
    if not due:
        return []
    locked = dag.locked(root)
    current = params.read(root / params.PARAMS)
    images = Path(current["dataset"]["path"])
    others: list[str] = []  # the stages whose outs in dvc.lock are of other images
    steps: list[Step] = []
    for stage in due:
        needed = outdated.needs[stage]
        before = [other for other in due if other in needed]
        if stage in outdated.changed:
            changes = outdated.changed[stage]
            reasons = [*_reasons(root, stage, changes, locked.get(stage), current)]
            # Without a reason of its own, the stage lacks only outs of the stages before it.
            step = _step(root, stage, needed, "runs", reasons or _after(before), locked)
        else:
            step = _step(root, stage, needed, "may run", _after(before), locked)
        if _is_of_other_images(locked.get(stage), current) or needed.intersection(others):
            others.append(stage)
            step = replace(step, megabytes=None)
        if not needed and "dataset" in _sections(root, stage) and not dag.is_made(root, images):
            note = f"your own images, {_extent_of(root / images)}: nothing to download"
            step = replace(step, megabytes=0.0, reasons=[*step.reasons, note])
        steps.append(step)
    return steps


def _sections(root: Path, stage: str) -> list[str]:
    """Return the sections of params.yaml that a stage of dvc.yaml reads."""
    return [each for each in dag.stages(root)[stage].get("params", ()) if isinstance(each, str)]


def _is_of_other_images(lock: dag.Locked | None, current: params.RawSections) -> bool:
    """True if a stage read another `dataset` or `prepare` than params.yaml has now."""
    before = (lock or {}).get("params", {}).get(str(params.PARAMS), {})
    return any(before[name] != current.get(name) for name in IMAGES.intersection(before))


def _after(before: list[str]) -> list[str]:
    return [f"after {', '.join(before)}"]


def _step(
    root: Path,
    stage: str,
    needs: set[str],
    state: State,
    reasons: list[str],
    locked: dict[str, dag.Locked],
) -> Step:
    record = timings.read(stage, root)
    outs = locked.get(stage, {}).get("outs")
    size = sum(out.get("size", 0) for out in outs) / 1e6 if outs else None
    seconds = record["seconds"] if record else None
    return Step(stage, state, reasons, seconds, size, needs)


# --- why -----------------------------------------------------------------------------------------


def _reasons(
    root: Path,
    stage: str,
    found: list[dvc.Change],
    lock: dag.Locked | None,
    current: params.RawSections,
) -> Iterator[str]:
    """Yield the changes that DVC found in a stage, with the values before and now."""
    if lock is None:
        yield "never ran"
        return
    if "changed command" in found:
        yield "its command"
    # For a file outside the project DVC has the absolute path, and dvc.lock the path as written.
    entries = [*lock.get("deps", ()), *lock.get("outs", ())]
    known = {os.path.normpath(root / entry["path"]): entry for entry in entries}
    before = lock.get("params", {}).get(str(params.PARAMS), {})
    for change in found:
        if isinstance(change, dict):
            for kind in change.values():
                for path, how in kind.items():
                    if isinstance(how, dict):
                        yield from _parameters(before, current, list(how))
                    elif not (how == "deleted" and path in _outs_of_others(root, stage)):
                        yield _file(root / path, str(how), known.get(str(root / path)), path)


def _outs_of_others(root: Path, stage: str) -> set[str]:
    others = [written for name, written in dag.stages(root).items() if name != stage]
    return {path for written in others for path in dag.paths(written.get("outs", ()))}


def _parameters(
    before: params.RawSections, now: params.RawSections, names: list[str]
) -> Iterator[str]:
    """Yield `train.epochs 9 → 12` for each value of the sections that differs."""
    for name in names:
        was, is_now = flat({name: before.get(name)}), flat({name: now.get(name)})
        for key in {**was, **is_now}:
            if was.get(key) != is_now.get(key):
                yield f"{key} {was.get(key, 'not set')} → {is_now.get(key, 'not set')}"


def _file(path: Path, how: str, entry: dag.File | None, name: str) -> str:
    """Describe the change of a file or folder: `src/latentworks/cli.py 3f2a91c → 88bc0d2`.

    Above MAX_HASHED bytes, the number of files and their size stand for the hash. A file that was
    not modified, but is new or missing, gets the word for that.
    """
    if how == "modified" and not entry:
        return f"{name} is new: {_extent_of(path)}"
    if how != "modified" or not entry:
        return f"{name} {_WORDS.get(how, how)}"
    num_files, size = _measured(path)
    if size <= MAX_HASHED:
        return f"{entry['path']} {str(entry.get('md5'))[:7]} → {dag.md5_of(path)[:7]}"
    before, now = _extent(entry.get("nfiles", 1), entry.get("size", 0)), _extent(num_files, size)
    return f"{entry['path']} {before} → {now if now != before else 'the same size, other content'}"


def _measured(path: Path) -> tuple[int, int]:
    """Return the number of files of a file or folder, and their bytes together."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return len(files), sum(file.stat().st_size for file in files)


def _extent_of(path: Path) -> str:
    return _extent(*_measured(path)) if path.exists() else "missing"


def _extent(num_files: int, size: int) -> str:
    files = "1 file" if num_files == 1 else f"{num_files:,} files"
    return f"{files} of {size / 1e6:,.1f} MB"


_WORDS = {
    "deleted": "is missing",
    "not in cache": "is missing, and not in the cache",
    "new": "is new",
}


# --- as text -------------------------------------------------------------------------------------


def table(steps: list[Step], root: Path) -> str:
    """Format the plan: a line for each stage and reason, then the total time and disk space."""
    if not steps:
        return "everything is up to date"
    rows = [("stage", "", "last took", "outs", "why")]
    for step in steps:
        shown = step.reasons[:MAX_REASONS]
        if len(step.reasons) > MAX_REASONS:
            shown.append(f"and {len(step.reasons) - MAX_REASONS} more")
        took = "-" if step.seconds is None else f"{step.seconds:.0f} s"
        size = "-" if step.megabytes is None else f"{step.megabytes:,.1f} MB"
        rows.append((step.stage, step.state, took, size, shown[0]))
        rows += [("", "", "", "", reason) for reason in shown[1:]]
    return "\n".join([*columns(rows), "", _total(steps, root)])


def _total(steps: list[Step], root: Path) -> str:
    free = f"{shutil.disk_usage(root).free / 1e9:,.0f} GB are free"
    seconds = [step.seconds for step in steps if step.seconds is not None]
    sizes = [step.megabytes for step in steps if step.megabytes is not None]
    time = "The time is unknown, since these stages never ran here"
    if seconds:
        time = f"{sum(seconds):,.0f} s in the last run{_partial(seconds, steps)}"
    if not sizes:
        return f"{time}. {free}."
    size = f"{sum(sizes):,.0f} MB here and as much in DVC's cache{_partial(sizes, steps)}"
    return (
        f"{time}; {size}. {free}.\n"
        "DVC restores the outs that are in its cache for the same inputs, without a run."
    )


def _partial(known: list[float], steps: list[Step]) -> str:
    return " (known stages only)" if len(known) < len(steps) else ""
