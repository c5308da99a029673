"""DVC's cache as files: read, add and fetch cache objects.

DVC trusts a cache object that exists and is read-only. Here only the bytes count: sizes, times and
DVC's own records are never trusted.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from errno import EIO
from pathlib import Path, PurePosixPath

from latentworks.errors import LatentworksError
from latentworks.repository import dag, dvc
from latentworks.system import disk

FOLDER = ".dir"  # suffix of the MD5 of a folder; its cache object is a list of files
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
READ_ONLY = 0o444  # mode of every cache object
FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file

Files = dict[str, str]  # MD5s by path inside a folder; a single file has the path ""


def digest(path: Path) -> str | None:
    """Return the MD5 of a file; None if it does not exist, is no file or cannot be read."""
    try:
        return dag.md5_of(path) if path.is_file() else None
    except OSError:
        return None


def listing(files: Files) -> bytes:
    """Return the cache object of a folder, a JSON list of its files, as DVC writes it."""
    names = sorted(files, key=lambda name: name.split("/"))
    entries = [{"md5": files[name], "relpath": name} for name in names]
    return json.dumps(entries, sort_keys=True).encode()


def md5_of_listing(content: bytes) -> str:
    return md5_of(content) + FOLDER


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def read_listing(content: bytes) -> Files | None:
    """Parse the list of files of a folder; None if it is invalid, or leaves the folder."""
    try:
        files = {entry["relpath"]: entry["md5"] for entry in json.loads(content)}
        safe = all(_is_inside(name) and MD5.fullmatch(md5) for name, md5 in files.items())
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return files if safe else None


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


class Cache:
    """The DVC cache of a checkout."""

    def __init__(self, root: Path, env: dvc.Environment = None) -> None:
        self.env = env
        self.settings = dvc.settings(root, env)
        self.folder = Path(self.settings["cache.dir"]) / "files" / "md5"
        self.links = self.settings.get("cache.type", "reflink,copy").split(",")

    @property
    def remote(self) -> str:
        """Name of DVC's default remote; empty if there is none."""
        return self.settings.get("core.remote", "")

    def path(self, md5: str) -> Path:
        return self.folder / md5[:2] / md5[2:]

    def files(self, md5: str) -> Files | None:
        """Return the files of a folder by its cache object; None if that is missing or damaged."""
        try:
            content = self.path(md5).read_bytes()
        except OSError:
            return None
        return read_listing(content) if md5_of_listing(content) == md5 else None

    def add(self, md5: str, source: Path | bytes) -> None:
        """Write a cache object. Raises OSError if its bytes do not have this MD5."""
        with disk.replacing(self.path(md5)) as temporary:
            if isinstance(source, bytes):
                temporary.write_bytes(source)
            else:
                shutil.copyfile(source, temporary)
            _demand(temporary, md5)
            temporary.chmod(READ_ONLY)

    def bring(self, md5: str, target: Path) -> None:
        """Copy or link a cache object into the checkout, as `cache.type` says. Raises OSError."""
        with disk.replacing(target) as temporary:
            for kind in self.links:
                with suppress(OSError):  # the disk has no such link, or there are two disks
                    _link(kind.strip(), self.path(md5), temporary)
                    break
                temporary.unlink(missing_ok=True)
            else:
                shutil.copyfile(self.path(md5), temporary)
            _demand(temporary, md5)

    def fetch(self, md5s: Iterable[str]) -> str:
        """Fetch cache objects, and those that they list, from the remote; return DVC's error.

        `dvc fetch` runs in a temporary repository that holds nothing but their MD5s, so that
        neither dvc.yaml nor DVC's records of earlier commands have an influence.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / ".dvc").mkdir()
            config = dvc.config_file({**self.settings, "core.no_scm": "true"})
            (folder / ".dvc" / "config").write_bytes(config)
            for num, md5 in enumerate(md5s):
                out = {"md5": md5, "hash": "md5", "path": f"object{num}"}
                (folder / f"object{num}.dvc").write_text(json.dumps({"outs": [out]}))
            env = {**(self.env or {}), "DVC_SITE_CACHE_DIR": str(folder / "state")}
            try:
                dvc.run(folder, "fetch", "--quiet", env=env)
            except LatentworksError as error:  # some may have arrived; the caller hashes them
                return str(error)
        return ""


def _link(kind: str, source: Path, target: Path) -> None:
    if kind == "hardlink":
        os.link(source, target)
    elif kind == "symlink":
        target.symlink_to(source)
    elif kind == "reflink":
        with source.open("rb") as old, target.open("wb") as new:
            fcntl.ioctl(new, FICLONE, old.fileno())
    else:
        shutil.copyfile(source, target)


def _demand(path: Path, md5: str) -> None:
    """Raise OSError if a file that was just written does not have this MD5."""
    found = md5_of_listing(path.read_bytes()) if md5.endswith(FOLDER) else digest(path)
    if found != md5:
        raise OSError(EIO, "the copy is damaged", str(path))
