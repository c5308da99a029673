"""DVC's cache: paths and lists of its objects, and DVC's commands that copy and fetch them."""

import json
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from latentworks.errors import LatentworksError
from latentworks.repository import dag, dvc
from latentworks.system.state import STATE

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
REPAIR = STATE / "repair"  # DVC repositories; in the checkout, so that DVC can link on its disk

Files = dict[str, str]  # MD5s by path inside a folder; a single file has the path "."


class Cache:
    """The DVC cache of a checkout.

    DVC trusts a cache object that exists and is read-only. Here only the bytes count: sizes, times
    and DVC's own records are never trusted.
    """

    def __init__(self, root: Path, env: dvc.Environment = None) -> None:
        self.root = root
        self.env = env
        self.settings = dvc.settings(root, env)
        self.remote = self.settings.get("core.remote", "")  # the default one, or ""

    def path(self, md5: str) -> Path:
        return Path(self.settings["cache.dir"], "files", "md5", md5[:2], md5[2:])

    def files(self, md5: str) -> Files | None:
        """Return the files of a folder; None if their list is missing, damaged, or leaves it."""
        try:
            content = self.path(md5).read_bytes()
            files = {entry["relpath"]: entry["md5"] for entry in json.loads(content)}
            safe = all(_is_inside(name) and MD5.fullmatch(files[name]) for name in files)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return files if safe and dag.md5(content) + dag.FOLDER == md5 else None

    @contextmanager
    def ran(self, command: str, md5s: Iterable[str]) -> Iterator[tuple[Path, str]]:
        """Run `dvc checkout` or `dvc fetch` in a new repository that has the outs `0`, `1`, ...

        Yield its folder, and the error or "". After an error, some of the outs may exist even so.
        In the user's repository, `dvc checkout` deletes files of an out that dvc.lock does not
        record, and the whole out if it cannot write one of its files. dvc.yaml and DVC's records of
        earlier commands do not influence this repository.
        """
        folder, failure = self.root / REPAIR / uuid.uuid4().hex, ""
        config = dvc.config_file({**self.settings, "core.no_scm": "true"})
        outs = [{"path": str(num), "hash": "md5", "md5": md5} for num, md5 in enumerate(md5s)]
        try:
            (folder / ".dvc").mkdir(parents=True)
            (folder / ".dvc" / "config").write_bytes(config)
            (folder / "outs.dvc").write_text(json.dumps({"outs": outs}))
            env = {**(self.env or {}), "DVC_SITE_CACHE_DIR": str(folder / "state")}
            dvc.run(folder, command, env=env)
        except OSError as error:  # the disk is full
            failure = f"{error.strerror}: {error.filename}."
        except LatentworksError as error:
            failure = str(error)
        try:
            yield folder, failure
        finally:  # also the repository of a verification that was killed
            shutil.rmtree(self.root / REPAIR, ignore_errors=True)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
