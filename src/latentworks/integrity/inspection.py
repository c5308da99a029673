"""Inspection of the outs of dvc.lock: each file in the checkout and its object in DVC's cache."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latentworks.errors import LatentworksError
from latentworks.integrity import objects
from latentworks.integrity.objects import FOLDER, MD5, Cache, Files
from latentworks.integrity.report import Fault, Quarantine, Verified
from latentworks.repository import dag, dvc, git
from latentworks.system import disk

CACHED = " in DVC's cache"
MISSING, DIFFERS, UNREADABLE = "missing", "content differs from its MD5", "cannot be read"
NO_LIST = "not a list of files with its MD5"
LIST = "list of files of "


@dataclass(frozen=True)
class Out:
    """A file or folder that a stage writes, as dvc.lock records it."""

    stage: str
    name: str  # its path in dvc.lock
    path: Path
    md5: str
    size: int
    cached: bool  # False: it has no cache object
    persists: bool  # True: the folder may hold files of the user

    @property
    def is_folder(self) -> bool:
        return self.md5.endswith(FOLDER)


def recorded(root: Path) -> list[Out]:
    """Return the outs of all stages, as dvc.lock records them. Raises LatentworksError."""
    locks = dag.locked(root)
    outs = []
    for stage, written in dag.stages(root).items():
        known = dag.options(written)
        for entry in locks.get(stage, {}).get("outs", ()):
            name, md5, size = str(entry["path"]), str(entry.get("md5")), int(entry.get("size", 0))
            if not MD5.fullmatch(md5):
                raise LatentworksError(
                    f"{dag.LOCK} has no MD5 of {name}. Received: {md5!r}. Run `make repro`."
                )
            flags = known.get(name, dag.options({"outs": [name]})[name])
            outs.append(Out(stage, name, root / name, md5, size, flags["cache"], flags["persist"]))
    return outs


def inputs(root: Path, outs: list[Out]) -> dict[str, str]:
    """Return the paths of deps that are no outs, by MD5: images in DVC, and code."""
    made = {out.md5 for out in outs}
    deps = [dep for stage in dag.locked(root).values() for dep in stage.get("deps", ())]
    return {
        str(dep["md5"]): str(dep["path"])
        for dep in deps
        if MD5.fullmatch(str(dep.get("md5"))) and dep["md5"] not in made
    }


class Inspection:
    """One pass over a checkout and its cache: the files hashed and the faults found."""

    def __init__(self, root: Path, env: dvc.Environment = None, bar: Any = None) -> None:
        self.root = root
        self.env = env
        self.bar = bar
        self.cache = Cache(root, env)
        self.quarantine = Quarantine(root)
        self.source = ""  # of the repair of a file that was damaged before and is intact now
        self.faults: dict[str, Fault] = {}  # by `Fault.what`
        self.names: dict[str, str] = {}  # of cache objects, by MD5
        self.notes: dict[str, str] = {}  # by path of the out or dep
        self.objects: set[str] = set()  # MD5s of cache objects found intact before `forget`
        self.whole: set[str] = set()  # MD5s of cache objects found intact since
        self.files: set[Path] = set()  # hashed in the checkout
        self.absent: set[str] = set()  # MD5s of missing objects that only other results need
        self.num_bytes = 0

    def result(self) -> Verified:
        return Verified(
            objects=frozenset(self.objects | self.whole),
            num_files=len(self.files),
            num_bytes=self.num_bytes,
            num_absent=len(self.absent),
            faults=tuple(self.faults.values()),
            notes=tuple(self.notes.values()),
        )

    def compare_sources(self, outs: list[Out]) -> None:
        """Note the user's own files that differ from dvc.lock; they are never repaired."""
        made = [Path(out.name) for out in outs]
        for stage in dag.locked(self.root).values():
            for dep in stage.get("deps", ()):
                name, path = str(dep["path"]), self.root / dep["path"]
                is_own = not any(Path(name).is_relative_to(out) for out in (*made, Path("src")))
                if not is_own or name in self.notes:
                    continue
                self.num_bytes += int(dep.get("size", 0))
                if not path.exists():
                    self.notes[name] = f"{name} is recorded in {dag.LOCK}, but missing"
                elif dag.md5_of(path) != str(dep.get("md5")):
                    self.notes[name] = (
                        f"{name} differs from {dag.LOCK}: it was edited, or damaged. It is your "
                        "own file, and was left alone; the next `make repro` reads it again."
                    )

    def repair(self, out: Out) -> bool:
        """Hash an out in the checkout and in the cache, and repair each copy from the other.

        Damaged copies are quarantined. Return True if the out is intact now.
        """
        found = self._found(out)
        wanted = self._wanted(out, found)
        if wanted is None:
            return False
        here = found == wanted or not self._is_another_result(out, found)
        if here:
            self._quarantine_unrecorded(out, wanted)
        intact = [self._repair_file(out, name, wanted[name], found, here) for name in wanted]
        if all(intact):
            for what, fault in self._faults_of(out).items():
                if not fault.repaired:
                    self.faults[what] = replace(fault, repaired=self.source, cure="")
        return all(intact)

    def _faults_of(self, out: Out) -> dict[str, Fault]:
        whose = (out.name, out.name + CACHED)
        return {what: fault for what, fault in self.faults.items() if fault.whose in whose}

    def _found(self, out: Out) -> dict[str, str | None]:
        """Return the MD5s of the files of an out in the checkout, by path inside the out."""
        names = [""]
        if out.is_folder:
            names = [file.relative_to(out.path).as_posix() for file in _files(out.path)]
        found = {name: self._digest(out.path / name) for name in names}
        self.files |= {out.path / name for name, md5 in found.items() if md5 is not None}
        return found if out.is_folder or os.path.lexists(out.path) else {}

    def _digest(self, path: Path) -> str | None:
        md5 = objects.digest(path)
        if md5 is not None:
            size = path.stat().st_size
            self.num_bytes += size
            if self.bar is not None:
                self.bar.update(size)
        return md5

    def _wanted(self, out: Out, found: dict[str, str | None]) -> Files | None:
        """Return the files that an out should have; None if no intact list says which."""
        if not out.is_folder:
            return {"": out.md5}
        readable = {name: md5 for name, md5 in found.items() if md5 is not None}
        text = objects.listing(readable)
        same = readable == found and objects.md5_of_listing(text) == out.md5
        if not out.cached:
            if not same:
                self._blame(out.path, out.name, out.name, DIFFERS)
            return readable if same else None
        listed = self.cache.files(out.md5)
        if listed is not None:
            self.whole.add(out.md5)
            return listed
        what = f"{LIST}{out.name}{CACHED}"
        self._blame(self.cache.path(out.md5), what, out.name + CACHED, NO_LIST)
        if not same:
            return None
        self._repair_from(what, "from the checkout", lambda: self.cache.add(out.md5, text))
        return readable

    def _is_another_result(self, out: Out, found: dict[str, str | None]) -> bool:
        """True if the checkout has an out of another result, which DVC's cache holds: no damage."""
        files = {name: md5 for name, md5 in found.items() if md5 is not None}
        if not out.cached or not files or files != found:
            return False
        md5 = objects.md5_of_listing(objects.listing(files)) if out.is_folder else files[""]
        if not self.cache.path(md5).is_file() or not self.cache.path(md5).stat().st_size:
            return False
        self.notes[out.name] = (
            f"{out.name} is of another result than {dag.LOCK}, and was left alone; "
            f"`dvc checkout {out.name}` restores the recorded one"
        )
        return True

    def _quarantine_unrecorded(self, out: Out, wanted: Files) -> None:
        """Quarantine files in an out that dvc.lock does not record, or a file in its place."""
        if not out.is_folder:
            return
        unrecorded = [out.path] if os.path.lexists(out.path) and not out.path.is_dir() else []
        if not unrecorded and not out.persists:
            unrecorded = [
                file
                for file in _files(out.path)
                if file.relative_to(out.path).as_posix() not in wanted
            ]
        for path in unrecorded:
            name = path.relative_to(self.root).as_posix()
            self._blame(path, name, out.name, f"not recorded in {dag.LOCK}")
            fault = self.faults[name]
            if fault.kept:
                self.faults[name] = replace(fault, repaired="by moving it away", cure="")

    def _repair_file(
        self, out: Out, name: str, md5: str, found: dict[str, str | None], here: bool
    ) -> bool:
        """Repair a file of an out, in the cache and, if `here`, in the checkout; True if intact."""
        what = f"{out.name}/{name}" if name else out.name
        stored = self.names.setdefault(md5, what + CACHED)  # several outs may share the object
        place = out.path / name
        in_cache = out.cached and self._check_object(md5, stored, out.name + CACHED)
        if here and self._is_link(place, md5):
            if in_cache:
                return True
            place.unlink()  # its cache object was quarantined; DVC fails on a broken link
        in_checkout = here and found.get(name) == md5 and os.path.lexists(place)
        if here and not in_checkout:
            self._blame(place, what, out.name, DIFFERS if found.get(name) else UNREADABLE)
        if in_checkout and out.cached and not in_cache:
            in_cache = self._repair_from(
                stored, "from the checkout", lambda: self.cache.add(md5, place)
            )
            self.whole |= {md5} if in_cache else set()
        elif in_cache and here and not in_checkout:
            in_checkout = self._repair_from(
                what, "from DVC's cache", lambda: self.cache.bring(md5, place)
            )
        elif here and not out.cached and not in_checkout:
            in_checkout = self._from_git(what, md5, place)
        return (in_cache or not out.cached) and (in_checkout or not here)

    def _is_link(self, place: Path, md5: str) -> bool:
        """True if a file of the checkout is a symlink to its cache object."""
        return place.is_symlink() and place.resolve() == self.cache.path(md5).resolve()

    def _from_git(self, what: str, md5: str, place: Path) -> bool:
        """Restore a file from the last commit, if that has this MD5."""
        text = (git.committed(self.root, what) or "").encode()
        if objects.md5_of(text) != md5:
            return False

        def write() -> None:
            with disk.replacing(place) as temporary:
                temporary.write_bytes(text)

        return self._repair_from(what, "from git", write)

    def _check_object(self, md5: str, what: str, whose: str) -> bool:
        """True if a cache object is intact; a damaged one is quarantined."""
        if md5 in self.whole:
            return True
        path = self.cache.path(md5)
        found = self._digest(path)
        if found == md5:
            self.whole.add(md5)
            return True
        self._blame(path, what, whose, DIFFERS if found else UNREADABLE)
        return False

    def _blame(self, path: Path, what: str, whose: str, wrong: str) -> None:
        """Record a fault, and quarantine the file, folder or cache object if it exists."""
        earlier = self.faults.get(what)
        kept = earlier.kept if earlier else ""
        cure = ""
        if os.path.lexists(path):
            place = "cache" if what.endswith(CACHED) else "checkout"
            try:
                name = what.removesuffix(CACHED)
                if name.startswith(LIST):
                    name = name.removeprefix(LIST) + FOLDER
                kept = self.quarantine.take(path, f"{place}/{name}")
            except OSError as error:
                cure = f"It could not be quarantined: {error.strerror}."
        elif earlier is None:
            wrong = MISSING
        else:
            wrong = earlier.wrong
        if earlier and earlier.kept and kept != earlier.kept:
            wrong = f"{wrong}; its replacement is damaged, too"
        self.faults[what] = Fault(what, whose, wrong, kept, cure=cure)

    def _repair_from(self, what: str, source: str, action: Callable[[], None]) -> bool:
        """Repair a fault by `action`, which copies the file from `source`; True if it succeeds."""
        fault = self.faults[what]
        if fault.cure:  # the damaged file could not be quarantined, and is not overwritten
            return False
        try:
            action()
        except OSError as error:
            self.faults[what] = replace(fault, cure=f"{error.strerror}: {error.filename}.")
            return False
        self.faults[what] = replace(fault, repaired=source)
        return True

    def clear(self, out: Out) -> None:
        """Quarantine a folder if no list says which of its files are damaged.

        With a list, damaged files are in the quarantine already, and DVC may delete the rest.
        """
        known = out.cached and self.cache.files(out.md5) is not None
        if out.is_folder and not known and os.path.lexists(out.path):
            self._blame(out.path, out.name, out.name, DIFFERS)

    def forget(self) -> None:
        """Forget which cache objects were verified, so that they are hashed again."""
        self.objects |= self.whole
        self.whole.clear()

    # --- from the remote -------------------------------------------------------------------------

    def has(self, md5: str) -> bool:
        return os.path.lexists(self.cache.path(md5))

    def fetch(self, lost: list[Out]) -> list[Out]:
        """Fetch lost outs from DVC's remote, if there is one; return those still damaged."""
        for _ in range(2):  # the list of a folder may name more files that are damaged
            md5s = [out.md5 for out in lost if out.cached]
            if not md5s or not self.cache.remote:
                break
            self.source = f"from DVC's remote {self.cache.remote}"
            fault = self.cache.fetch(md5s)
            lost = [out for out in lost if not self.repair(out)]
            for out in lost:
                self.explain(out, fault)
        return lost

    def explain(self, out: Out, why: str) -> None:
        """Record why the faults of an out were not repaired."""
        for what, fault in self._faults_of(out).items():
            if not fault.repaired and why:
                self.faults[what] = replace(fault, cure=why)

    def look_at(self, wanted: dict[str, str], cure: str = "") -> None:
        """Hash cache objects that this result does not need; `wanted` has their names by MD5.

        Damaged ones are fetched from the remote, if there is one; `cure` is the advice for those
        that are not. Missing ones are only counted.
        """
        damaged = {md5: bad for md5, name in wanted.items() if (bad := self._look_at(md5, name))}
        if damaged and self.cache.remote:
            self.cache.fetch(damaged)
            self.source = f"from DVC's remote {self.cache.remote}"
        for md5, bad in damaged.items():
            still = self._look_at(md5, wanted[md5])
            for what, each in bad.items():
                fetched = self.has(each) and what not in still
                repaired = self.source if fetched else ""
                self.faults[what] = replace(
                    self.faults[what], repaired=repaired, cure=cure * (not fetched)
                )

    def _look_at(self, md5: str, name: str) -> dict[str, str]:
        """Hash a cache object and those that it lists; return the MD5s of damaged ones, by name."""
        whose = name + CACHED
        if not self.has(md5):
            self.absent.add(md5)
            return {}
        files: Files = {"": md5}
        if md5.endswith(FOLDER):
            listed = self.cache.files(md5)
            if listed is None:
                self._blame(self.cache.path(md5), LIST + whose, whose, NO_LIST)
                return {LIST + whose: md5}
            self.whole.add(md5)
            files = listed
        self.absent -= {md5}
        damaged = {}
        for file, each in files.items():
            what = self.names.setdefault(each, f"{name}/{file}{CACHED}" if file else whose)
            if not self.has(each):
                self.absent.add(each)
            elif not self._check_object(each, what, whose):
                damaged[what] = each
            else:
                self.absent.discard(each)
        return damaged


def _files(folder: Path) -> list[Path]:
    """Return the files and links in a folder, without bytecode, as DVC and `dag.md5_of` do."""
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path for path in paths if "__pycache__" not in path.parts)
