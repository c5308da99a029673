"""Rebuilding a version from its commit, params and data, to compare the two results."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from latentworks import params
from latentworks.errors import LatentworksError, RegistryError
from latentworks.registry import candidates
from latentworks.registry.registry import Registry
from latentworks.registry.versions import Version
from latentworks.repository import dag, dvc, git
from latentworks.repository.result import flat, recorded_result
from latentworks.runner.reproduce import reproduce_stage
from latentworks.runner.worktree import Worktree
from latentworks.runner.worktree_images import link_images
from latentworks.serving import packaging
from latentworks.system import disk
from latentworks.system.console import columns
from latentworks.system.state import STATE
from latentworks.tracking.uri import SQLITE

NAME = "rebuild"  # name of the worktree
MODEL = "model.sha256"
TRAIN = "train"  # the stages before it make the data, which the cache may still have
ENVIRONMENT = "requirements/latentworks.txt"


@dataclass(frozen=True)
class RebuiltRow:
    """One score or digest: the recorded value and the rebuilt one."""

    name: str
    recorded: object
    rebuilt: object

    @property
    def same(self) -> bool:
        return self.recorded == self.rebuilt


@dataclass(frozen=True)
class Rebuilt:
    """Outcome of a rebuild."""

    version: Version
    rows: list[RebuiltRow]
    same_environment: bool  # True if the version's commit pins the same packages as this checkout

    @property
    def same(self) -> bool:
        return all(row.same for row in self.rows)

    def table(self) -> str:
        lines = [("", "recorded", "rebuilt", "")]
        for row in self.rows:
            verdict = "same" if row.same else "differs"
            lines.append((row.name, _short(row.recorded), _short(row.rebuilt), verdict))
        return "\n".join(columns(lines))


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:12]


def rebuild(root: Path, reference: str, report: Callable[[str], None]) -> Rebuilt:
    """Rebuild a version and compare the new result with the recorded one.

    `reference` is `models:/NAME/NUMBER`, `models:/NAME@ALIAS`, or a number. All stages from `train`
    on run, even if DVC's cache has their outs; `report` receives the lines that they print. MLflow
    and the checkout `root` do not change.
    """
    registry = Registry(root)
    version = find(registry, reference)
    with registry.one_line("Try again when MLflow answers."):
        recorded = registry.store.fetch(version) / packaging.PROVENANCE
    store = root / STATE / "rebuild"  # for MLflow runs that are discarded
    worktree = Worktree(root, NAME, f"{SQLITE}{store / 'mlflow.db'}")
    with worktree.held(f"rebuild {version}"), _empty(store):
        commit = worktree.check_out(version.tags["git.commit"])
        for name in (str(params.PARAMS), dag.LOCK):
            worktree.write(name, (recorded / name).read_text(encoding="utf-8"))
        report(f"commit {commit[:10]} is in {worktree.path}")
        _make(worktree, version, report)
        rows = _compare(worktree, version, recorded)
        pinned = git.committed(worktree.path, ENVIRONMENT)
        installed = root / ENVIRONMENT
        here = installed.read_text(encoding="utf-8") if installed.is_file() else None
    return Rebuilt(version, rows, pinned == here)


@contextmanager
def _empty(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed rebuild
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find(registry: Registry, reference: str) -> Version:
    """Return the version that a reference names. Raises RegistryError if it does not exist."""
    match = re.fullmatch(r"(?:models:/(?P<name>[^/@]+)[/@])?(?P<which>[\w.-]+)", reference)
    if match is None:
        raise RegistryError(
            "Cannot find the version: expected models:/NAME/NUMBER or a number. "
            f"Received: {reference!r}."
        )
    name, which = match["name"] or registry.name, match["which"]
    with registry.one_line("Try again when MLflow answers."):
        if which.isdecimal():
            return registry.store.get(name, int(which))
        version = registry.store.aliased(name, which)
    if version is None:
        doubt = registry.store.doubt(name)
        raise RegistryError(f"{name} has no version with the alias {which}{doubt}.")
    return version


def _make(worktree: Worktree, version: Version, report: Callable[[str], None]) -> None:
    needs = dvc.needs(worktree.path, worktree.environment)
    data = _before(needs, TRAIN)
    later = [stage for stage in needs if stage not in data]
    wanted = [stage for stage in data if any(stage in needs[other] for other in later)]
    try:
        worktree.restore(*wanted)
        report(f"data: as recorded ({', '.join(wanted)} from the cache)")
    except LatentworksError:  # not in the cache, nor in the remote: make the data from its source
        link_images(worktree)
        for stage in data:
            reproduce_stage(worktree.path, stage, (), report, worktree.environment)
    (prepare,) = needs[TRAIN]
    made = dag.recorded(worktree.path).get(prepare)
    found = candidates.fingerprint(made.outs["prepared"]) if made else "none"
    if found != version.data:
        raise LatentworksError(
            f"Cannot rebuild: the data of {version} is no longer in DVC's cache, and its source "
            f"has changed. Expected the fingerprint {version.data[:12]}. Received: {found[:12]}. "
            "Run `dvc pull`, or restore the source."
        )
    for checkpoint in (worktree.path / STATE).glob("*.npz"):  # of an earlier rebuild
        checkpoint.unlink()
    for stage in later:
        reproduce_stage(worktree.path, stage, (), report, worktree.environment, force=True)


def _before(needs: dict[str, set[str]], stage: str) -> list[str]:
    """The stages that `stage` depends on, directly or through other stages, in DVC's order."""
    found: set[str] = set()
    waiting = {stage}
    while waiting:
        found |= (waiting := needs[waiting.pop()] | waiting)
    return [each for each in needs if each in found]


def _compare(worktree: Worktree, version: Version, recorded: Path) -> list[RebuiltRow]:
    result = recorded_result(worktree.path)
    assert result is not None  # all stages have just run
    metrics = result.outs["metrics"]
    before, after = (flat(disk.read_json(file)) for file in (recorded / metrics.name, metrics))
    rows = [RebuiltRow(MODEL, version.tags[MODEL], result.model_digest())]
    return rows + [RebuiltRow(name, value, after.get(name, "")) for name, value in before.items()]
