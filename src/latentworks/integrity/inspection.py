"""Damage of outs, found by hash in the checkout and in DVC's cache. No file is changed here."""

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from latentworks.integrity.outs import Out
from latentworks.integrity.report import Fault, Place
from latentworks.repository import dag
from latentworks.repository.cache import Cache, Files

if TYPE_CHECKING:
    from tqdm import tqdm

MISSING = "missing"


@dataclass
class Hashes:
    """The MD5s of files. A file is read again only if it was replaced or written since."""

    verified: Mapping[Path, str] = field(default_factory=dict)  # files that are not read
    bar: "tqdm[NoReturn] | None" = None
    num_bytes: int = 0  # read
    known: dict[tuple[Path, int, int, int], str] = field(default_factory=dict)

    def of(self, path: Path) -> str:
        """Return the MD5 of a file; "" if it does not exist, is no file or cannot be read."""
        if path in self.verified:
            return self.verified[path]
        with suppress(OSError):
            status = path.stat()
            key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
            if key not in self.known and stat.S_ISREG(status.st_mode):
                self.known[key] = dag.md5_of(path)
                self.num_bytes += status.st_size
                if self.bar is not None:
                    self.bar.update(status.st_size)
            return self.known.get(key, "")
        return ""


class Inspection:
    """An out at one moment: its copies in the checkout and in DVC's cache, and their damage."""

    def __init__(self, out: Out, cache: Cache, hashes: Hashes, damaged: Collection[Path]) -> None:
        """`damaged` has the copies of all outs that were damaged before."""
        self.out = out
        self.cache = cache
        self.hashes = hashes
        self.files = self._files()
        self.list = dag.listing(self.files)
        self.md5 = dag.md5(self.list) + dag.FOLDER if out.is_folder else self.files.get(".", "")
        self.is_another_result = (
            (out.cached and bool(self.files) and self.md5 != out.md5)
            and not any(path.is_relative_to(out.path) for path in damaged)
            and self._is_cached()
        )

    def _files(self) -> Files:
        """Return the MD5s of the files in the checkout; "" for unreadable ones.

        Leave out bytecode, as DVC and `dag.md5_of` do.
        """
        place = self.out.path
        if not self.out.needed or not os.path.lexists(place):
            return {}
        inner = sorted(place.rglob("*")) if self.out.is_folder and place.is_dir() else [place]
        return {
            path.relative_to(place).as_posix(): self.hashes.of(path)
            for path in inner
            if "__pycache__" not in path.parts
            and (path == place or os.path.islink(path) or not os.path.isdir(path))
        }

    def _is_cached(self) -> bool:
        """True if DVC's cache has the files of the checkout, so that none is lost with these."""
        has_list = not self.out.is_folder or self.cache.files(self.md5) is not None
        md5s = self.files.values()
        return has_list and all(self.hashes.of(self.cache.path(md5)) == md5 for md5 in md5s)

    def copies(self) -> Iterator[tuple[Path, Fault]]:
        """Yield each copy by path, as a fault; `wrong` is empty for an intact one."""
        out = self.out
        here = out.needed and not self.is_another_result
        wanted: Files | None = {".": out.md5}
        if out.is_folder:
            if out.cached:
                yield self._compared("cache", ".", out.md5)
            wanted = self.files if self.md5 == out.md5 else self.cache.files(out.md5)
        if wanted is None:  # no list says which files of the folder are damaged
            if here and not (out.cached and out.persists):
                yield self._compared("checkout", ".", out.md5)
            return
        for name, md5 in wanted.items():
            if out.cached:
                yield self._compared("cache", name, md5)
            if here:
                yield self._compared("checkout", name, md5)
        for name in sorted({*self.files} - {*wanted}) if here else ():
            if name == "." or not out.persists:
                yield self._compared("checkout", name)

    def _compared(self, place: Place, name: str, md5: str = "") -> tuple[Path, Fault]:
        path = self.cache.path(md5) if place == "cache" else self.out.path / name
        file = (Path(self.out.name) / name).as_posix()
        copy = Fault(place, file, self.out.name, md5, cure=self.out.advice)
        return path, replace(copy, wrong=self._damage(path, copy))

    def _damage(self, path: Path, copy: Fault) -> str:
        """Describe the damage of a copy; "" if it is intact."""
        if not copy.md5:
            return f"not recorded in {dag.LOCK}"
        found = self.hashes.of(path)
        if found == copy.md5 or (copy.is_list and self.cache.files(copy.md5) is not None):
            return ""
        stored = self.cache.path(copy.md5)
        is_link = path != stored and os.path.realpath(path) == os.path.realpath(stored)
        if is_link or not os.path.lexists(path):  # a link to a damaged cache object is no copy
            return MISSING
        is_read = found or copy.is_folder
        return "content differs from its MD5" if is_read else "cannot be read"
