"""The files between stages: one `write_x` and one `read_x` for every arrow in dvc.yaml.

A file or folder is written under a temporary name, flushed to disk and renamed, so that it
appears whole or not at all. None holds a time, a host or a path: equal inputs give equal bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from latentworks.errors import DataError
from latentworks.system import disk


def write_latents(path: Path, frames: Iterable[pd.DataFrame]) -> int:
    """Parquet with the columns id, split, label, z0 … zk. Returns the number of rows."""
    num_rows = 0
    writer = None
    with disk.replacing(path) as temporary:
        for frame in frames:
            table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
            num_rows += table.num_rows
        if writer is None:
            raise DataError("no image to encode. Expected at least one.")
        writer.close()
    return num_rows


@dataclass(frozen=True)
class Latents:
    """Some rows of the latents table."""

    ids: np.ndarray  # str [N]
    z: np.ndarray  # float32 [N, D]
    labels: np.ndarray | None  # int64 [N], -1 where an image has none; None without any labels


def read_latents(path: Path, split: str, limit: int | None = None) -> Latents:
    """The latents of one split, in the order of the images.

    With `limit`, at most so many. Ids are hashes of the images, so that those with the smallest
    ids are a random choice, and the same one whenever the data is the same.
    """
    filters = [("split", "==", split)]
    if limit is not None:
        ids = pd.read_parquet(path, columns=["id"], filters=filters)["id"]
        if len(ids) > limit:  # ids are unique, since duplicates were dropped
            filters.append(("id", "<=", sorted(ids)[limit - 1]))
    frame = pd.read_parquet(path, filters=filters)
    z = frame.filter(regex=r"^z\d+$").to_numpy(dtype=np.float32)
    labels = None
    if "label" in frame:
        labels = frame["label"].fillna(-1).to_numpy(dtype=np.int64)
    return Latents(frame["id"].to_numpy(dtype=str), z, labels)
