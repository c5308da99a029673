"""Tar files of pictures with their labels beside them, as WebDataset stores them.

Files that follow one another and have the same name up to its first dot belong together: `0001.jpg`
and `0001.cls`. The label is the text of `.cls` or `.txt`, or the key `label`, `cls` or `class` of
`.json`. Without any such file, the folders in the tar files give labels and splits, as in an image
folder.
"""

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath

from latentworks.datasets import image_folder
from latentworks.datasets.arrays import reason
from latentworks.datasets.formats import other_kind
from latentworks.datasets.labels import Id, one_id
from latentworks.datasets.layout import Layout, printable
from latentworks.datasets.shards import Record, Shard, find, open_shards, read_part
from latentworks.datasets.source import Source, Split
from latentworks.errors import DataError
from latentworks.params.faults import escaped

PICTURES = tuple(ending.removeprefix(".") for ending in image_folder.PICTURES)
LABELS = ("cls", "json", "txt")  # the first that is there counts
KEYS = ("label", "cls", "class")
MAX_LABEL_BYTES = 100_000
BLOCK_BYTES = 1 << 20
DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError)


@dataclass
class Sample:
    """The files whose names are equal up to the first dot."""

    key: str  # the folder, and the name up to its first dot
    pictures: dict[str, tuple[int, int]] = field(default_factory=dict)  # offset and size by name
    labels: dict[str, dict[str, bytes]] = field(  # content, by the name without its ending, ...
        default_factory=lambda: defaultdict(dict)  # ... and by this ending
    )

    def used(self) -> dict[str, tuple[int, int]]:
        """Return the pictures that are images: 0001.png, but not 0001.mask.png beside it.

        If all have longer names, such as photo.2024.jpg, each is an image.
        """
        whole = {name: at for name, at in self.pictures.items() if _stem(name) == self.key}
        return whole or self.pictures


@dataclass
class Survey:
    """How the files of all shards are understood."""

    places: set[str] = field(default_factory=set)  # of images: a path in each folder
    has_labels: bool = False  # in files
    num_left_out: int = 0
    left_out: str = ""  # the first file that is

    def leave_out(self, name: str) -> None:
        self.left_out = self.left_out or name
        self.num_left_out += 1

    def layout(self) -> Layout | None:
        """Return the layout of the folders, if labels come from them."""
        return None if self.has_labels else Layout.of(sorted(self.places))

    def notes(self) -> Iterator[str]:
        """Say where labels come from, and how many files are left out."""
        layout = self.layout()
        if layout is None:
            yield "labels are those of the files beside the pictures"
        elif any(map(layout.class_name, self.places)):
            yield "labels are the names of folders"
        else:
            yield "no labels: no files of labels beside the pictures, and no folders of classes"
        if layout:
            yield from layout.notes((), ())
        if self.num_left_out:
            files = "1 file" if self.num_left_out == 1 else f"{self.num_left_out:,} files"
            verb = "is" if self.num_left_out == 1 else "are"
            such_as = ":" if self.num_left_out == 1 else ", such as"
            yield f"{files} {verb} left out{such_as} {printable(self.left_out)}"


def load(path: Path) -> Source:
    """Open a tar file, or a folder of them. Raises DataError if one is invalid."""
    shards = find(path, "tar", "tar file")
    survey = _survey(shards)
    layout = survey.layout()
    endings = f"files with the endings {', '.join(PICTURES)}"
    expected = f"{endings}, and labels beside them, such as 0001.jpg and 0001.cls"
    return open_shards(
        path,
        shards,
        partial(_labels, layout),
        partial(_records, layout),
        expected,
        notes=tuple(survey.notes()),
        splits=frozenset(layout.splits.values() if layout else ()),
    )


def _survey(shards: list[Shard]) -> Survey:
    found = Survey()
    for shard in shards:
        for sample in _samples(shard, found):
            used = sample.used()
            found.places |= {str(PurePath(name).with_name("image")) for name in used}
            found.has_labels = found.has_labels or bool(sample.labels)
            for name in sample.pictures:
                if name not in used:
                    found.leave_out(name)
    return found


def _labels(layout: Layout | None, shard: Shard) -> Iterator[Id | None]:
    for record in _records(layout, shard):
        yield record.label


def _records(layout: Layout | None, shard: Shard) -> Iterator[Record]:
    for sample in _samples(shard):
        for name, (offset, size) in sample.used().items():
            read = partial(read_part, str(shard.path), offset, size)
            label = layout.class_name(name) if layout else _label(sample, name, shard)
            split = _split(layout, name) if layout else None
            yield Record(f"{shard.name}/{escaped(name)}", read, label, split)


def _split(layout: Layout, name: str) -> Split | None:
    return layout.split(name) or ("train" if layout.splits else None)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _samples(shard: Shard, survey: Survey | None = None) -> Iterator[Sample]:
    """Yield the samples that have a picture. Raises DataError if the file is damaged.

    A survey notes the files that are neither pictures nor labels.
    """
    sample = Sample("")
    for member in _members(shard):
        folder, slash, name = member.name.rpartition("/")
        start = name.partition(".")[0]
        ending = name.rpartition(".")[2].lower()
        if not start:  # hidden files
            continue
        if start == name or ending not in PICTURES + LABELS:
            if survey:
                survey.leave_out(member.name)
            continue
        if (key := f"{folder}{slash}{start}") != sample.key:
            if sample.pictures:
                yield sample
            sample = Sample(key)
        if ending in PICTURES:
            sample.pictures[member.name] = member.offset, member.size
        else:
            sample.labels[_stem(member.name)][ending] = member.content
    if sample.pictures:
        yield sample


@dataclass(frozen=True)
class Member:
    """A regular file in a tar file. Only the content of a label was read."""

    name: str
    offset: int
    size: int
    content: bytes


def _members(shard: Shard) -> Iterator[Member]:
    with _readable(shard), shard.path.open("rb") as file, tarfile.open(None, "r:", file) as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined] # tarfile keeps all of them
            if not info.isreg() or info.issparse():
                continue
            content = b""
            if info.name.lower().endswith(LABELS):
                label = archive.extractfile(info)
                content = label.read(MAX_LABEL_BYTES) if label else b""
            yield Member(info.name, info.offset_data, info.size, content)
        file.seek(archive.offset)  # at a damaged header, tarfile ends as at the last member
        while block := file.read(BLOCK_BYTES):
            if block.strip(b"\0"):
                raise tarfile.ReadError("data after its end, or a damaged header")


@contextmanager
def _readable(shard: Shard) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        cure = other_kind(shard.path, "tar") or " Unpack .tar.gz to .tar, or copy the file again."
        raise DataError(
            f"{shard.path}: not a readable tar file without compression: {reason(error)}.{cure}"
        ) from None


def _label(sample: Sample, picture: str, shard: Shard) -> Id | None:
    """Return the label of a picture, None if it has none. Raises DataError.

    A label of its whole name comes before one of the sample: photo.2024.cls before photo.cls.
    """
    beside = next((stem for stem in (_stem(picture), sample.key) if stem in sample.labels), None)
    if beside is None:
        return None
    labels = sample.labels[beside]
    ending = next(each for each in LABELS if each in labels)
    content = labels[ending]
    where = f"{shard.path}: {escaped(beside)}.{ending}"
    if len(content) == MAX_LABEL_BYTES:
        raise DataError(f"{where}: too large for a label. Expected less than {len(content)} bytes.")
    if ending != "json":
        return content.decode("utf-8", "backslashreplace").strip() or None
    try:
        about = json.loads(content)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON. Expected an object with the key label.") from None
    if not isinstance(about, dict):
        return one_id(about, where)
    return one_id(next((about[key] for key in KEYS if key in about), None), where)
