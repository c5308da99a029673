"""Parquet files with a column of encoded pictures, as Hugging Face's datasets store them.

The column holds bytes, or structs of `bytes` and `path`. A column such as `label` holds the class;
the file's metadata may name the classes.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from latentworks.datasets.arrays import reason
from latentworks.datasets.formats import other_kind
from latentworks.datasets.labels import Id, one_id
from latentworks.datasets.shards import Record, Shard, find, open_shards, read_content
from latentworks.datasets.source import Source
from latentworks.errors import DataError
from latentworks.params.faults import escaped

IMAGES = ("image", "img", "picture", "jpg", "png")  # names of the column, if there are several
LABELS = ("label", "labels", "fine_label", "class", "category", "target", "y")
BATCH_ROWS = 8  # pictures in memory at once
BUFFER_BYTES = 1 << 20
DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError)


@dataclass(frozen=True)
class Columns:
    """The columns that are read."""

    images: str
    of_structs: bool  # of bytes and a path
    labels: str | None

    @property
    def content(self) -> str:
        return f"{self.images}.bytes" if self.of_structs else self.images

    def __str__(self) -> str:
        labels = f"labels from {escaped(self.labels)}" if self.labels else "no column has labels"
        return f"images are from column {escaped(self.images)}; {labels}"


def load(path: Path) -> Source:
    """Open a Parquet file, or a folder of them. Raises DataError if one is invalid."""
    shards = find(path, "parquet", "Parquet file")
    names: tuple[str, ...] = ()
    columns: Columns | None = None
    for shard in shards:
        with _opened(shard) as file:
            schema = file.schema_arrow
            found = _columns(schema, str(shard.path))
            columns = columns or found
            if found != columns:
                raise DataError(
                    f"{shard.path}: other columns than in {shards[0].path}. Expected: {columns}. "
                    f"Received: {found}."
                )
            names = names or _class_names(schema, found.labels)
    assert columns is not None
    return open_shards(
        path,
        shards,
        partial(_labels, columns),
        partial(_records, columns),
        "a row for each image",
        names=names,
        notes=(str(columns),),
    )


@contextmanager
def _opened(shard: Shard) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(
            shard.path,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        ) as file:
            yield file
    except DAMAGE as error:
        fault = f"not a readable Parquet file: {reason(error)}."
        raise DataError(f"{shard.path}: {fault}{other_kind(shard.path, 'parquet')}") from None


def _columns(schema: pa.Schema, where: str) -> Columns:
    kinds = {field.name: _is_struct(field.type) for field in schema if _has_pictures(field.type)}
    named = [name for name in IMAGES if name in kinds]
    if not named and len(kinds) != 1:
        received = ", ".join(escaped(name[:20]) for name in schema.names[:10]) or "none"
        raise DataError(
            f"{where}: expected a column `image` of bytes, or of structs with bytes. "
            f"Received columns: {received}."
        )
    images = named[0] if named else next(iter(kinds))
    labels = next((name for name in LABELS if name in schema.names and name != images), None)
    return Columns(images, kinds[images], labels)


def _has_pictures(kind: pa.DataType) -> bool:
    if _is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_binary(kind.field(place).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind))


def _class_names(schema: pa.Schema, labels: str | None) -> tuple[str, ...]:
    """Return the names of the classes in the metadata that Hugging Face's datasets write."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][labels]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)


def _labels(columns: Columns, shard: Shard) -> Iterator[Id | None]:
    with _opened(shard) as file:
        if columns.labels is None:
            yield from (None for _ in range(file.metadata.num_rows))
            return
        where = f"{shard.path}: {escaped(columns.labels)}"
        for batch in file.iter_batches(1024, columns=[columns.labels]):
            for value in batch.column(0).to_pylist():
                yield one_id(value, where)


def _records(columns: Columns, shard: Shard) -> Iterator[Record]:
    read = [columns.content, *([columns.labels] if columns.labels else [])]
    where = f"{shard.path}: {escaped(columns.labels or '')}"
    row = 0
    with _opened(shard) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=read):
            pictures = batch.column(batch.schema.get_field_index(columns.images))
            contents = (pictures.field(0) if columns.of_structs else pictures).to_pylist()
            labels = [None] * len(contents)
            if columns.labels:
                labels = batch.column(batch.schema.get_field_index(columns.labels)).to_pylist()
            for content, label in zip(contents, labels, strict=True):
                name = f"{shard.name}[{row}]"
                yield Record(name, partial(read_content, content or b""), one_id(label, where))
                row += 1
