"""Copies of recorded files: hashed, quarantined if they are damaged, and replaced."""

import errno
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latentworks.integrity.report import Fault, Place
from latentworks.repository import dag
from latentworks.system import disk
from latentworks.system.state import STATE

DIFFERS = "content differs from its MD5"


class Copies:
    """The copies that one verification reads, in the checkout and in DVC's cache."""

    def __init__(self, root: Path, bar: Any = None) -> None:
        self.root = root
        self.time = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        self.bar = bar  # progress bar
        self.source = ""  # how the current step repairs copies
        self.faults: dict[Path, Fault] = {}  # by path of the damaged copy
        self.hashed: dict[Path, str] = {}  # MD5s of copies that did not change since
        self.intact: dict[Place, set[Path]] = {"checkout": set(), "cache": set()}
        self.stuck: set[Path] = set()  # damaged copies that could not be quarantined
        self.num_bytes = 0

    def hash(self, path: Path) -> str:
        """Return the MD5 of a file; "" if it does not exist, is no file or cannot be read."""
        with suppress(OSError):
            if not path.is_file():
                return ""
            if path not in self.hashed:
                self.hashed[path] = dag.md5_of(path)
                size = path.stat().st_size
                self.num_bytes += size
                if self.bar is not None:
                    self.bar.update(size)
        return self.hashed.get(path, "")

    def is_intact(self, path: Path, copy: Fault) -> bool:
        """Hash a copy. If it is damaged, quarantine it, and record the fault that `copy` names."""
        md5 = self.hash(path)
        if md5 != copy.md5.removesuffix(dag.FOLDER):
            self.set_aside(path, copy, DIFFERS if md5 else "cannot be read")
            return False
        self.mark_intact(path, copy.place)
        return True

    def mark_intact(self, path: Path, place: Place) -> None:
        self.intact[place].add(path)
        self.mark_repaired(path)

    def set_aside(self, path: Path, copy: Fault, wrong: str) -> None:
        """Quarantine a damaged copy if it exists, and record the fault."""
        fault = self.faults.get(path, replace(copy, wrong="missing"))
        self.intact[copy.place].discard(path)
        self.hashed.pop(path, None)
        if os.path.lexists(path):
            more = "; its replacement is damaged, too" if fault.kept else ""
            fault = replace(fault, wrong=f"{wrong}{more}", cure="")
            name = f"{fault.place}/{fault.name}{dag.FOLDER if fault.is_list else ''}"
            try:
                kept = self.quarantine(path, name)
                fault = replace(fault, kept=" and ".join(filter(None, (fault.kept, kept))))
                self.stuck.discard(path)
            except OSError as error:
                cure = (
                    f"It could not be quarantined: {error.strerror}: {error.filename}. "
                    "Correct that and verify again."
                )
                fault = replace(fault, cure=cure)
                self.stuck.add(path)
        self.faults[path] = replace(fault, repaired="")

    def quarantine(self, path: Path, name: str) -> str:
        """Move a file, folder or link into the quarantine; return its new path. Raises OSError.

        Files in the quarantine are never deleted. A rename reads nothing, so that it works for an
        unreadable file. A file on another disk that cannot be copied is renamed in its own folder.
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

    def write(self, path: Path, content: Path | bytes, source: str) -> None:
        """Write the recorded content of a copy. `dvc commit` would also change dvc.lock."""
        if os.path.lexists(path):  # it could not be quarantined
            return
        try:
            with disk.replacing(path) as temporary:
                if isinstance(content, bytes):
                    temporary.write_bytes(content)
                else:
                    shutil.copyfile(content, temporary)
                fault = self.faults[path]
                if dag.md5_of(temporary) != fault.md5.removesuffix(dag.FOLDER):
                    raise OSError(errno.EIO, "the copy is damaged", str(path))
                if fault.place == "cache":
                    temporary.chmod(0o444)  # as DVC does
        except OSError as error:
            self.explain(path, f"{error.strerror}: {error.filename}.")
        else:
            self.mark_repaired(path, source)

    def mark_repaired(self, path: Path, source: str = "") -> None:
        """Record how a copy, if it was damaged, was repaired: `source`, or else `self.source`."""
        fault = self.faults.get(path)
        if fault and not fault.repaired:
            self.faults[path] = replace(fault, repaired=source or self.source, cure="")

    def stuck_in(self, outs: set[str]) -> list[str]:
        """Return the damage in these outs that could not be quarantined."""
        faults = [self.faults[path] for path in self.stuck if os.path.lexists(path)]
        return sorted(fault.what for fault in faults if fault.out in outs)

    def forget_failures(self, outs: set[str]) -> None:
        """Forget why copies of these outs could not be written. What is stuck stays explained."""
        for path, fault in self.faults.items():
            if fault.out in outs and path not in self.stuck:
                self.explain(path, "")

    def explain(self, path: Path, why: str) -> None:
        """Record why a damaged copy was not repaired."""
        self.faults[path] = replace(self.faults[path], cure=why)
