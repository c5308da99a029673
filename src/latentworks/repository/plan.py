"""What `dvc repro` would do in a checkout, and why: nothing is run, and nothing is changed."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentworks import params
from latentworks.repository import dag, dvc, timings
from latentworks.system.console import columns

MAX_REASONS = 4  # of a stage; the others are counted
MAX_HASHED = 20_000_000  # bytes: what has changed is hashed again to say into what


@dataclass(frozen=True)
class Step:
    """A stage that is out of date, or that may be once an earlier one has run."""

    stage: str
    state: Literal["runs", "may run"]
    reasons: list[str]  # the file or parameter, from what to what
    seconds: float | None  # that it took when it last ran here
    megabytes: float | None  # of its outs, as dvc.lock has them
    needs: set[str]  # the stages whose outs it reads


def plan(root: Path) -> list[Step]:
    """The stages that would run, in their order; none where all is up to date."""
    changed = dvc.status(root)
    if not changed:
        return []
    locked = dag.locked(root)
    current = params.read(root / params.PARAMS)
    steps: list[Step] = []
    for stage, needed in dvc.needs(root).items():
        before = [step.stage for step in steps if step.stage in needed]
        if stage in changed:
            reasons = [*_reasons(root, stage, changed[stage], locked.get(stage), current)]
            # An out that is missing because its stage is to run says nothing more.
            steps.append(_step(root, stage, needed, "runs", reasons or _after(before), locked))
        elif before:
            steps.append(_step(root, stage, needed, "may run", _after(before), locked))
    return steps


def _after(before: list[str]) -> list[str]:
    return [f"after {', '.join(before)}"]


def _step(
    root: Path,
    stage: str,
    needs: set[str],
    state: Any,
    reasons: list[str],
    locked: dict[str, Any],
) -> Step:
    record = timings.read(stage, root)
    outs = locked.get(stage, {}).get("outs")
    size = sum(out.get("size", 0) for out in outs) / 1e6 if outs else None
    seconds = record["seconds"] if record else None
    return Step(stage, state, reasons, seconds, size, needs)


# --- why -----------------------------------------------------------------------------------------


def _reasons(
    root: Path, stage: str, found: list[Any], lock: dict[str, Any] | None, current: dict[str, Any]
) -> Iterator[str]:
    """What DVC found, with the values before and now."""
    if lock is None:
        yield "never ran"
        return
    if "changed command" in found:
        yield "its command"
    # DVC names what lies outside the project by its absolute path, and dvc.lock as it was given.
    entries = [*lock.get("deps", ()), *lock.get("outs", ())]
    known = {os.path.normpath(root / entry["path"]): entry for entry in entries}
    before = lock.get("params", {}).get(str(params.PARAMS), {})
    for change in found:
        if isinstance(change, dict):
            for entries in change.values():
                for path, how in entries.items():
                    if isinstance(how, dict):
                        yield from _parameters(before, current, list(how))
                    elif not (how == "deleted" and path in _outs_of_others(root, stage)):
                        yield _file(root / path, str(how), known.get(str(root / path)), path)


def _outs_of_others(root: Path, stage: str) -> set[str]:
    others = [written for name, written in dag.stages(root).items() if name != stage]
    return {path for written in others for path in dag.paths(written.get("outs", ()))}


def _parameters(before: dict[str, Any], now: dict[str, Any], names: list[str]) -> Iterator[str]:
    """`train.epochs 9 → 12`, for each value of the sections that differs."""
    for name in names:
        was, is_now = _flat(name, before.get(name)), _flat(name, now.get(name))
        for key in {**was, **is_now}:
            if was.get(key) != is_now.get(key):
                yield f"{key} {was.get(key, 'not set')} → {is_now.get(key, 'not set')}"


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {key: v for part in value for key, v in _flat(f"{name}.{part}", value[part]).items()}


def _file(path: Path, how: str, entry: dict[str, Any] | None, name: str) -> str:
    """`src/latentworks/cli.py 3f2a91c → 88bc0d2`, or DVC's word where there is no such pair.

    Of what takes long to hash, the number of files and the size.
    """
    if how != "modified" or not entry:
        return f"{name} {_WORDS.get(how, how)}"
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    if size <= MAX_HASHED:
        return f"{entry['path']} {str(entry.get('md5'))[:7]} → {dag.md5_of(path)[:7]}"
    before, now = _extent(entry.get("nfiles", 1), entry.get("size", 0)), _extent(len(files), size)
    return f"{entry['path']} {before} → {now if now != before else 'as much, but other content'}"


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
    """A line for each stage and reason, and what all of it needs."""
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
    if not seconds or not sizes:
        return f"it never ran here, so that its time is not known; {free}"
    total = f"{sum(seconds):,.0f} s the last time, {sum(sizes):,.0f} MB here and as much in DVC's"
    unknown = " (without what is not known)" if len(seconds) + len(sizes) < 2 * len(steps) else ""
    return (
        f"{total} cache{unknown}; {free}\n"
        "what DVC has made before from the same, it takes from its cache"
    )
