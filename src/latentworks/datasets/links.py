"""Links in a folder of images. Those into the folder, or into a cache of DVC or git-annex, count.

DVC and git-annex can replace a file by a link into their cache. A link to any other place is not
followed, so that a downloaded folder cannot show other files of the machine to the model.
"""

import configparser
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DVC_OBJECT = re.compile(r"(files/md5/)?[0-9a-f]{2}/[0-9a-f]{30}")  # a file in DVC's cache


@dataclass(frozen=True)
class Links:
    """The places to which links in a folder may lead. All paths are absolute and without links."""

    root: str
    caches: tuple[str, ...] = ()  # of DVC
    annexes: tuple[str, ...] = ()  # objects of git-annex

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Find the caches of the repositories around a folder."""
        root = Path(os.path.realpath(folder))
        around = [each for each in root.parents if os.path.isdir(each / ".dvc")]
        caches = {cache for each in around for cache in _caches(each / ".dvc")}
        annexes = [os.fspath(each / ".git/annex/objects") for each in root.parents]
        return cls(os.fspath(root), tuple(sorted(caches)), tuple(filter(os.path.isdir, annexes)))

    def allow(self, path: str) -> bool:
        """True if a path, absolute and without links, is a place to which a link may lead."""
        return (
            _is_in(path, self.root)
            or any(_is_in(path, annex) for annex in self.annexes)
            or any(
                _is_in(path, cache) and DVC_OBJECT.fullmatch(os.path.relpath(path, cache))
                for cache in self.caches
            )
        )


def _caches(settings: Path) -> Iterator[str]:
    """Yield the cache in a folder `.dvc`, and those that its settings name."""
    yield os.path.realpath(settings / "cache")
    for name in ("config", "config.local"):
        reader = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            reader.read(settings / name, encoding="utf-8")
            folder = reader.get("cache", "dir", fallback="")
        except (configparser.Error, UnicodeDecodeError):
            continue
        if folder:
            yield os.path.realpath(settings / os.path.expanduser(folder))


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
