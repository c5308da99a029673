"""Splits and classes of a folder of images, by the names of its folders alone.

A folder that holds all images is looked through. Folders named train, val and test, or in another
usual way, are splits if no other folder beside them holds images, and train is among them. Below,
the first level with more than one place for images names the classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePath
from typing import Self, get_args

from latentworks.datasets.source import Split
from latentworks.params.faults import escaped

SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
ORDER = get_args(Split)
MAX_NAMED = 10  # names in a line of log
MAX_NAME = 80  # characters of a name

Parts = tuple[str, ...]  # of a path: folders, or folders and a file


def split_of_name(name: str) -> Split | None:
    """Return the split that a folder or a label file means by a name, if it means one."""
    return SPLITS.get(name.strip().casefold())


@dataclass(frozen=True)
class Layout:
    """Places of splits and classes in a folder. Files are relative paths."""

    top: Parts  # the folders that hold all images
    splits: dict[str, Split]  # by the name of a folder in `top`
    inside: Parts  # the folders in a split that hold all its images

    @classmethod
    def of(cls, files: Sequence[str]) -> Self:
        """Find the layout of image files."""
        paths = [PurePath(file).parts for file in files]
        top = _shared(paths)
        heads = {path[len(top)] for path in paths if len(path) > len(top) + 1}
        splits = {head: split for head in heads if (split := split_of_name(head))}
        if len(splits) < len(heads) or "train" not in splits.values():
            return cls(top, {}, ())
        within = cls(top, splits, ())
        return cls(top, splits, _shared(within._below(path)[1] for path in paths))

    def split(self, file: str) -> Split | None:
        return self._below(PurePath(file).parts)[0]

    def class_name(self, file: str) -> str | None:
        split, path = self._below(PurePath(file).parts)
        depth = len(self.inside) if split else 0
        is_inside = path[:depth] == self.inside[:depth]
        return path[depth] if is_inside and len(path) > depth + 1 else None

    def _below(self, path: Parts) -> tuple[Split | None, Parts]:
        """Return the split of a file, and its path below the folder of the split, or `top`."""
        if path[: len(self.top)] != self.top:
            return None, path[-1:]
        path = path[len(self.top) :]
        split = self.splits.get(path[0]) if path[1:] else None
        # Unpacking test.zip into test/ gives test/test/.
        while split and path[1:] and split_of_name(path[0]) == split:
            path = path[1:]
        return split, path

    def levels(self) -> set[Parts]:
        """Return the folders in which splits, classes, or files of labels are expected."""
        ends = [self.top, *((*self.top, name, *self.inside) for name in self.splits)]
        return {end[:depth] for end in ends for depth in range(len(end) + 1)}

    def notes(self, files: Iterable[str], folders: Iterable[str]) -> Iterator[str]:
        """Say in a line each how image files, among all folders, were understood."""
        if self.top:
            yield f"{printable('/'.join(self.top))}/ holds all images, and is no class"
        if self.splits:
            order = sorted(self.splits, key=lambda name: (ORDER.index(self.splits[name]), name))
            yield f"{listed([f'{name}/' for name in order])} are taken as splits"
        if self.inside:
            inside = printable("/".join(self.inside))
            yield f"{inside}/ holds all images of each split, and is no class"
        paths = (PurePath(file).parts for file in files)
        used = {path[:depth] for path in paths for depth in range(1, len(path))}
        others = {PurePath(folder).parts for folder in folders} - used
        levels = self.levels()
        if empty := sorted("/".join(path) for path in others if path[:-1] in levels):
            verb = "hold" if empty[1:] else "holds"
            yield f"{listed([f'{name}/' for name in empty])} {verb} no images"


def _shared(paths: Iterable[Parts]) -> Parts:
    """Return the folders that all files have in common, from the first on."""
    folders = [path[:-1] for path in paths] or [()]
    ends = zip(min(folders), max(folders), strict=False)  # all others lie between these two
    return tuple(name for name, _ in takewhile(lambda names: names[0] == names[1], ends))


def listed(names: Sequence[str], last: str = " and ") -> str:
    """Join names for a line of log: "a, b and c", at most MAX_NAMED of them, and printable."""
    shown = [printable(name) for name in names[:MAX_NAMED]]
    if len(names) > MAX_NAMED:
        return f"{', '.join(shown)} and {len(names) - MAX_NAMED:,} more"
    return last.join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)


def printable(name: str) -> str:
    """Return a file name in at most MAX_NAME printable characters; the end tells most."""
    name = escaped(name)
    return name if len(name) <= MAX_NAME else f"…{name[-MAX_NAME:]}"
