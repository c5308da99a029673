"""The feature network: the folder that the stage `features` writes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentworks.system import disk


@dataclass(frozen=True)
class Features:
    """The feature network, in whose features images are compared."""

    kind: str  # shipped, trained, random
    class_names: list[str]  # classes that the network predicts; may be empty
    accuracy: float | None  # of these predictions on test images; None without classes
    weights: dict[str, np.ndarray]  # by path


def write_features(folder: Path, features: Features) -> None:
    disk.write_arrays(folder / "weights.npz", features.weights)
    fields = {name: value for name, value in vars(features).items() if name != "weights"}
    disk.write_json(folder / "features.json", fields)


def read_features(folder: Path) -> Features:
    fields = disk.read_json(folder / "features.json")
    return Features(**fields, weights=disk.read_arrays(folder / "weights.npz"))
