"""The latents table: a Parquet file with a row for each image."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from latentworks.errors import DataError
from latentworks.quantization import to_codes, to_latents
from latentworks.system import disk

LEVELS = "levels"  # in the schema of a table of codes


def columns(z: np.ndarray, levels: tuple[int, ...] | None) -> pd.DataFrame:
    """Return the columns of latents z, float32 [N, D]: z0 … as they are, or c0 …, codes in int16.

    `levels`: see `latentworks.quantization`; None if the latents are not quantised.
    """
    name, values = ("z", z) if levels is None else ("c", to_codes(z, np.array(levels)))
    return pd.DataFrame(values, columns=[f"{name}{number}" for number in range(values.shape[1])])


def write_latents(
    path: Path, frames: Iterable[pd.DataFrame], levels: tuple[int, ...] | None = None
) -> int:
    """Write the columns id, split, label and those of `columns` as Parquet; return the rows."""
    num_rows = 0
    metadata = None if levels is None else {LEVELS: json.dumps(levels)}
    writer = None
    with disk.replacing(path) as temporary:
        for frame in frames:
            table = pa.Table.from_pandas(frame, preserve_index=False)
            table = table.replace_schema_metadata(metadata)
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
            num_rows += table.num_rows
        if writer is None:
            raise DataError("No image to encode. Expected at least one.")
        writer.close()
    return num_rows


@dataclass(frozen=True)
class Latents:
    """Rows of the latents table."""

    ids: np.ndarray  # str [N]
    z: np.ndarray  # float32 [N, D]
    labels: np.ndarray | None  # int64 [N], -1 for an image without one; None without classes
    levels: tuple[int, ...] | None = None  # of quantised latents


def read_latents(path: Path, split: str, limit: int | None = None) -> Latents:
    """Read the latents of one split, in the order of the images, at most `limit` of them.

    Ids are hashes of the images. The rows with the smallest ids are therefore a random choice,
    which is always the same for the same data.
    """
    filters = [("split", "==", split)]
    if limit is not None:
        ids = pd.read_parquet(path, columns=["id"], filters=filters)["id"]
        if len(ids) > limit:  # ids are unique, since duplicates were dropped
            filters.append(("id", "<=", sorted(ids)[limit - 1]))
    frame = pd.read_parquet(path, filters=filters)
    known = (pq.read_schema(path).metadata or {}).get(LEVELS.encode())
    levels = None if known is None else tuple(json.loads(known))
    if levels is None:
        z = frame.filter(regex=r"^z\d+$").to_numpy(dtype=np.float32)
    else:
        z = to_latents(frame.filter(regex=r"^c\d+$").to_numpy(), np.array(levels))
    labels = None
    if "label" in frame:
        labels = frame["label"].fillna(-1).to_numpy(dtype=np.int64)
    return Latents(frame["id"].to_numpy(dtype=str), z, labels, levels)
