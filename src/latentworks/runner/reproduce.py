"""A checkout made ready for DVC, and its stages run: what a kill has left is mended first."""

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

KEPT = STATE / "kept"  # outputs of before, while their stage runs


def reproduce(root: Path, report: Callable[[str], None]) -> None:
    """Run the stages that are out of date, on the terminal of this process.

    The caller holds the lock of the checkout. Raises LatentworksError where one cannot be run or
    fails; its outputs are then those of before.
    """
    steps = plan.plan(root)
    if not steps:
        require_whole(root, dag.stages(root), report)
        report("everything is up to date")
        return
    stages = [step.stage for step in steps]
    resources.make_ready(root, stages)
    for step in steps:
        require_whole(root, step.needs, report)
        with outputs_kept(root, step.stage):
            dvc.reproduce(root, step.stage, report, on_terminal=True)
    require_whole(root, stages, report)


@contextmanager
def outputs_kept(root: Path, stage: str, env: dvc.Environment = None) -> Iterator[None]:
    """Where the stage fails, its outputs are those of before, and the error says so.

    DVC removes them before the stage runs. Other names for the same files take no room, so that
    they can be put back when the disk is full.
    """
    written = dag.stages(root)[stage]
    persisting = {name for name, of in dag.options(written).items() if of["persist"]}
    outs = [out for out in dag.outs_of(written) if out not in persisting]
    for out in outs:
        with suppress(OSError):  # some file systems have no second names
            _keep(root / out, root / KEPT / out)
    there = [out for out in outs if (root / out).exists() or (root / KEPT / out).exists()]
    try:
        yield
    except BaseException as error:
        for out in outs:
            with suppress(OSError):
                _put_back(root / KEPT / out, root / out)
        if not isinstance(error, dvc.StageError):  # it was told to end
            raise
        if not all((root / out).exists() for out in there):
            with suppress(LatentworksError):
                dvc.run(root, "checkout", "--quiet", stage, env=env)
        lost = [out for out in there if not (root / out).exists()]
        state = f"; bring back {', '.join(lost)} by `dvc checkout`" if lost else ""
        raise dvc.StageError(
            f"{str(error).rstrip('.')}, and the lines above say why (-9 or 137 is most often too "
            f"little memory); its outputs are those of before{state}. When the cause is gone, the "
            "same command goes on from here."
        ) from None
    for out in outs:
        disk.remove(root / KEPT / out)


def _keep(path: Path, kept: Path) -> None:
    if not path.exists():
        return  # a run that was killed has kept it
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
    """Mend what DVC has taken from its cache for these stages, where that was damaged.

    It does not look, and what the next stage makes of it would be on record as made from what was
    whole. Raises Damaged where it cannot be mended.
    """
    for stage in stages:
        if not dag.is_as_recorded(root, stage):
            verified = verification.verify(root, report, env, stage=stage)
            for line in verified.lines():
                report(line)
            verified.demand_whole()
