"""Verification of outs: each file in the checkout and its object in DVC's cache, by hash."""

import hashlib
import os
from pathlib import Path
from typing import Any

from latentworks.integrity.copies import DIFFERS, Copies
from latentworks.integrity.objects import Cache, Files, md5_of_listing
from latentworks.integrity.outs import Out
from latentworks.integrity.report import Fault, Verified
from latentworks.repository import dag, dvc, git

NO_LIST = "not a list of files with its MD5"


class Inspection:
    """One verification: finds damaged copies of outs, and repairs each from the other copy."""

    def __init__(self, root: Path, env: dvc.Environment = None, bar: Any = None) -> None:
        self.root = root
        self.cache = Cache(root, env)
        self.copies = Copies(root, bar)
        self.notes: dict[str, str] = {}  # by path of the out or dep
        self.due: dict[Path, str] = {}  # MD5s of files that DVC's cache should restore
        self.files: set[Path] = set()  # hashed in the checkout
        self.absent: set[str] = set()  # MD5s of missing cache objects that are not needed

    def result(self) -> Verified:
        return Verified(
            objects=frozenset(self.copies.objects),
            num_files=len(self.files),
            num_bytes=self.copies.num_bytes,
            num_absent=len(self.absent),
            faults=tuple(self.copies.faults.values()),
            notes=tuple(self.notes.values()),
        )

    # --- repair ----------------------------------------------------------------------------------

    def repair(self, outs: list[Out], source: str = "from another out", why: str = "") -> list[Out]:
        """Hash both copies of outs, repair damaged copies from the other one, and hash them again.

        A copy that was damaged before and is intact now was repaired by `source`. Return the outs
        that are still damaged; `why` is recorded as the reason.
        """
        self.copies.source = source
        self.due.clear()
        failed: set[Path] = set()
        lost = [out for out in outs if not self._is_intact(out)]
        if lost:
            self._copy_to_cache()
            failed = self._check_out()
        lost = [out for out in lost if not self._is_intact(out)]
        needed = {out.name: out.needed for out in lost} if why else {}
        for path, fault in self.copies.faults.items():
            # A file that cannot be written keeps that explanation, and an out that is not needed
            # its first one: the advice for its user.
            explained = path in failed or (fault.cure and not needed.get(fault.out))
            if fault.out in needed and not fault.repaired and not explained:
                self.copies.explain(path, why)
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
        intact = {md5: path for path, md5 in self.copies.hashed.items()}
        for path, fault in self.copies.faults.items():
            if fault.place == "cache" and not fault.repaired and fault.md5 in intact:
                self.copies.write(path, intact[fault.md5], "from the checkout")

    def _check_out(self) -> set[Path]:
        """Restore the files that are due from DVC's cache; return those that cannot be written."""
        due = {
            path: md5
            for path, md5 in self.due.items()
            if self.copies.hash(self.cache.path(md5)) == md5 and not os.path.lexists(path)
        }
        try:
            errors = self.cache.check_out(due) if due else {}
        except OSError as error:  # the disk is full
            errors = dict.fromkeys(due, f"{error.strerror}: {error.filename}.")
        for path in due:
            if path in errors:
                self.copies.explain(path, errors[path])
            else:
                self.copies.mark_repaired(path, "from DVC's cache")
        return set(errors)

    def clear(self, out: Out) -> None:
        """Quarantine a folder, before DVC deletes it, if no list says which files are damaged.

        With a list, damaged files are in the quarantine already.
        """
        known = out.cached and self.cache.files(out.md5) is not None
        if out.is_folder and not known and not out.persists and os.path.lexists(out.path):
            self.copies.set_aside(out.path, Fault("checkout", out.name, out.name, out.md5), DIFFERS)

    # --- finding damage --------------------------------------------------------------------------

    def _is_intact(self, out: Out) -> bool:
        """Hash both copies of an out; quarantine damaged ones, and files that are not recorded."""
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
        """Return the MD5s of the files of an out in the checkout; "" for unreadable ones."""
        if not out.needed or not os.path.lexists(out.path):
            return {}
        files = _files(out.path) if out.is_folder else [out.path]
        found = {file: self.copies.hash(file) for file in files}
        self.files |= {file for file in files if found[file]}
        return {file.relative_to(out.path).as_posix(): md5 for file, md5 in found.items()}

    def _wanted(self, out: Out, found: Files) -> Files | None:
        """Return the files that an out should have; None if no intact list says which."""
        if not out.needed and self._is_absent(out.md5):
            return {}
        if not out.is_folder:
            return {".": out.md5}
        text = dag.listing(found)
        same = md5_of_listing(text) == out.md5
        if not out.cached:
            if not same:
                self.copies.set_aside(
                    out.path, Fault("checkout", out.name, out.name, out.md5), DIFFERS
                )
            return found if same else None
        path = self.cache.path(out.md5)
        if self.cache.files(out.md5) is None:
            self.copies.set_aside(path, Fault("cache", out.name, out.name, out.md5), NO_LIST)
            if same:
                self.copies.write(path, text, "from the checkout")
        files = self.cache.files(out.md5)
        if files is not None:
            self.copies.mark_repaired(path)
            self.copies.objects.add(out.md5)
        return files

    def _is_absent(self, md5: str) -> bool:
        """True if a cache object is missing, and not because it was damaged."""
        path = self.cache.path(md5)
        absent = not os.path.lexists(path) and path not in self.copies.faults
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
            f"{out.name} is of another result than {dag.LOCK}, and was left alone; "
            f"`dvc checkout {out.name}` restores the recorded one"
        )
        return True

    def _quarantine_unrecorded(self, out: Out, names: set[str]) -> None:
        """Quarantine files in an out that dvc.lock does not record, or a file in its place."""
        unrecorded = [] if out.persists else [out.path / name for name in sorted(names)]
        if out.is_folder and os.path.lexists(out.path) and not out.path.is_dir():
            unrecorded = [out.path]
        for path in unrecorded:
            name = path.relative_to(self.root).as_posix()
            self.copies.set_aside(
                path, Fault("checkout", name, out.name), f"not recorded in {dag.LOCK}"
            )
            if not os.path.lexists(path):
                self.copies.mark_repaired(path, "by moving it away")

    def _is_file_intact(self, out: Out, name: str, md5: str, here: bool) -> bool:
        """True if a file of an out is intact in the cache and, if `here`, in the checkout."""
        path, stored = out.path / name, self.cache.path(md5)
        file = (Path(out.name) / name).as_posix()
        in_cache = not out.cached or (not out.needed and self._is_absent(md5))
        in_cache = in_cache or self.copies.is_intact(stored, Fault("cache", file, out.name, md5))
        if not here:
            return in_cache
        broken = path.is_symlink() and not os.path.lexists(stored)
        if broken and path.resolve() == stored.resolve():
            path.unlink()  # the cache object was quarantined, and DVC fails on a broken link
            self.copies.hashed.pop(path, None)
        in_checkout = self.copies.is_intact(path, Fault("checkout", file, out.name, md5))
        if not in_checkout and out.cached:
            self.due[path] = md5
        elif not in_checkout:
            text = (git.committed(self.root, file) or "").encode()
            if hashlib.md5(text, usedforsecurity=False).hexdigest() == md5:
                self.copies.write(path, text, "from git")
        return in_cache and in_checkout


def _files(folder: Path) -> list[Path]:
    """Return the files and links in a folder, without bytecode, as DVC and `dag.md5_of` do."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path for path in paths if "__pycache__" not in path.parts)
