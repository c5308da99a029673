"""DVC's cache as files: where an object is, how it is put there, and where else it may be.

DVC takes an object at its word once it is there and read-only: sizes, times and DVC's own notes
say nothing of its bytes, so nothing here asks them.
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

from configobj import ConfigObj

from latentworks.errors import LatentworksError
from latentworks.repository import dag, dvc
from latentworks.system import disk

FOLDER = ".dir"  # how the MD5 of a folder ends; its object is a list of files
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
READ_ONLY = 0o444  # the mode of every object
FICLONE = 0x40049409  # of Linux: share the blocks of another file

Files = dict[str, str]  # MD5s by path inside a folder; a single file has the path ""


def digest(path: Path) -> str | None:
    """The MD5 of a file's bytes; None where it is no file, or not all of it can be read."""
    try:
        return dag.md5_of(path) if path.is_file() else None
    except OSError:
        return None


def listing(files: Files) -> bytes:
    """The object that stands for a folder, as DVC writes it."""
    names = sorted(files, key=lambda name: name.split("/"))
    entries = [{"md5": files[name], "relpath": name} for name in names]
    return json.dumps(entries, sort_keys=True).encode()


def md5_of_listing(content: bytes) -> str:
    return md5_of(content) + FOLDER


def md5_of(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def read_listing(content: bytes) -> Files | None:
    """The files that an object lists; None where it is no list, or one that leaves its folder."""
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
    """DVC's cache of a checkout."""

    def __init__(self, root: Path, env: dvc.Environment = None) -> None:
        self.env = env
        # DVC tells paths as absolute ones, whatever the file says.
        lines = dvc.run(root, "config", "--list", env=env).splitlines()
        settings = dict(line.split("=", 1) for line in lines if "=" in line)
        self.settings = {"cache.dir": str(root / ".dvc/cache"), **settings}
        self.folder = Path(self.settings["cache.dir"]) / "files" / "md5"
        self.links = self.settings.get("cache.type", "reflink,copy").split(",")

    @property
    def remote(self) -> str:
        """The name of DVC's default remote; empty where there is none."""
        return self.settings.get("core.remote", "")

    def path(self, md5: str) -> Path:
        return self.folder / md5[:2] / md5[2:]

    def files(self, md5: str) -> Files | None:
        """What the object of a folder lists; None where it is missing, damaged or no list."""
        try:
            content = self.path(md5).read_bytes()
        except OSError:
            return None
        return read_listing(content) if md5_of_listing(content) == md5 else None

    def add(self, md5: str, source: Path | bytes) -> None:
        """Put in what has this MD5. Raises OSError where it does not arrive whole."""
        with disk.replacing(self.path(md5)) as temporary:
            if isinstance(source, bytes):
                temporary.write_bytes(source)
            else:
                shutil.copyfile(source, temporary)
            _demand(temporary, md5)
            temporary.chmod(READ_ONLY)

    def bring(self, md5: str, target: Path) -> None:
        """Put an object into the checkout, linked as DVC is told to. Raises OSError."""
        with disk.replacing(target) as temporary:
            for kind in self.links:
                with suppress(OSError):  # not on this disk, or not across two
                    _link(kind.strip(), self.path(md5), temporary)
                    break
                temporary.unlink(missing_ok=True)
            else:
                shutil.copyfile(self.path(md5), temporary)
            _demand(temporary, md5)

    def fetch(self, md5s: Iterable[str]) -> str:
        """Bring objects, and those that they list, from the remote; returns what is wrong.

        In a repository that is made for it, which has nothing but their MD5s: neither dvc.yaml nor
        DVC's notes of what it saw before have a say.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / ".dvc").mkdir()
            self._write_config(folder / ".dvc" / "config")
            for num, md5 in enumerate(md5s):
                out = {"md5": md5, "hash": "md5", "path": f"object{num}"}
                (folder / f"object{num}.dvc").write_text(json.dumps({"outs": [out]}))
            env = {**(self.env or {}), "DVC_SITE_CACHE_DIR": str(folder / "notes")}
            try:
                dvc.run(folder, "fetch", "--quiet", env=env)
            except LatentworksError as error:  # some may have come; they are hashed again
                return str(error)
        return ""

    def _write_config(self, path: Path) -> None:
        config = ConfigObj()
        for setting, value in {**self.settings, "core.no_scm": "true"}.items():
            section, _, option = setting.rpartition(".")
            kind, _, name = section.partition(".")
            config.setdefault(f'{kind} "{name}"' if name else kind, {})[option] = value
        path.write_bytes(b"".join(line.encode() + b"\n" for line in config.write()))


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
    """Raises OSError where a file that was just written is another one."""
    found = md5_of_listing(path.read_bytes()) if md5.endswith(FOLDER) else digest(path)
    if found != md5:
        raise OSError(EIO, "it did not arrive whole", str(path))
