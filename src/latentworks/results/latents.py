"""A table of latents as CSV or Parquet: the columns file, z0, z1, …"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentworks.artifacts import latents
from latentworks.errors import InputError
from latentworks.system import disk

FORMATS = (".csv", ".parquet")


def check_name(path: Path) -> None:
    """Raise InputError unless a file has the ending of a table."""
    if path.suffix not in FORMATS:
        raise InputError(
            f"The last argument is the table to write: a .csv or .parquet file. Received: {path}."
        )


def write(path: Path, files: Sequence[str], z: Sequence[np.ndarray]) -> None:
    """Write the latents z, batches of float32 [n, D], of pictures whose names are `files`."""
    table = latents.columns(np.concatenate(z), None)
    table.insert(0, "file", list(files))
    with disk.replacing(path) as temporary:
        if path.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)
