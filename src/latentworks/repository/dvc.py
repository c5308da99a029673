"""The checkout: where it is, what git says of it, what DVC is to run."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from latentworks.errors import Busy, LatentworksError
from latentworks.repository import dag
from latentworks.system import locks, processes
from latentworks.system.console import first_line

OUTCOMES = {  # what DVC prints for a stage, and what that means
    "didn't change, skipping": "unchanged",
    "is cached - skipping run, checking out outputs": "restored",
    "Running stage": "ran",
}
# What DVC would have a person do after each stage, and its empty lines.
ADVICE = re.compile(r"\s*($|To track|git add|To enable|dvc config core\.autostage|Use `dvc push`)")
Environment = Mapping[str, str] | None  # what is to differ from that of this process


def needs(folder: Path, env: Environment = None) -> dict[str, set[str]]:
    """For each stage those whose outs it needs, as DVC sees them; these come before it."""
    graph: dict[str, set[str]] = {name: set() for name in dag.stages(folder)}
    dot = run(folder, "dag", "--dot", env=env)
    for before, after in re.findall(r'"([^"]+)" -> "([^"]+)"', dot):
        if before in graph:  # and not the .dvc file of a source that was added to DVC
            graph[after].add(before)
    return {name: graph[name] for name in TopologicalSorter(graph).static_order()}


def reproduce(
    folder: Path,
    stage: str,
    report: Callable[[str], None],
    env: Environment = None,
    *,
    force: bool = False,
    on_terminal: bool = False,
) -> str:
    """Run one stage if it is out of date, telling every line; return one of OUTCOMES' meanings.

    The stages before it are the caller's duty. With `force` it runs in any case; `on_terminal`
    leaves errors and bars of progress to the terminal of this process. Raises StageError with
    DVC's exit code.
    """
    call = ["dvc", "--wait-for-lock", "repro", "--single-item", stage]
    if force:
        call.append("--force")
    outcome = "unchanged"

    def watch(line: str) -> None:
        nonlocal outcome
        outcome = next((OUTCOMES[sign] for sign in OUTCOMES if sign in line), outcome)
        if not ADVICE.match(line):
            report(line)

    exit_code = processes.stream(
        call,
        folder,
        watch,
        environment(folder, env),
        locks.handles(),
        deaf=True,
        err=None if on_terminal else subprocess.STDOUT,
    )
    if exit_code != 0:
        raise StageError(f"stage {stage} failed: dvc exited with {exit_code}.")
    return outcome


def status(folder: Path, env: Environment = None) -> dict[str, list[Any]]:
    """What DVC finds changed in each stage that is out of date, as `dvc status` says it."""
    return dict(json.loads(run(folder, "status", "--json", env=env) or "{}"))


def stale(folder: Path) -> list[str]:
    """What differs from dvc.lock, a sentence for each stage; none where all is up to date."""
    return [f"stage {stage}: {_changes(changes)}" for stage, changes in status(folder).items()]


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


def run(folder: Path, *arguments: str, env: Environment = None) -> str:
    """What a DVC command prints. Raises LatentworksError with its first line where it fails."""
    call = ["dvc", *arguments]
    exit_code, out, err = processes.run(call, folder, environment(folder, env), locks.handles())
    if exit_code != 0:
        fault = first_line(err)
        if "is busy, it is being blocked by" in fault:
            raise Busy("DVC is at work in this checkout, a run of the stages for one. Wait for it.")
        raise LatentworksError(f"dvc {' '.join(arguments)} failed: {fault}")
    return out


def environment(folder: Path, changes: Environment = None) -> dict[str, str]:
    """A stage's `python` is the one that runs us, and DVC keeps its notes inside the project."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    notes = os.environ.get("DVC_SITE_CACHE_DIR", str(folder / ".dvc/site_cache"))
    ours = {"PATH": path, "DVC_SITE_CACHE_DIR": notes, "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **ours, **(changes or {})}
