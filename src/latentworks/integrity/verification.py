"""What dvc.lock reaches, hashed again; what is damaged is set aside and made whole.

A damaged copy is moved into the quarantine and made again: from the other copy, from DVC's remote,
or by its stage. Each step is done whole or not at all and can be done again, so that the next
verify goes on where one was killed.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from latentworks.errors import LatentworksError
from latentworks.integrity.inspection import Inspection, Out, inputs, recorded
from latentworks.integrity.report import Verified
from latentworks.repository import dag, dvc
from latentworks.system import disk

TRIES = 2  # of a stage: in the first, DVC can link what it makes to a damaged object it has


def verify(
    root: Path,
    report: Callable[[str], None],
    env: dvc.Environment = None,
    stage: str | None = None,
) -> Verified:
    """Hash all that dvc.lock reaches in a checkout, and mend what is damaged or missing.

    With `stage`, what that one has made.

    No stage of the checkout may run meanwhile. Where a stage has to run again its lines are
    reported; dvc.lock stays as it is. What is not mended is in the result. Raises LatentworksError
    where dvc.lock or DVC's settings cannot be read.
    """
    outs = [out for out in recorded(root) if stage in (None, out.stage)]
    if not outs:
        return Verified(notes=(f"nothing is on record in {dag.LOCK}",))
    total = sum(out.size * (1 + out.cached) for out in outs)
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=None) as bar:
        inspection = Inspection(root, env, bar)
        lost = [out for out in outs if not inspection.repair(out)]
        read = inputs(root, outs) if stage is None else {}
        there = {md5: name for md5, name in read.items() if inspection.has(md5)}
        inspection.look_at(there, "If the checkout has it whole, `dvc commit` adds it again.")
        if stage is None:
            inspection.compare_sources(outs)
    inspection.source = "from another out"  # which had the same file, and came later
    lost = inspection.fetch([out for out in lost if not inspection.repair(out)])
    if lost:
        _run_again(inspection, outs, lost, report)
    return inspection.result()


def _run_again(
    inspection: Inspection, outs: list[Out], lost: Iterable[Out], report: Callable[[str], None]
) -> None:
    """Make what is lost by the stages that made it, in DVC's order."""
    waiting = list(lost)
    for stage in dvc.needs(inspection.root, inspection.env):
        its = [out for out in outs if out.stage == stage]
        missed = [out for out in its if out in waiting]
        for _ in range(TRIES if missed else 0):
            why = _run(inspection, stage, its, missed, report)
            missed = [out for out in its if not inspection.repair(out)]
            for out in missed:
                inspection.explain(out, why)
            if why or not missed:
                break


def _run(
    inspection: Inspection,
    stage: str,
    outs: list[Out],
    missed: list[Out],
    report: Callable[[str], None],
) -> str:
    """Run a stage whatever DVC has of it, and leave dvc.lock as it is; returns what went wrong."""
    root, env = inspection.root, inspection.env
    changed = _changed(root, stage, env)
    if changed:
        return (
            f"Stage {stage} would make something else, since {changed} is not as recorded. "
            "`make repro` makes a new result."
        )
    for out in missed:
        if not out.persists:  # DVC is going to delete it
            inspection.clear(out)
    lock = root / dag.LOCK
    before = lock.read_bytes()
    report(f"stage {stage} runs again, for {', '.join(out.name for out in missed)}")
    inspection.source = f"by stage {stage}, which ran again"
    inspection.forget()
    try:
        dvc.reproduce(root, stage, report, env, force=True)
        made = {out["path"]: out["md5"] for out in dag.locked(root)[stage]["outs"]}
    except LatentworksError as error:
        return str(error).capitalize()
    finally:
        if lock.read_bytes() != before:
            with disk.replacing(lock) as temporary:
                temporary.write_bytes(before)
    other = [out.name for out in outs if made.get(out.name) != out.md5]
    if not other:
        return ""
    return (
        f"Stage {stage} ran again and did not make the same: {', '.join(other)}. "
        "`make repro` makes a new result."
    )


def _changed(root: Path, stage: str, env: dvc.Environment) -> str:
    """What a stage would read that is not as dvc.lock has it; empty where all of it is."""
    found = dvc.status(root, env).get(stage, [])
    names = ["its command"] if "changed command" in found else []
    for change in found:
        if isinstance(change, dict):
            names += change.get("changed deps", {})
    return ", ".join(names)
