"""Verification of outs: each file in the checkout and its object in DVC's cache, by hash."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentworks.integrity.copies import DIFFERS, Copies
from latentworks.integrity.objects import Cache, Files, md5_of_listing
from latentworks.integrity.outs import Out
from latentworks.integrity.report import Fault, Place, Verified
from latentworks.repository import dag, dvc, git


class Inspection:
    """One verification: finds damaged copies of outs, and repairs each from an intact copy."""

    def __init__(self, root: Path, env: dvc.Environment = None, bar: Any = None) -> None:
        self.root = root
        self.cache = Cache(root, env)
        self.copies = Copies(root, bar)
        self.notes: dict[str, str] = {}  # by path of the out or dep
        self.cures: dict[str, str] = {}  # by path of the out: why it is not repaired
        self.due: dict[Path, str] = {}  # MD5s of files that DVC's cache should restore
        self.absent: set[str] = set()  # MD5s of missing cache objects that are not needed

    def result(self) -> Verified:
        for path, fault in self.copies.faults.items():
            if not fault.repaired and not fault.cure:
                self.copies.explain(path, self.cures.get(fault.out, ""))
        intact = self.copies.intact
        return Verified(
            objects=frozenset(path.parent.name + path.name for path in intact["cache"]),
            num_files=len(intact["checkout"]),
            num_bytes=self.copies.num_bytes,
            num_absent=len(self.absent),
            faults=tuple(self.copies.faults.values()),
            notes=tuple(self.notes.values()),
        )

    def repair(self, outs: list[Out], source: str = "from another out", why: str = "") -> list[Out]:
        """Hash both copies of outs, repair damaged copies from intact ones, and hash them again.

        A copy that was damaged before and is intact now was repaired by `source`. Return the outs
        that are still damaged; `why` is the reason that is reported for them.
        """
        self.copies.source = source
        self.copies.forget_failures({out.name for out in outs})
        self.due.clear()
        lost = [out for out in outs if not self._is_intact(out)]
        if lost:
            self._copy_to_cache()
            self._check_out()
        lost = [out for out in lost if not self._is_intact(out)]
        for out in lost if why else ():
            if out.needed or out.name not in self.cures:
                self.cures[out.name] = why
        return lost

    def fetch(self, lost: list[Out]) -> list[Out]:
        """Fetch lost outs from DVC's remote, if there is one; return those still damaged."""
        for _ in range(2):  # the list of a folder may name more files that are damaged
            md5s = [out.md5 for out in lost if out.cached]
            if md5s and self.cache.remote:
                why = self.cache.fetch(md5s)
                lost = self.repair(lost, f"from DVC's remote {self.cache.remote}", why)
        return lost

    def _copy_to_cache(self) -> None:
        intact = {self.copies.hash(path): path for path in [*self.copies.hashed]}
        for path, fault in self.copies.faults.items():
            if fault.place == "cache" and not fault.repaired and fault.md5 in intact:
                self.copies.write(path, intact[fault.md5], "from the checkout")

    def _check_out(self) -> None:
        due = {
            path: md5
            for path, md5 in self.due.items()
            if self.copies.hash(self.cache.path(md5)) == md5 and not os.path.lexists(path)
        }
        for path, error in self.cache.check_out(due).items() if due else ():
            if error:
                self.copies.explain(path, error)
            else:
                self.copies.mark_repaired(path, "from DVC's cache")

    # --- finding damage --------------------------------------------------------------------------

    def _is_intact(self, out: Out) -> bool:
        """Hash both copies of an out; quarantine damaged ones, and files that are not recorded."""
        self.notes.pop(out.name, None)  # of the files before a repair
        found = self._found(out)
        wanted = self._wanted(out, found)
        if wanted is None:
            return False
        here = out.needed and (found == wanted or not self._is_another_result(out, found))
        if here:
            self._quarantine_unrecorded(out, {*found} - {*wanted})
        intact = [self._is_file_intact(out, name, wanted[name], here) for name in wanted]
        if all(intact) and out.needed:
            self.copies.mark_repaired(out.path)  # a folder that was quarantined as a whole
        return all(intact)

    def _found(self, out: Out) -> Files:
        """Return the MD5s of the files of an out in the checkout; "" for unreadable ones.

        Leave out bytecode, as DVC and `dag.md5_of` do.
        """
        if not out.needed or not os.path.lexists(out.path):
            return {}
        paths = [out.path]
        if out.is_folder:
            inner = sorted(out.path.rglob("*"))
            paths = [path for path in inner if os.path.islink(path) or not os.path.isdir(path)]
        return {
            path.relative_to(out.path).as_posix(): self.copies.hash(path)
            for path in paths
            if "__pycache__" not in path.parts
        }

    def _wanted(self, out: Out, found: Files) -> Files | None:
        """Return the files that an out should have; None if their list is damaged."""
        if not out.is_folder:
            return {".": out.md5}
        if self._is_absent(out, out.md5):
            return {}
        text = dag.listing(found)
        same = found if md5_of_listing(text) == out.md5 else None
        if not out.cached:
            if same is None:
                self.copies.set_aside(out.path, _whole("checkout", out), DIFFERS)
            return same
        path = self.cache.path(out.md5)
        if self.cache.files(out.md5) is None:
            fault = _whole("cache", out)
            self.copies.set_aside(path, fault, "not a list of files with its MD5")
            if same is not None:
                self.copies.write(path, text, "from the checkout")
        files = self.cache.files(out.md5)
        if files is not None:
            self.copies.mark_intact(path, "cache")
        return same if files is None else files

    def _is_absent(self, out: Out, md5: str) -> bool:
        """True if a cache object is missing that is not needed, and it was not damaged."""
        path = self.cache.path(md5)
        absent = not (out.needed or os.path.lexists(path) or path in self.copies.faults)
        (self.absent.add if absent else self.absent.discard)(md5)
        return absent

    def _is_another_result(self, out: Out, found: Files) -> bool:
        """True if the checkout has an out of another result, which DVC's cache holds: no damage."""
        if not out.cached or not found:
            return False
        md5 = md5_of_listing(dag.listing(found)) if out.is_folder else found["."]
        stored = self.cache.path(md5)
        if not os.path.isfile(stored) or not stored.stat().st_size:
            return False
        self.notes[out.name] = (
            f"{out.name} belongs to another result than {dag.LOCK} records, and was left alone; "
            f"`dvc checkout {out.name}` restores the recorded one"
        )
        return True

    def _quarantine_unrecorded(self, out: Out, names: set[str]) -> None:
        """Quarantine files in an out that dvc.lock does not record, or a file in its place."""
        unrecorded = [] if out.persists else [out.path / name for name in sorted(names)]
        if out.is_folder and os.path.lexists(out.path) and not out.path.is_dir():
            unrecorded = [out.path]
        for path in unrecorded:
            fault = Fault("checkout", path.relative_to(self.root).as_posix(), out.name)
            self.copies.set_aside(path, fault, f"not recorded in {dag.LOCK}")
            if not os.path.lexists(path):
                self.copies.mark_repaired(path, "by moving it away")

    def _is_file_intact(self, out: Out, name: str, md5: str, here: bool) -> bool:
        """True if a file of an out is intact in the cache and, if `here`, in the checkout."""
        path, stored = out.path / name, self.cache.path(md5)
        file = (Path(out.name) / name).as_posix()
        intact = (
            not out.cached
            or self._is_absent(out, md5)
            or self.copies.is_intact(stored, Fault("cache", file, out.name, md5))
        )
        dangling = here and os.path.islink(path) and not os.path.exists(path)
        if dangling and path.resolve() == stored.resolve():  # the object is missing
            path.unlink()
        if not here or self.copies.is_intact(path, Fault("checkout", file, out.name, md5)):
            return intact
        if out.cached:
            self.due[path] = md5
        else:
            with suppress(git.GitError):  # git is one source of a repair, and need not be there
                text = (git.committed(self.root, file) or "").encode()
                if hashlib.md5(text, usedforsecurity=False).hexdigest() == md5:
                    self.copies.write(path, text, "from git")
        return False

    def clear(self, outs: list[Out], lost: list[Out]) -> list[str]:
        """Quarantine lost folders of which no list says which files are damaged.

        DVC deletes `outs` before their stage runs. With a list, damaged files are in the quarantine
        already. Return the damage that could not be quarantined; then the folders stay.
        """
        names = {out.name for out in outs}
        for out in lost if not self.copies.stuck_in(names) else ():
            known = out.cached and self.cache.files(out.md5) is not None
            if out.is_folder and not (known or out.persists) and os.path.lexists(out.path):
                self.copies.set_aside(out.path, _whole("checkout", out), DIFFERS)
        return self.copies.stuck_in(names)


def _whole(place: Place, out: Out) -> Fault:
    """Describe a copy of a whole out: its folder, or the list of its files."""
    return Fault(place, out.name, out.name, out.md5)
