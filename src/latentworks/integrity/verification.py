"""Verification of the files that dvc.lock names: hash them again, repair damage.

A damaged copy is moved into the quarantine and replaced: from the other copy, from DVC's remote, or
by its stage. Each step is atomic and can be repeated, so that a verification that was killed
continues with the next call.
"""

import os
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from latentworks.errors import LatentworksError
from latentworks.integrity.inspection import Inspection
from latentworks.integrity.outs import Out, changed_sources, inputs, recorded
from latentworks.integrity.report import Verified
from latentworks.repository import dag, dvc, outputs, timings
from latentworks.system import disk

TRIES = 2  # runs of a stage: in the first, DVC may link the new out to a damaged cache object


def verify(
    root: Path,
    report: Callable[[str], None],
    env: dvc.Environment = None,
    stage: str | None = None,
) -> Verified:
    """Hash the files that dvc.lock names in a checkout, and repair damaged and missing ones.

    With `stage`, only the outs of that stage. The caller makes sure that no stage of the checkout
    runs at the same time. `report` gets the lines of a stage that has to run again. dvc.lock does
    not change. Faults that were not repaired are in the result. Raises LatentworksError if dvc.lock
    or DVC's settings cannot be read.
    """
    outs = [out for out in recorded(root) if stage in (None, out.stage)]
    if not outs:
        return Verified(notes=(f"{dag.LOCK} records no outs: nothing to verify",))
    total = sum(out.size * (1 + out.cached) for out in outs)
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=None) as bar:
        inspection = Inspection(root, env, bar)
        if stage is None and _never_ran(inspection, outs):
            return Verified(
                notes=(
                    f"No stage has run in this checkout: the outs that {dag.LOCK} records are "
                    "neither here nor in DVC's cache. Run `make repro`.",
                )
            )
        lost = inspection.repair(outs)
        if stage is None:
            _verify_inputs(inspection, outs)
    lost = inspection.fetch(lost)
    for name in dvc.needs(root, env) if lost else ():
        made = [out for out in outs if out.stage == name]
        missed = inspection.repair([out for out in made if out in lost])
        for _ in range(TRIES if missed else 0):
            why = _run(inspection, name, made, missed, report)
            missed = inspection.repair(made, f"by stage {name}, which ran again", why)
            if why or not missed:
                break
    return inspection.result()


def _never_ran(inspection: Inspection, outs: list[Out]) -> bool:
    """True in a new clone: without timings, outs, cache objects, or a remote that has them."""
    cache = inspection.cache
    copies = [path for out in outs if out.cached for path in (out.path, cache.path(out.md5))]
    traces = (cache.remote, timings.known(inspection.root), any(map(os.path.lexists, copies)))
    return not any(traces)


def _verify_inputs(inspection: Inspection, outs: list[Out]) -> None:
    root = inspection.root
    stored = [out for out in inputs(root, outs) if os.path.lexists(inspection.cache.path(out.md5))]
    advice = "If the file in the checkout is intact, run `dvc commit`."
    inspection.fetch(inspection.repair(stored, why=advice))
    notes, num_bytes = changed_sources(root, outs)
    inspection.notes |= notes
    inspection.copies.num_bytes += num_bytes


def _run(
    inspection: Inspection,
    stage: str,
    outs: list[Out],
    lost: list[Out],
    report: Callable[[str], None],
) -> str:
    """Run a stage, even if DVC finds it up to date; return the error, or "".

    dvc.lock stays. The previous outputs stay, too, unless the stage makes the recorded ones.
    """
    root, env = inspection.root, inspection.cache.env
    changed = dvc.changed_inputs(root, stage, env)
    if changed:
        return (
            f"Stage {stage} was not run, since it would make a different result. Changed since "
            f"{dag.LOCK} was written: {changed}. Run `make repro` for a new result."
        )
    stuck = inspection.clear(outs, lost)
    if stuck:
        return f"Stage {stage} was not run, since {stuck[0]} could not be quarantined."
    lock = root / dag.LOCK
    before = lock.read_bytes()
    report(f"stage {stage} runs again to repair {', '.join(out.name for out in lost)}")
    inspection.copies.hashed.clear()
    try:
        with outputs.kept(root, stage):
            dvc.repro(root, stage, report, env, force=True)
            made = {out["path"]: out["md5"] for out in dag.locked(root)[stage]["outs"]}
            different = [out.name for out in outs if made.get(out.name) != out.md5]
            if different:
                raise dvc.StageError(
                    f"Stage {stage} ran again, and its outs differ from {dag.LOCK}: "
                    f"{', '.join(different)}. Run `make repro` for a new result."
                )
    except LatentworksError as error:
        return str(error)
    finally:
        if lock.read_bytes() != before:
            with disk.replacing(lock) as temporary:
                temporary.write_bytes(before)
    return ""
