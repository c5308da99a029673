"""A trained prior: the folder that the stage `prior` writes."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel

from latentworks.system import disk


def write_prior(
    folder: Path, config: BaseModel, arrays: dict[str, np.ndarray] | None = None
) -> None:
    """Write config.json and, if there are arrays of the sampler `learned`, prior.npz."""
    disk.write_json(folder / "config.json", config.model_dump(mode="json"))
    if arrays:
        disk.write_arrays(folder / "prior.npz", arrays)


def read_prior(folder: Path) -> dict[str, np.ndarray]:
    """Read the arrays of the sampler `learned`; empty without a prior."""
    path = folder / "prior.npz"
    return disk.read_arrays(path) if path.exists() else {}
