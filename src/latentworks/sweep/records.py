"""The state of a sweep on disk: a file for each trial that was started, and a row of images."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentworks.sweep.axes import Values
from latentworks.system import disk
from latentworks.system.state import STATE

SWEEPS = STATE / "sweeps"


@dataclass(frozen=True)
class Record:
    """A trial: its values, and its scores or its fault once it has ended."""

    number: int  # from 1
    values: Values
    scores: dict[str, float] = field(default_factory=dict)  # of validation images
    fault: str = ""
    model: str = ""  # digests, by which its run in MLflow is found
    samples: str = ""

    @property
    def is_finished(self) -> bool:
        return bool(self.scores)

    @property
    def summary(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values.items())


class Folder:
    """The folder of a sweep in the checkout `root`.

    It belongs to `identity`: to the arguments, params.yaml and the commit of the code.
    """

    def __init__(self, root: Path, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True, default=str)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.path = root / SWEEPS / self.key

    def read(self, number: int) -> Record | None:
        """Return the record of a trial; None if it was not started, or if the file is damaged."""
        try:
            return Record(**disk.read_json(self._file(number)))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        disk.write_json(self._file(record.number), asdict(record))

    def write_images(self, number: int, images: np.ndarray) -> None:
        """Keep the images of a trial for the picture of the sweep: uint8 [N, H, W, C]."""
        with disk.replacing(self._file(number).with_suffix(".npz")) as temporary:
            disk.write_arrays(temporary, {"images": images})

    def read_images(self, number: int) -> np.ndarray:
        return disk.read_arrays(self._file(number).with_suffix(".npz"))["images"]

    def _file(self, number: int) -> Path:
        return self.path / f"{number:04}.json"
