"""Run the stages that are out of date; if one fails, keep its previous outputs."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from latentworks.errors import LatentworksError
from latentworks.repository import dag, dvc, outputs
from latentworks.repository.outputs import KEPT
from latentworks.repository.plan import Outdated
from latentworks.runner import lost_outs, resources
from latentworks.runner.verify import verify_checkout

UNCHANGED = "unchanged"  # an outcome: DVC had nothing to do


def reproduce(
    root: Path, each: Callable[[str, set[str], bool], str], env: dvc.Environment = None
) -> dict[str, str]:
    """Run the stages of a checkout in DVC's order, and return their outcomes by name.

    `each(stage, needs, due)` runs one stage and returns its outcome, a value of `dvc.OUTCOMES`.
    `needs` are the stages whose outs it reads. `due` is false if DVC finds no change in it, and no
    stage of `needs` changed its outs. The caller holds the lock of the checkout.
    """
    outdated = Outdated.of(root, env)
    if outdated.changed:
        resources.make_ready(root, outdated.may_run(), env)
    outcomes: dict[str, str] = {}
    for stage, needed in outdated.needs.items():
        remade = [other for other in outcomes if outcomes[other] != UNCHANGED]
        outcomes[stage] = each(stage, needed, outdated.is_due(stage, remade))
    return outcomes


def reproduce_on_terminal(
    root: Path, report: Callable[[str], None], notes: Callable[[str], Iterable[str]]
) -> None:
    """Run the stages that are out of date, with their progress bars on this process's terminal.

    `notes(stage)` are reported before a stage runs. The caller holds the lock of the checkout.
    Raises LatentworksError if a stage cannot run or fails; its previous outputs are then back.
    """

    def each(stage: str, needs: set[str], due: bool) -> str:
        if not due:
            return UNCHANGED
        for line in notes(stage):
            report(f"note: {line}")
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
    outs = dag.outs_of(dag.stages(root)[stage])
    previous = [out for out in outs if (root / out).exists() or (root / KEPT / out).exists()]
    try:
        with outputs.kept(root, stage), lost_outs.forgotten(root, stage, env):
            outcome = dvc.repro(root, stage, report, env, force=force, on_terminal=on_terminal)
    except dvc.StageError as error:
        if not all((root / out).exists() for out in previous):
            with suppress(LatentworksError):
                dvc.run(root, "checkout", "--quiet", stage, env=env)
        lost = [out for out in previous if not (root / out).exists()]
        gaps = f", but for {', '.join(lost)}: run `dvc checkout` to restore them" if lost else ""
        kept = f" The previous outputs are back in place{gaps}." if previous else ""
        raise dvc.StageError(f"{error}{kept}") from None
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
            verified = verify_checkout(root, report, env, stage=stage)
            for line in verified.lines():
                report(line)
            verified.demand_whole()
