"""Files that hold many images each: a single file, or a folder of shards.

A word in the name of a shard, or of a folder around it, gives its split: `train-00000.parquet`,
`data/validation/0001.tar`.
"""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from latentworks.datasets.formats import kind_inside
from latentworks.datasets.labels import Classes, Id, classes, doubts
from latentworks.datasets.layout import split_of_name
from latentworks.datasets.pictures import read_picture
from latentworks.datasets.source import FirstFrame, Item, Source, Split, Stream
from latentworks.errors import DataError


@dataclass(frozen=True)
class Shard:
    """A file of images."""

    path: Path
    name: str  # relative to dataset.path; the prefix of the names of its images
    split: Split | None


@dataclass(frozen=True)
class Record:
    """An image of a shard, and its label as the shard has it."""

    name: str
    read: Callable[[], np.ndarray | FirstFrame]  # must pickle
    label: Id | None
    split: Split | None = None  # if the shard has none


def find(path: Path, kind: str, holds: str) -> list[Shard]:
    """Return the shards at a path, in the order of their names. A single shard has no split.

    Shards whose names have no word of a split are of train, if others have one.
    Raises DataError if there are no files with the ending `kind`, which `holds` describes.
    """
    if path.is_file():
        return [Shard(path, path.name, None)]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder. Correct dataset.path in params.yaml.")
    found = [file for file in path.rglob("*") if _is_shard(path, file, f".{kind}")]
    names = sorted(file.relative_to(path).as_posix() for file in found)
    if not names:
        raise DataError(f"{path}: no {holds} in this folder.{kind_inside(path, kind)}")
    splits = [_split_of(name) for name in names]
    if len(set(splits)) == 1:
        return [Shard(path / name, name, None) for name in names]
    shards = [
        Shard(path / name, name, split or "train")
        for name, split in zip(names, splits, strict=True)
    ]
    if not any(shard.split == "train" for shard in shards):
        raise DataError(
            f"{path}: no {holds} for training. Expected a file with `train` in its name. "
            f"Received: {names[0]} and others."
        )
    return shards


def _is_shard(root: Path, file: Path, ending: str) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.name.lower().endswith(ending) and file.is_file() and not hidden


def _split_of(name: str) -> Split | None:
    """The split that the last word of a split in a path names."""
    words = re.findall("[a-z]+", name.rpartition(".")[0].lower())
    return next((split for word in reversed(words) if (split := split_of_name(word))), None)


def open_shards(
    path: Path,
    shards: list[Shard],
    labels: Callable[[Shard], Iterator[Id | None]],
    records: Callable[[Shard], Iterator[Record]],
    expected: str,
    *,
    names: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    splits: frozenset[Split] = frozenset(),
    dtypes: tuple[str, ...] = (),
) -> Source:
    """Build a Source. `labels` and `records` read a shard from its start, image by image.

    `names[i]` is the name of the class number i, if there are names. `splits` are those of records;
    the split of a shard comes before them. `dtypes` are those of arrays;
    without them, records are pictures, which take long to decode. Raises DataError if there are no
    images, which `expected` describes, or if labels name no classes.
    """
    num_items = 0

    def every_label() -> Iterator[Id | None]:
        nonlocal num_items
        for shard in shards:
            for label in labels(shard):
                num_items += 1
                yield label

    known = classes(every_label(), str(path), names)
    if num_items == 0:
        raise DataError(f"{path}: no images. Expected {expected}.")
    of_shards = frozenset(shard.split for shard in shards if shard.split)
    source = Source(
        Stream(partial(_items, shards, records, known)),
        num_items,
        known.names,
        decodes=not dtypes,
        splits=of_shards or splits,
        notes=(*notes, *doubts(known, num_items)),
    )
    return replace(source, dtypes=dtypes) if dtypes else source


def _items(
    shards: list[Shard], records: Callable[[Shard], Iterator[Record]], known: Classes
) -> Iterator[Item]:
    for shard in shards:
        for record in records(shard):
            split = shard.split or record.split
            yield Item(record.name, record.read, known.number(record.label), split)


def read_content(content: bytes) -> np.ndarray | FirstFrame:
    """Decode the bytes of a picture file. Raises Reject."""
    return read_picture(io.BytesIO(content), len(content))


def read_part(path: str, offset: int, size: int) -> np.ndarray | FirstFrame:
    """Decode a picture that lies within a file. Raises Reject."""
    with open(path, "rb") as file:
        file.seek(offset)
        return read_content(file.read(size))
