"""The files between stages: one `write_x` and one `read_x` for every arrow in dvc.yaml.

A file or folder is written under a temporary name, flushed to disk and renamed, so that it
appears whole or not at all. None holds a time, a host or a path: equal inputs give equal bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentworks.system import disk


@dataclass(frozen=True)
class Features:
    """The folder that `features` writes: the network in whose features images are compared."""

    kind: str  # shipped, trained, random
    class_names: list[str]  # that it tells apart; empty where there are none
    accuracy: float | None  # of that, on test images
    weights: dict[str, np.ndarray]  # by path


def write_features(folder: Path, features: Features) -> None:
    disk.write_arrays(folder / "weights.npz", features.weights)
    told = {name: value for name, value in vars(features).items() if name != "weights"}
    disk.write_json(folder / "features.json", told)


def read_features(folder: Path) -> Features:
    told = disk.read_json(folder / "features.json")
    return Features(**told, weights=disk.read_arrays(folder / "weights.npz"))
