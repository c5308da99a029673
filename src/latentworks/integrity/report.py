"""Report of damaged files: what is wrong, where each was quarantined, how it was repaired."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from latentworks.errors import Damaged
from latentworks.params.faults import escaped
from latentworks.repository.dag import FOLDER
from latentworks.system.console import few

Place = Literal["checkout", "cache", "mlflow"]
IN: dict[Place, str] = {"checkout": "", "cache": " in DVC's cache", "mlflow": " in MLflow"}
MAX_LINES = 3  # for files of one out with the same fault; more of them become one line


@dataclass(frozen=True)
class Fault:
    """A copy of a file, folder or version, and its damage."""

    place: Place
    name: str  # the file, folder or version, for a reader
    out: str  # the out or version that it belongs to
    md5: str = ""  # the recorded one
    wrong: str = ""  # the damage: "missing", for instance; empty if the copy is intact
    kept: str = ""  # path in the quarantine, relative to the checkout; empty if nothing was moved
    repaired: str = ""  # the source: "from the checkout"; empty if not repaired
    cure: str = ""  # why it is not repaired, and what the user can do

    @property
    def is_folder(self) -> bool:
        return self.md5.endswith(FOLDER)

    @property
    def is_list(self) -> bool:
        return self.place == "cache" and self.is_folder

    @property
    def what(self) -> str:
        """The damaged copy, for a reader: `data/latents.parquet in DVC's cache`."""
        return f"{'list of files of ' if self.is_list else ''}{self.name}{IN[self.place]}"

    def __str__(self) -> str:
        kept = f"; quarantined as {self.kept}" if self.kept else ""
        cure = f". {self.cure}" if self.cure else ""
        outcome = f"repaired {self.repaired}" if self.repaired else f"NOT repaired{cure}"
        return f"{self.what}: {self.wrong}{kept}; {outcome}"


@dataclass(frozen=True)
class Verified:
    """The outcome of a verification: what was read, and which faults were found."""

    objects: frozenset[str] = frozenset()  # MD5s of the intact cache objects
    num_files: int = 0  # intact ones in the checkout
    num_bytes: int = 0  # read in the cache, the checkout and versions
    num_versions: int = 0
    num_absent: int = 0  # cache objects that only earlier versions name, and that are missing
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()  # lines for the user about differences that are no damage

    @property
    def lost(self) -> tuple[Fault, ...]:
        """Faults that were not repaired."""
        return tuple(fault for fault in self.faults if not fault.repaired)

    def __add__(self, other: "Verified") -> "Verified":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Verified(*(a | b if isinstance(a, frozenset) else a + b for a, b in pairs))

    def lines(self) -> list[str]:
        """Return a line for each fault (or group of equal faults) and each note."""
        return [*map(escaped, (*map(str, _gathered(self.faults)), *self.notes))]

    def summary(self) -> str:
        if not (self.objects or self.num_files or self.num_versions or self.faults):
            return "no file was verified"
        parts = [count(len(self.objects), "cache object")]
        parts.append(count(self.num_files, "file"))
        if self.num_versions:
            parts.append(count(self.num_versions, "version"))
        found = "all intact"
        if self.faults:
            num_repaired = len(self.faults) - len(self.lost)
            found = f"{len(self.faults):,} damaged or missing, {num_repaired:,} repaired"
        if self.num_absent:
            found += f"; {count(self.num_absent, 'cache object')} of earlier versions missing"
        return f"{', '.join(parts)}: {self.num_bytes / 1e6:,.1f} MB read, {found}"

    def demand_whole(self) -> None:
        """Raise Damaged if a fault was not repaired."""
        if self.lost:
            names = [escaped(fault.what) for fault in _gathered(self.lost)]
            raise Damaged(f"Not repaired: {few(names)}. The lines above name the next step.")


def count(num: int, noun: str) -> str:
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def _gathered(faults: Iterable[Fault]) -> list[Fault]:
    """Merge faults of one out that are equal but for the file, if there are more than MAX_LINES."""
    groups: dict[Fault, list[Fault]] = defaultdict(list)
    for fault in faults:
        groups[fault if fault.kept else replace(fault, name=fault.out, md5="")].append(fault)
    merged: list[Fault] = []
    for group, members in groups.items():
        if len(members) > MAX_LINES:
            members = [replace(group, name=f"{len(members):,} files of {group.out}")]
        merged += members
    return merged
