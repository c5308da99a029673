"""Verification of outs: hash their copies, and repair damaged ones from other copies.

Damaged copies are moved into the quarantine. Then one source after the other makes them again: the
checkout, DVC's cache, git, DVC's remote. After each, the files are hashed again, and damage that is
gone was repaired by this source. Each step is atomic and can be repeated, so that a verification
that was killed continues with the next call.
"""

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from latentworks.integrity.inspection import MISSING, Hashes, Inspection
from latentworks.integrity.outs import Out
from latentworks.integrity.quarantine import Quarantine
from latentworks.integrity.report import Fault, Place, Verified
from latentworks.repository import dag, git
from latentworks.repository.cache import Cache
from latentworks.system import disk

Reasons = Mapping[Path, str]  # why damaged copies were not repaired, by path


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
        """Find damage, and repair it from other copies, in the checkout or elsewhere."""
        self.repair_here("", {})
        for _ in range(2):  # the list of a folder may name more files that are damaged
            md5s = {copy.md5 for _, copy in self._missing("cache")}
            if md5s and self.cache.remote:
                with self.cache.ran("fetch", md5s) as (_, why):
                    reasons = dict.fromkeys(self.lost(), why)
                self.repair_here(f"from DVC's remote {self.cache.remote}", reasons)

    def lost(self) -> dict[Path, Fault]:
        """Return the damaged copies that a stage can make."""
        return {path: copy for path, copy in self.damaged.items() if not copy.cure}

    def repair_here(self, source: str, reasons: Reasons) -> None:
        """Note the faults that `source` repaired, and repair others from copies that are here.

        `reasons` say why `source` did not repair some copies.
        """
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
        return self.set_aside(files)

    def set_aside(self, copies: Mapping[Path, Fault]) -> Reasons:
        """Move damaged copies into the quarantine, and return why some could not be moved."""
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
                    texts |= {path: text} if dag.md5(text) == copy.md5 else {}
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
