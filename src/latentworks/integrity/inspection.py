"""The two copies of what dvc.lock records, one in the checkout and one in DVC's cache, compared."""

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
MISSING, DIFFERS, UNREADABLE = "missing", "not what its MD5 says", "cannot be read"
NO_LIST = "no list of files with its MD5"
LIST = "list of files of "


@dataclass(frozen=True)
class Out:
    """What dvc.lock says of a file or folder that a stage writes."""

    stage: str
    name: str  # its path as written
    path: Path
    md5: str
    size: int
    cached: bool  # False: the checkout has the only copy
    persists: bool  # a person may put files of their own in

    @property
    def is_folder(self) -> bool:
        return self.md5.endswith(FOLDER)


def recorded(root: Path) -> list[Out]:
    """The outs of the stages of dvc.yaml, as dvc.lock has them."""
    locks = dag.locked(root)
    found = []
    for stage, written in dag.stages(root).items():
        known = dag.options(written)
        for entry in locks.get(stage, {}).get("outs", ()):
            name, md5, size = str(entry["path"]), str(entry.get("md5")), int(entry.get("size", 0))
            if not MD5.fullmatch(md5):
                raise LatentworksError(
                    f"{dag.LOCK} has no MD5 of {name}. Received: {md5!r}. Run `make repro`."
                )
            of = known.get(name, dag.options({"outs": [name]})[name])
            found.append(Out(stage, name, root / name, md5, size, of["cache"], of["persist"]))
    return found


def inputs(root: Path, outs: list[Out]) -> dict[str, str]:
    """What stages have read and none has made, by MD5: images that DVC keeps, and code."""
    made = {out.md5 for out in outs}
    deps = [dep for stage in dag.locked(root).values() for dep in stage.get("deps", ())]
    return {
        str(dep["md5"]): str(dep["path"])
        for dep in deps
        if MD5.fullmatch(str(dep.get("md5"))) and dep["md5"] not in made
    }


class Inspection:
    """What was hashed, and what was found, in one checkout and its cache."""

    def __init__(self, root: Path, env: dvc.Environment = None, bar: Any = None) -> None:
        self.root = root
        self.env = env
        self.bar = bar
        self.cache = Cache(root, env)
        self.quarantine = Quarantine(root)
        self.source = ""  # what has made whole what is found whole now
        self.faults: dict[str, Fault] = {}  # by what
        self.names: dict[str, str] = {}  # of objects, by MD5
        self.notes: dict[str, str] = {}  # by out
        self.objects: set[str] = set()  # that were found whole at some time, by MD5
        self.whole: set[str] = set()  # and are so now
        self.files: set[Path] = set()  # of the checkout
        self.absent: set[str] = set()  # objects that are missed by nobody here
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
        """Note what a person has put there and dvc.lock records otherwise; it is left alone."""
        made = [Path(out.name) for out in outs]
        for stage in dag.locked(self.root).values():
            for dep in stage.get("deps", ()):
                name, path = str(dep["path"]), self.root / dep["path"]
                ours = any(Path(name).is_relative_to(each) for each in (*made, Path("src")))
                if ours or name in self.notes:
                    continue
                self.num_bytes += int(dep.get("size", 0))
                if not path.exists():
                    self.notes[name] = f"{name}, which {dag.LOCK} names, is not there"
                elif dag.md5_of(path) != str(dep.get("md5")):
                    self.notes[name] = (
                        f"{name} is not what {dag.LOCK} records: it was edited, or damaged. "
                        "It is yours, and left alone; the next `make repro` reads it anew."
                    )

    def repair(self, out: Out) -> bool:
        """Hash an out, set aside what is damaged, and copy what one place has to the other.

        Returns whether it is whole now.
        """
        found = self._found(out)
        wanted = self._wanted(out, found)
        if wanted is None:
            return False
        here = found == wanted or not self._is_another_result(out, found)
        if here:
            self._set_strangers_aside(out, wanted)
        repaired = [self._repair_file(out, name, wanted[name], found, here) for name in wanted]
        if all(repaired):
            for what, fault in self._faults_of(out).items():
                if not fault.repaired:
                    self.faults[what] = replace(fault, repaired=self.source, cure="")
        return all(repaired)

    def _faults_of(self, out: Out) -> dict[str, Fault]:
        whose = (out.name, out.name + CACHED)
        return {what: fault for what, fault in self.faults.items() if fault.whose in whose}

    def _found(self, out: Out) -> dict[str, str | None]:
        """The MD5s of what is in the checkout, by path inside the out."""
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
        """The files that the out should have; None where nothing whole says which."""
        if not out.is_folder:
            return {"": out.md5}
        whole = {name: md5 for name, md5 in found.items() if md5 is not None}
        text = objects.listing(whole)
        same = whole == found and objects.md5_of_listing(text) == out.md5
        if not out.cached:
            if not same:
                self._blame(out.path, out.name, out.name, DIFFERS)
            return whole if same else None
        listed = self.cache.files(out.md5)
        if listed is not None:
            self.whole.add(out.md5)
            return listed
        what = f"{LIST}{out.name}{CACHED}"
        self._blame(self.cache.path(out.md5), what, out.name + CACHED, NO_LIST)
        if not same:
            return None
        self._repair_from(what, "from the checkout", lambda: self.cache.add(out.md5, text))
        return whole

    def _is_another_result(self, out: Out, found: dict[str, str | None]) -> bool:
        """Whether the checkout has what DVC keeps as another result: that is no damage."""
        files = {name: md5 for name, md5 in found.items() if md5 is not None}
        if not out.cached or not files or files != found:
            return False
        md5 = objects.md5_of_listing(objects.listing(files)) if out.is_folder else files[""]
        if not self.cache.path(md5).is_file() or not self.cache.path(md5).stat().st_size:
            return False
        self.notes[out.name] = (
            f"{out.name} is another result than the one in {dag.LOCK}, and left alone; "
            f"`dvc checkout {out.name}` brings that one"
        )
        return True

    def _set_strangers_aside(self, out: Out, wanted: Files) -> None:
        """Move away what is in the place of the out, or in it, and was not recorded."""
        if not out.is_folder:
            return
        strangers = [out.path] if os.path.lexists(out.path) and not out.path.is_dir() else []
        if not strangers and not out.persists:
            strangers = [
                file
                for file in _files(out.path)
                if file.relative_to(out.path).as_posix() not in wanted
            ]
        for path in strangers:
            name = path.relative_to(self.root).as_posix()
            self._blame(path, name, out.name, "not there when it was recorded")
            fault = self.faults[name]
            if fault.kept:
                self.faults[name] = replace(fault, repaired="by that", cure="")

    def _repair_file(
        self, out: Out, name: str, md5: str, found: dict[str, str | None], here: bool
    ) -> bool:
        """One file of an out, in the cache and, if `here`, in the checkout."""
        what = f"{out.name}/{name}" if name else out.name
        stored = self.names.setdefault(md5, what + CACHED)  # other outs may have it, too
        place = out.path / name
        in_cache = out.cached and self._check_object(md5, stored, out.name + CACHED)
        if here and self._is_link(place, md5):
            if in_cache:
                return True
            place.unlink()  # it leads nowhere now, and DVC would stop at it
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
        """Whether a file of the checkout is its object by another name."""
        return place.is_symlink() and place.resolve() == self.cache.path(md5).resolve()

    def _from_git(self, what: str, md5: str, place: Path) -> bool:
        text = (git.committed(self.root, what) or "").encode()
        if objects.md5_of(text) != md5:
            return False

        def write() -> None:
            with disk.replacing(place) as temporary:
                temporary.write_bytes(text)

        return self._repair_from(what, "from git", write)

    def _check_object(self, md5: str, what: str, whose: str) -> bool:
        """Whether an object is whole; if not, it is not there any more."""
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
        """Note what is wrong, and move it into the quarantine if it is there at all."""
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
                cure = f"It cannot be moved: {error.strerror}."
        elif earlier is None:
            wrong = MISSING
        else:
            wrong = earlier.wrong
        if earlier and earlier.kept and kept != earlier.kept:
            wrong = f"{wrong}, and so is what came instead"
        self.faults[what] = Fault(what, whose, wrong, kept, cure=cure)

    def _repair_from(self, what: str, source: str, action: Callable[[], None]) -> bool:
        fault = self.faults[what]
        if fault.cure:  # the damaged one could not be moved, and is not overwritten
            return False
        try:
            action()
        except OSError as error:
            self.faults[what] = replace(fault, cure=f"{error.strerror}: {error.filename}.")
            return False
        self.faults[what] = replace(fault, repaired=source)
        return True

    def clear(self, out: Out) -> None:
        """Move a folder away of which nobody can say what is damaged in it.

        Otherwise what is still there is whole, and may be deleted.
        """
        known = out.cached and self.cache.files(out.md5) is not None
        if out.is_folder and not known and os.path.lexists(out.path):
            self._blame(out.path, out.name, out.name, DIFFERS)

    def forget(self) -> None:
        """Believe of no object any more that it is whole."""
        self.objects |= self.whole
        self.whole.clear()

    # --- from the remote -------------------------------------------------------------------------

    def has(self, md5: str) -> bool:
        return os.path.lexists(self.cache.path(md5))

    def fetch(self, lost: list[Out]) -> list[Out]:
        """Bring outs from DVC's remote, if there is one; returns those that are still not whole."""
        for _ in range(2):  # the list of a folder may tell of more that is damaged
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
        """Say of what is not mended in an out why that is."""
        for what, fault in self._faults_of(out).items():
            if not fault.repaired and why:
                self.faults[what] = replace(fault, cure=why)

    def look_at(self, wanted: dict[str, str], cure: str = "") -> None:
        """Hash objects that nothing here needs, as far as they are there; by MD5, what they are.

        Damaged ones come from the remote, if there is one. Missing ones are counted.
        """
        damaged = {md5: bad for md5, name in wanted.items() if (bad := self._look_at(md5, name))}
        if damaged and self.cache.remote:
            self.cache.fetch(damaged)
            self.source = f"from DVC's remote {self.cache.remote}"
        for md5, bad in damaged.items():
            still = self._look_at(md5, wanted[md5])
            for what, each in bad.items():
                came = self.has(each) and what not in still
                repaired = self.source if came else ""
                self.faults[what] = replace(
                    self.faults[what], repaired=repaired, cure=cure * (not came)
                )

    def _look_at(self, md5: str, name: str) -> dict[str, str]:
        """What is damaged of an object and those that it lists: its MD5 by what it is."""
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
    """What is in a folder, but for bytecode, which neither DVC nor `md5_of` looks at."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return sorted(path for path in found if "__pycache__" not in path.parts)
