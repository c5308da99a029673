"""Verification of the files that dvc.lock names: hash them again, repair damage.

Damaged copies are moved into the quarantine. Then one source after the other makes them again: the
other copy, git, DVC's remote, the stage. After each, the files are hashed again, and damage that is
gone was repaired by this source. Each step is atomic and can be repeated, so that a verification
that was killed continues with the next call.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from latentworks.errors import LatentworksError
from latentworks.integrity.inspection import MISSING, Hashes, Inspection
from latentworks.integrity.objects import Cache, md5_of
from latentworks.integrity.outs import Out, inputs, recorded, verify_sources
from latentworks.integrity.quarantine import Quarantine
from latentworks.integrity.report import Fault, Place, Verified
from latentworks.repository import dag, dvc, git, outputs, timings
from latentworks.system import disk

TRIES = 2  # runs of a stage: in the first, DVC may link the new out to a damaged cache object
Reasons = Mapping[Path, str]  # why damaged copies were not repaired, by path


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
        verification.run_again(name, report)
    return verification.result() + (verify_sources(root, outs) if stage is None else Verified())


def _never_ran(cache: Cache, outs: list[Out]) -> bool:
    """True in a new clone: without timings, outs, cache objects, or a remote that has them."""
    copies = [path for out in outs if out.cached for path in (out.path, cache.path(out.md5))]
    return not (cache.remote or timings.known(cache.root) or any(map(os.path.lexists, copies)))


class Verification:
    """The faults of outs, and the sources that repaired them."""

    def __init__(self, cache: Cache, outs: list[Out], hashes: Hashes) -> None:
        self.cache = cache
        self.outs = outs
        self.hashes = hashes
        self.uncached = {out.name for out in outs if not out.cached}
        self.quarantine = Quarantine(cache.root)
        self.faults: dict[Path, Fault] = {}  # all that were found, by path of the copy
        self.found: list[Inspection] = []  # of the last look, like the next two
        self.copies: dict[Path, Fault] = {}  # `wrong` is empty for an intact one
        self.damaged: dict[Path, Fault] = {}

    def result(self) -> Verified:
        intact = [copy for copy in self.copies.values() if not copy.wrong]
        return Verified(
            objects=self._objects(),
            num_files=sum(copy.place == "checkout" for copy in intact),
            num_bytes=self.hashes.num_bytes,
            num_absent=len(self.copies) - len(intact) - len(self.damaged),
            faults=tuple(self.faults.values()),
            notes=tuple(
                f"{each.out.name} belongs to another result than {dag.LOCK} records, and was left "
                f"alone; `dvc checkout {each.out.name}` restores the recorded one"
                for each in self.found
                if each.is_another_result
            ),
        )

    def repair(self) -> None:
        """Find damage, and repair it from other copies: in the checkout, DVC, git or the remote."""
        self._repair_here("", {})
        for _ in range(2):  # the list of a folder may name more files that are damaged
            md5s = {copy.md5 for _, copy in self._missing("cache")}
            if md5s and self.cache.remote:
                with self.cache.ran("fetch", md5s) as (_, why):
                    reasons = dict.fromkeys(self.lost(), why)
                self._repair_here(f"from DVC's remote {self.cache.remote}", reasons)

    def lost(self) -> dict[Path, Fault]:
        """Return the damaged copies that a stage can make."""
        return {path: copy for path, copy in self.damaged.items() if not copy.cure}

    def run_again(self, stage: str, report: Callable[[str], None]) -> None:
        """Run a stage to repair its outs, if some of them are damaged."""
        made = {out.name: out.md5 for out in self.outs if out.stage == stage}
        why = ""
        for _ in range(TRIES):
            lost = {path: copy for path, copy in self.lost().items() if copy.out in made}
            if why or not lost:
                return
            changed = dvc.changed_inputs(self.cache.root, stage, self.cache.env)
            stuck = {} if changed else self._set_aside(lost)  # DVC deletes outs before their stage
            if changed:
                why = (
                    f"Stage {stage} was not run, since it would make a different result. Changed "
                    f"since {dag.LOCK} was written: {changed}. Run `make repro` for a new result."
                )
            elif stuck:
                what = min(lost[path].what for path in stuck)
                why = f"Stage {stage} was not run, since {what} could not be quarantined."
            else:
                outs = ", ".join(dict.fromkeys(copy.out for copy in lost.values()))
                report(f"stage {stage} runs again to repair {outs}")
                why = _run(self.cache, stage, made, report)
            reasons = {**dict.fromkeys(lost, why), **stuck}
            self._repair_here(f"by stage {stage}, which ran again", reasons)

    def _repair_here(self, source: str, reasons: Reasons) -> None:
        """Note the faults that `source` repaired, and repair others from copies that are here."""
        self._look(source, reasons)
        for source, repair in (
            ("by moving it away", self._quarantine),
            ("from the checkout", self._copy_to_cache),
            ("from DVC's cache", self._check_out),
            ("from git", self._copy_from_git),
        ):
            if self.damaged:
                self._look(source, repair())

    def _look(self, source: str, reasons: Reasons) -> None:
        """Compare all copies with their MD5s. Faults that are gone were repaired by `source`."""
        self.found = [Inspection(out, self.cache, self.hashes, self.faults) for out in self.outs]
        self.copies = {}
        for path, copy in (pair for each in self.found for pair in each.copies()):
            self.copies.setdefault(path, copy)  # outs can share a cache object
        self.damaged = {
            path: copy
            for path, copy in self.copies.items()
            if copy.wrong and (copy.wrong != MISSING or not copy.cure or path in self.faults)
        }
        for path, fault in [*self.faults.items()]:
            if path in self.damaged or fault.repaired:
                continue
            if not fault.kept and any(each.is_relative_to(path) for each in self.damaged):
                del self.faults[path]  # a whole folder: a list now says which files are damaged
            else:
                self.faults[path] = replace(fault, repaired=source, cure="")
        for path, copy in self.damaged.items():
            fault = self.faults.get(path, copy)
            cure = reasons.get(path, fault.cure) or copy.cure
            self.faults[path] = replace(fault, repaired="", cure=cure)

    def _objects(self) -> frozenset[str]:
        """Return the MD5s of intact cache objects."""
        copies = self.copies.values()
        return frozenset(copy.md5 for copy in copies if copy.place == "cache" and not copy.wrong)

    # --- sources of repairs: each returns why it could not repair some copies --------------------

    def _missing(self, place: Place) -> Iterator[tuple[Path, Fault]]:
        for path, copy in self.damaged.items():
            if copy.place == place and not os.path.lexists(path):  # it may be stuck
                yield path, copy

    def _quarantine(self) -> Reasons:
        """Leave whole folders: a list from the remote may say which of their files are damaged."""
        copies = self.damaged.items()
        files = {path: copy for path, copy in copies if copy.is_list or not copy.is_folder}
        return self._set_aside(files)

    def _set_aside(self, copies: Mapping[Path, Fault]) -> Reasons:
        """Move damaged copies into the quarantine."""
        stuck = {}
        for path, copy in copies.items():
            fault = self.faults[path]
            try:
                if copy.wrong != MISSING and os.path.lexists(path):
                    suffix = dag.FOLDER if copy.is_list else ""
                    kept = self.quarantine.take(path, f"{copy.place}/{copy.name}{suffix}")
                    again = "; its replacement is damaged, too" if fault.kept else ""
                    kept = f"{fault.kept} and {kept}" if fault.kept else kept
                    self.faults[path] = replace(fault, wrong=copy.wrong + again, kept=kept)
                elif os.path.islink(path) and not os.path.exists(path):
                    path.unlink()  # its cache object is missing
            except OSError as error:
                why = f"It could not be quarantined: {error.strerror}: {error.filename}."
                stuck[path] = f"{why} Correct that and verify again."
        return stuck

    def _copy_to_cache(self) -> Reasons:
        contents: dict[str, Path | bytes] = {}
        for each in self.found:
            contents |= {md5: each.out.path / name for name, md5 in each.files.items()}
            if each.out.is_folder:
                contents[each.md5] = each.list
        missing = {path: copy.md5 for path, copy in self._missing("cache") if copy.md5 in contents}
        return self._write({path: contents[md5] for path, md5 in missing.items()}, to_cache=True)

    def _check_out(self) -> Reasons:
        objects = self._objects()
        missing = [(path, copy) for path, copy in self._missing("checkout") if copy.md5 in objects]
        files = {path: copy.md5 for path, copy in missing if copy.out not in self.uncached}
        if not files:
            return {}
        with self.cache.ran("checkout", files.values()) as (folder, failure):
            errors = self._write({path: folder / str(number) for number, path in enumerate(files)})
        return {path: f"DVC could not restore it: {failure or errors[path]}" for path in errors}

    def _copy_from_git(self) -> Reasons:
        texts: dict[Path, Path | bytes] = {}
        for path, copy in self._missing("checkout"):
            if copy.out in self.uncached:
                with suppress(git.GitError):  # git is one source of a repair, and need not be there
                    text = (git.committed(self.cache.root, copy.name) or "").encode()
                    texts |= {path: text} if md5_of(text) == copy.md5 else {}
        return self._write(texts)

    def _write(self, contents: Mapping[Path, Path | bytes], *, to_cache: bool = False) -> Reasons:
        """Write damaged copies anew, each whole or not at all, and return the errors.

        Move files from a repository of DVC; copy them into its cache, since `dvc commit` would
        change dvc.lock.
        """
        errors = {}
        for path, content in contents.items():
            try:
                with disk.replacing(path) as temporary:
                    if isinstance(content, bytes):
                        temporary.write_bytes(content)
                    else:
                        (shutil.copyfile if to_cache else shutil.move)(content, temporary)
                    if dag.md5_of(temporary) != self.damaged[path].md5.removesuffix(dag.FOLDER):
                        raise OSError(errno.EIO, "the copy is damaged", str(path))
                    if to_cache:
                        temporary.chmod(0o444)  # as DVC does
            except OSError as error:
                errors[path] = f"{error.strerror}: {error.filename}."
        return errors


def _run(cache: Cache, stage: str, outs: Mapping[str, str], report: Callable[[str], None]) -> str:
    """Run a stage, even if DVC finds it up to date; return the error, or "". `outs` has the MD5s.

    dvc.lock stays. The previous outputs stay, too, unless the stage makes the recorded ones.
    """
    root = cache.root
    lock = root / dag.LOCK
    before = lock.read_bytes()
    try:
        with outputs.kept(root, stage):
            dvc.repro(root, stage, report, cache.env, force=True)
            made = {out["path"]: out["md5"] for out in dag.locked(root)[stage]["outs"]}
            different = [name for name in outs if made.get(name) != outs[name]]
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
