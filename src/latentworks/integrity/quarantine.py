"""The quarantine: a folder of a checkout to which damaged files are moved. None is ever deleted."""

import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from latentworks.system.state import STATE


class Quarantine:
    """The quarantine of one command; its folder has the time of the start as name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.time = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")

    def take(self, path: Path, name: str) -> str:
        """Move a file, folder or link into the quarantine; return its new path. Raises OSError.

        A rename reads nothing, so that it works for an unreadable file. A file on another disk that
        cannot be copied is renamed in its own folder.
        """
        target = self.root / STATE / "quarantine" / self.time / name
        target.parent.mkdir(parents=True, exist_ok=True)
        while os.path.lexists(target):
            target = target.with_name(f"{target.name}.again")
        try:
            os.rename(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            try:
                shutil.move(path, target)
            except OSError:
                target = path.with_name(f"{path.name}.damaged-{self.time}")
                os.rename(path, target)
        return os.path.relpath(target, self.root)
