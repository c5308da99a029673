"""Verify the files that dvc.lock names, and run a stage again where no copy of its outs is left."""

import os
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from latentworks.errors import LatentworksError
from latentworks.integrity.inspection import Hashes
from latentworks.integrity.outs import Out, inputs, recorded, verify_sources
from latentworks.integrity.report import Verified
from latentworks.integrity.verification import Verification
from latentworks.repository import dag, dvc, outputs, timings
from latentworks.repository.cache import Cache
from latentworks.system import disk

TRIES = 2  # runs of a stage: in the first, DVC may link the new out to a damaged cache object


def verify_checkout(
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
    cache = Cache(root, env)
    if stage is None and _never_ran(cache, outs):
        note = (
            f"No stage has run in this checkout: the outs that {dag.LOCK} records are neither here "
            "nor in DVC's cache. Run `make repro`."
        )
        return Verified(notes=(note,))
    others = inputs(outs, cache) if stage is None else []
    total = sum(out.size * (1 + out.cached) for out in outs)
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=None) as bar:
        verification = Verification(cache, [*outs, *others], Hashes(bar=bar))
        verification.repair()
    for name in dvc.needs(root, env) if verification.lost() else ():
        made = {out.name: out.md5 for out in outs if out.stage == name}
        _remake(verification, name, made, report)
    return verification.result() + (verify_sources(root, outs) if stage is None else Verified())


def _never_ran(cache: Cache, outs: list[Out]) -> bool:
    """True in a new clone: without timings, outs, cache objects, or a remote that has them."""
    copies = [path for out in outs if out.cached for path in (out.path, cache.path(out.md5))]
    return not (cache.remote or timings.known(cache.root) or any(map(os.path.lexists, copies)))


def _remake(
    verification: Verification, stage: str, made: dict[str, str], report: Callable[[str], None]
) -> None:
    """Run a stage to repair its outs, if some of them are damaged. `made` has their MD5s."""
    cache, why = verification.cache, ""
    for _ in range(TRIES):
        lost = {path: copy for path, copy in verification.lost().items() if copy.out in made}
        if why or not lost:
            return
        changed = dvc.changed_inputs(cache.root, stage, cache.env)
        stuck = {} if changed else verification.set_aside(lost)  # DVC deletes outs before a stage
        if changed:
            why = (
                f"Stage {stage} was not run, since it would make a different result. Changed since "
                f"{dag.LOCK} was written: {changed}. Run `make repro` for a new result."
            )
        elif stuck:
            what = min(lost[path].what for path in stuck)
            why = f"Stage {stage} was not run, since {what} could not be quarantined."
        else:
            outs = ", ".join(dict.fromkeys(copy.out for copy in lost.values()))
            report(f"stage {stage} runs again to repair {outs}")
            why = _run(cache, stage, made, report)
        reasons = {**dict.fromkeys(lost, why), **stuck}
        verification.repair_here(f"by stage {stage}, which ran again", reasons)


def _run(cache: Cache, stage: str, made: dict[str, str], report: Callable[[str], None]) -> str:
    """Run a stage, even if DVC finds it up to date; return the error, or "".

    dvc.lock stays. The previous outputs stay, too, unless the stage makes the recorded ones.
    """
    root = cache.root
    lock = root / dag.LOCK
    before = lock.read_bytes()
    try:
        with outputs.kept(root, stage):
            dvc.repro(root, stage, report, cache.env, force=True)
            now = {out["path"]: out["md5"] for out in dag.locked(root)[stage]["outs"]}
            different = [name for name in made if now.get(name) != made[name]]
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
