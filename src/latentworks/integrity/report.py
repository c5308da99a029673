"""What is not as it was recorded, where it was put, and what became of it."""

import errno
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from latentworks.errors import Damaged
from latentworks.system.state import STATE

MAX_LINES = 3  # for files of one folder that are missing in the same way; more become one line


@dataclass(frozen=True)
class Fault:
    """One thing that was not as recorded."""

    what: str  # a file or object, as a reader finds it
    whose: str  # the out or version that it is part of, and where that is
    wrong: str  # "missing", for instance
    kept: str = ""  # where the damaged thing is now, from the root of the checkout
    repaired: str = ""  # from what; empty where it is not
    cure: str = ""  # why it is not mended, and what a person can do

    def __str__(self) -> str:
        kept = f"; quarantined as {self.kept}" if self.kept else ""
        cure = f". {self.cure}" if self.cure else ""
        became = f"mended {self.repaired}" if self.repaired else f"NOT mended{cure}"
        return f"{self.what}: {self.wrong}{kept}; {became}"


@dataclass(frozen=True)
class Verified:
    """What was looked at, and what was found."""

    objects: frozenset[str] = frozenset()  # those of DVC's cache that are whole, by MD5
    num_files: int = 0  # of the checkout
    num_bytes: int = 0  # of both, and of versions
    num_versions: int = 0
    num_absent: int = 0  # objects that only earlier versions were made from, not in the cache
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()  # what is no damage, and worth a line

    @property
    def lost(self) -> tuple[Fault, ...]:
        """What could not be mended."""
        return tuple(fault for fault in self.faults if not fault.repaired)

    def __add__(self, other: "Verified") -> "Verified":
        return Verified(
            self.objects | other.objects,
            self.num_files + other.num_files,
            self.num_bytes + other.num_bytes,
            self.num_versions + other.num_versions,
            self.num_absent + other.num_absent,
            self.faults + other.faults,
            self.notes + other.notes,
        )

    def lines(self) -> list[str]:
        """A line for each thing that was damaged, and each note."""
        return [*map(str, _gathered(self.faults)), *self.notes]

    def summary(self) -> str:
        parts = [_count(len(self.objects), "object") + " of DVC's cache"]
        parts.append(_count(self.num_files, "file"))
        if self.num_versions:
            parts.append(_count(self.num_versions, "version"))
        found = "all whole"
        if self.faults:
            num_repaired = len(self.faults) - len(self.lost)
            found = f"{len(self.faults):,} damaged or missing, {num_repaired:,} mended"
        if self.num_absent:
            found += f"; {_count(self.num_absent, 'object')} of earlier versions not in the cache"
        return f"{', '.join(parts)}: {self.num_bytes / 1e6:,.1f} MB read, {found}"

    def demand_whole(self) -> None:
        """Raises Damaged where something could not be mended."""
        if self.lost:
            names = [fault.what for fault in _gathered(self.lost)]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise Damaged(f"not mended: {', '.join(names[:3])}{more}.")


def _count(num: int, noun: str) -> str:
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def _gathered(faults: Iterable[Fault]) -> list[Fault]:
    """Many files that are missing in the same way become one line."""
    groups: dict[Fault, list[Fault]] = defaultdict(list)
    for fault in faults:
        groups[fault if fault.kept else replace(fault, what=fault.whose)].append(fault)
    told: list[Fault] = []
    for group, members in groups.items():
        if len(members) > MAX_LINES:
            members = [replace(group, what=f"{len(members):,} files of {group.whose}")]
        told += members
    return told


class Quarantine:
    """Where damaged things of a checkout are kept; nothing is ever deleted from it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.time = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")

    def take(self, path: Path, name: str) -> str:
        """Move a file, folder or link in; returns where it is now. Raises OSError.

        A rename reads nothing, so that it works for what cannot be read. Where the cache is on
        another disk and a copy fails, the thing stays there under another name.
        """
        target = self.root / STATE / "quarantine" / self.time / name
        target.parent.mkdir(parents=True, exist_ok=True)
        first = target
        num = 1
        while os.path.lexists(target):
            num += 1
            target = first.with_name(f"{first.name}.{num}")
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
