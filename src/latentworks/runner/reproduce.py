"""Run the stages that are out of date; if one fails, keep its previous outputs."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentworks.errors import LatentworksError
from latentworks.integrity import verification
from latentworks.repository import dag, dvc, plan
from latentworks.runner import resources
from latentworks.system import disk
from latentworks.system.state import STATE

UNCHANGED = "unchanged"  # an outcome: DVC had nothing to do
KEPT = STATE / "kept"  # hard links to the previous outputs, while their stage runs


def reproduce(
    root: Path, each: Callable[[str, set[str], bool], str], env: dvc.Environment = None
) -> dict[str, str]:
    """Run the stages of a checkout in DVC's order, and return their outcomes by name.

    `each(stage, needs, due)` runs one stage and returns its outcome, a value of `dvc.OUTCOMES`.
    `needs` are the stages whose outs it reads. `due` is false if DVC finds no change in it, and no
    stage of `needs` changed its outs. The caller holds the lock of the checkout.
    """
    changed = dvc.status(root, env)
    needs = dvc.needs(root, env) if changed else {stage: set() for stage in dag.stages(root)}
    if changed:
        resources.make_ready(root, plan.may_run(changed, needs), env)
    outcomes: dict[str, str] = {}
    for stage, needed in needs.items():
        due = stage in changed or any(outcomes[other] != UNCHANGED for other in needed)
        outcomes[stage] = each(stage, needed, due)
    return outcomes


def reproduce_on_terminal(root: Path, report: Callable[[str], None]) -> None:
    """Run the stages that are out of date, with their progress bars on this process's terminal.

    The caller holds the lock of the checkout. Raises LatentworksError if a stage cannot run or
    fails; its previous outputs are then back in place.
    """

    def each(stage: str, needs: set[str], due: bool) -> str:
        if not due:
            return UNCHANGED
        return reproduce_stage(root, stage, needs, report, on_terminal=True)

    outcomes = reproduce(root, each)
    require_whole(root, outcomes, report)
    if {*outcomes.values()} == {UNCHANGED}:
        report("everything is up to date")


def reproduce_stage(
    root: Path,
    stage: str,
    needs: Iterable[str],
    report: Callable[[str], None],
    env: dvc.Environment = None,
    *,
    force: bool = False,
    on_terminal: bool = False,
) -> str:
    """Verify the outs of `needs`, run a stage if it is out of date, and return the outcome.

    The options are those of `dvc.repro`. If the stage fails, its previous outputs are back.
    """
    require_whole(root, needs, report, env)
    restored = not force and _restore_persisting(root, stage, env)
    with outputs_kept(root, stage, env):
        outcome = dvc.repro(root, stage, report, env, force=force, on_terminal=on_terminal)
    return "restored" if restored and outcome == UNCHANGED else outcome


def _restore_persisting(root: Path, stage: str, env: dvc.Environment) -> bool:
    """Restore missing outs with `persist: true` from DVC's cache, which `dvc repro` does not do."""
    options = dag.options(dag.stages(root)[stage])
    persisting = [out for out in options if options[out]["persist"]]
    if not persisting or any((root / out).exists() for out in persisting):
        return False
    with suppress(LatentworksError):  # not in the cache: the stage makes them
        dvc.run(root, "checkout", "--quiet", stage, env=env)
        return True
    return False


@contextmanager
def outputs_kept(root: Path, stage: str, env: dvc.Environment = None) -> Iterator[None]:
    """Put the previous outputs of a stage back in place if the block fails.

    DVC removes them before the stage runs. Hard links keep them: these take no space, so that it
    works with a full disk. A StageError is raised again with a message about the outputs.
    """
    written = dag.stages(root)[stage]
    persisting = {name for name, of in dag.options(written).items() if of["persist"]}
    outs = [out for out in dag.outs_of(written) if out not in persisting]
    for out in outs:
        with suppress(OSError):  # some file systems have no hard links
            _keep(root / out, root / KEPT / out)
    previous = [out for out in outs if (root / out).exists() or (root / KEPT / out).exists()]
    try:
        yield
    except BaseException as error:
        for out in outs:
            with suppress(OSError):
                _put_back(root / KEPT / out, root / out)
        if not isinstance(error, dvc.StageError):  # SIGTERM or Ctrl-C
            raise
        if not all((root / out).exists() for out in previous):
            with suppress(LatentworksError):
                dvc.run(root, "checkout", "--quiet", stage, env=env)
        lost = [out for out in previous if not (root / out).exists()]
        gaps = f", but for {', '.join(lost)}: run `dvc checkout` to restore them" if lost else ""
        raise dvc.StageError(
            f"{error} The lines above say why (-9 or 137: most often too little memory). "
            f"The previous outputs are back in place{gaps}. Remove the cause, then run the same "
            "command again to continue."
        ) from None
    for out in outs:
        disk.remove(root / KEPT / out)


def _keep(path: Path, kept: Path) -> None:
    if not path.exists():
        return  # a run that was killed may have left its link in `kept`
    disk.remove(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, kept, copy_function=os.link)
    else:
        os.link(path, kept)


def _put_back(kept: Path, path: Path) -> None:
    if kept.exists():
        disk.remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept.rename(path)


def require_whole(
    root: Path,
    stages: Iterable[str],
    report: Callable[[str], None],
    env: dvc.Environment = None,
) -> None:
    """Verify the stages whose outs differ from dvc.lock, and repair these outs.

    DVC restores outs from its cache without a check. The next stage would read a damaged out, and
    dvc.lock would record its result as made from the intact one. Raises Damaged if an out cannot
    be repaired.
    """
    for stage in stages:
        if not dag.is_as_recorded(root, stage):
            verified = verification.verify(root, report, env, stage=stage)
            for line in verified.lines():
                report(line)
            verified.demand_whole()
