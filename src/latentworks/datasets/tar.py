"""Tar files of pictures with their labels beside them, as WebDataset stores them.

Files that follow one another and have the same name up to its first dot belong together: `0001.jpg`
and `0001.cls`. The label is the text of `.cls` or `.txt`, or the key `label`, `cls` or `class` of
`.json`.
"""

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from latentworks.datasets.arrays import reason
from latentworks.datasets.formats import other_kind
from latentworks.datasets.labels import Id, one_id
from latentworks.datasets.shards import Record, Shard, find, open_shards, read_part
from latentworks.datasets.source import Source
from latentworks.errors import DataError
from latentworks.params.faults import escaped

PICTURES = ("png", "jpg", "jpeg", "webp")
LABELS = ("cls", "json", "txt")  # the first that is there counts
KEYS = ("label", "cls", "class")
MAX_LABEL_BYTES = 100_000
BLOCK_BYTES = 1 << 20
DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError)


@dataclass
class Sample:
    """The files of one key."""

    key: str
    picture: tuple[str, int, int] | None = None  # name, offset and size
    labels: dict[str, bytes] = field(default_factory=dict)  # content by ending


def load(path: Path) -> Source:
    """Open a tar file, or a folder of them. Raises DataError if one is invalid."""
    shards = find(path, "tar", "tar file")
    endings = f"files with the endings {', '.join(PICTURES)}"
    expected = f"{endings}, and labels beside them, such as 0001.jpg and 0001.cls"
    return open_shards(path, shards, _labels, _records, expected)


def _labels(shard: Shard) -> Iterator[Id | None]:
    for sample in _samples(shard):
        yield _label(sample, shard)


def _records(shard: Shard) -> Iterator[Record]:
    for sample in _samples(shard):
        assert sample.picture is not None
        name, offset, size = sample.picture
        read = partial(read_part, str(shard.path), offset, size)
        yield Record(f"{shard.name}/{escaped(name)}", read, _label(sample, shard))


def _samples(shard: Shard) -> Iterator[Sample]:
    """Yield the samples that have a picture. Raises DataError if the file is damaged."""
    sample = Sample("")
    for member in _members(shard):
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        ending = ending.lower()
        if not stem or ending not in PICTURES + LABELS:
            continue
        if (key := f"{folder}/{stem}") != sample.key:
            if sample.picture:
                yield sample
            sample = Sample(key)
        if ending in PICTURES:
            sample.picture = member.name, member.offset, member.size
        else:
            sample.labels[ending] = member.content
    if sample.picture:
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


def _label(sample: Sample, shard: Shard) -> Id | None:
    """Return the label of a sample, None if it has none. Raises DataError."""
    ending = next((each for each in LABELS if each in sample.labels), None)
    if ending is None:
        return None
    content = sample.labels[ending]
    where = f"{shard.path}: {escaped(sample.key)}.{ending}"
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
