"""A version made again from its commit, parameters and data: does it come out the same?"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentworks import params
from latentworks.errors import LatentworksError, RegistryError
from latentworks.registry import candidates
from latentworks.registry.registry import Registry
from latentworks.registry.versions import Version
from latentworks.repository import dag, dvc, git
from latentworks.repository.result import recorded_outputs
from latentworks.runner.workspace import Workspace
from latentworks.serving import packaging
from latentworks.system import disk
from latentworks.system.console import columns
from latentworks.system.state import STATE
from latentworks.tracking.uri import SQLITE

NAME = "rebuild"  # of the workspace
MODEL = "model.sha256"
TRAIN = "train"  # the stages before it make the data, which is checked out
ENVIRONMENT = "requirements/latentworks.txt"


@dataclass(frozen=True)
class Row:
    """One number, or hash, as it was recorded and as it came out."""

    name: str
    recorded: Any
    rebuilt: Any

    @property
    def same(self) -> bool:
        return bool(self.recorded == self.rebuilt)


@dataclass(frozen=True)
class Rebuilt:
    """What became of a version that was made again."""

    version: Version
    rows: list[Row]
    same_environment: bool  # whether its commit pins the packages that are installed here

    @property
    def same(self) -> bool:
        return all(row.same for row in self.rows)

    def table(self) -> str:
        lines = [("", "recorded", "rebuilt", "")]
        for row in self.rows:
            verdict = "same" if row.same else "differs"
            lines.append((row.name, _short(row.recorded), _short(row.rebuilt), verdict))
        return "\n".join(columns(lines))


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:12]


def rebuild(root: Path, reference: str, report: Callable[[str], None]) -> Rebuilt:
    """Make a version again: `models:/NAME/NUMBER`, `models:/NAME@ALIAS`, or a number.

    The stages after the data really run, whatever DVC has in its cache. What they print is
    reported. MLflow and the checkout `root` are left as they are.
    """
    registry = Registry(root)
    version = find(registry, reference)
    with registry.one_line("Try again when it answers."):
        recorded = registry.store.fetch(version) / packaging.PROVENANCE
    store = root / STATE / "rebuild"  # of runs that nobody needs afterwards
    workspace = Workspace(root, NAME, f"{SQLITE}{store / 'mlflow.db'}")
    with workspace.held(f"rebuild {version}"), _empty(store):
        commit = workspace.check_out(version.tags["git.commit"])
        for name in (str(params.PARAMS), dag.LOCK):
            workspace.write(name, (recorded / name).read_text(encoding="utf-8"))
        report(f"commit {commit[:10]} is in {workspace.path}")
        _make(workspace, version, report)
        rows = _compare(workspace, version, recorded)
        pinned = git.committed(workspace.path, ENVIRONMENT)
        installed = root / ENVIRONMENT
        here = installed.read_text(encoding="utf-8") if installed.is_file() else None
    return Rebuilt(version, rows, pinned == here)


@contextmanager
def _empty(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)  # of a rebuild that was killed
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find(registry: Registry, reference: str) -> Version:
    """The version that a reference means. Raises RegistryError where there is none."""
    match = re.fullmatch(r"(?:models:/(?P<name>[^/@]+)[/@])?(?P<which>[\w.-]+)", reference)
    if match is None:
        raise RegistryError(
            f"which version? Expected models:/NAME/NUMBER or a number. Received: {reference!r}."
        )
    name, which = match["name"] or registry.name, match["which"]
    with registry.one_line("Try again when it answers."):
        if which.isdecimal():
            return registry.store.get(name, int(which))
        version = registry.store.aliased(name, which)
    if version is None:
        raise RegistryError(f"{name} has no version with the alias {which}.")
    return version


def _make(workspace: Workspace, version: Version, report: Callable[[str], None]) -> None:
    needs = dvc.needs(workspace.path, workspace.environment)
    data = _before(needs, TRAIN)
    later = [stage for stage in needs if stage not in data]
    wanted = [stage for stage in data if any(stage in needs[other] for other in later)]
    try:
        workspace.restore(*wanted)
        report(f"data: as it was recorded ({', '.join(wanted)} from the cache)")
    except LatentworksError:  # neither cache nor remote has it: from the source, then
        workspace.bring_source()
        for stage in data:
            workspace.reproduce(stage, report)
    (prepare,) = needs[TRAIN]
    made = dag.recorded(workspace.path).get(prepare)
    found = candidates.fingerprint(made.outs[0]) if made else "none"
    if found != version.data:
        raise LatentworksError(
            f"the data of {version} is neither in DVC's cache nor what its source has now. "
            f"Expected the fingerprint {version.data[:12]}. Received: {found[:12]}."
        )
    for stage in later:
        workspace.reproduce(stage, report, force=True)


def _before(needs: dict[str, set[str]], stage: str) -> list[str]:
    """The stages that `stage` needs, directly or through others, in their order."""
    found: set[str] = set()
    waiting = {stage}
    while waiting:
        found |= (waiting := needs[waiting.pop()] | waiting)
    return [each for each in needs if each in found]


def _compare(workspace: Workspace, version: Version, recorded: Path) -> list[Row]:
    outputs = recorded_outputs(workspace.path)
    assert outputs is not None  # all its stages have just run
    assert outputs.metrics is not None
    before = candidates.flat(disk.read_json(recorded / outputs.metrics.name))
    after = dict(candidates.flat(disk.read_json(outputs.metrics)))
    rows = [Row(MODEL, version.tags[MODEL], outputs.model_digest())]
    return rows + [Row(name, value, after.get(name, "")) for name, value in before]
