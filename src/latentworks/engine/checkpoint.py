"""Training that can be killed at any moment and goes on to the same bytes.

Keras's own `BackupAndRestore` forgets random states and may read a torn file. Here each finished
epoch leaves one file, renamed into place, with every variable of the model and of the optimizer,
the best weights so far and the curves; batches are shuffled by (seed, epoch) alone.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentworks.engine.backend import keras
from latentworks.system import disk

Epoch = dict[str, float]  # epoch, loss, learning_rate and, with validation images, val_loss


@dataclass
class Progress:
    """What a training needs, beside the weights, in order to go on."""

    epochs: list[Epoch] = field(default_factory=list)
    best_weights: list[np.ndarray] | None = None  # None without validation images
    finished: bool = False

    @property
    def best_epoch(self) -> int:
        """The index of the epoch with the lowest val_loss; without validation, the last one."""
        losses = [epoch.get("val_loss", -number) for number, epoch in enumerate(self.epochs)]
        return int(np.argmin(losses))


class Checkpoint:
    """One file, for one training only: `fingerprint` tells whose it is."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint

    def save(self, model: keras.Model, progress: Progress) -> None:
        note = {
            "fingerprint": self.fingerprint,
            "epochs": progress.epochs,
            "finished": progress.finished,
        }
        arrays = {"note": np.frombuffer(json.dumps(note).encode(), np.uint8)}
        arrays |= _numbered("variable", [np.asarray(variable) for variable in _variables(model)])
        arrays |= _numbered("best", progress.best_weights or [])
        with disk.replacing(self.path) as temporary:
            disk.write_arrays(temporary, arrays)

    def restore(self, model: keras.Model) -> Progress:
        """Fill `model` and say how far it is; a file of another training counts for nothing."""
        note, arrays = self._read()
        if note.get("fingerprint") != self.fingerprint:
            return Progress()
        for variable, value in zip(_variables(model), _listed("variable", arrays), strict=True):
            variable.assign(value)
        best = _listed("best", arrays)
        return Progress(note["epochs"], best or None, note["finished"])

    def became(self, model: str) -> None:
        """The finished training is written as a model with this MD5."""
        note = {"fingerprint": self.fingerprint, "model": model}
        disk.write_json(self._result, note)

    def forget_finished(self, recorded: str | None) -> None:
        """Forget a finished training whose model has the MD5 `recorded`, which DVC wrote down.

        Until then DVC may have been killed before it took the model over, and the next run
        needs nothing but the file. Afterwards a run is one that the user forced.
        """
        try:
            result = disk.read_json(self._result)
        except (OSError, ValueError):
            return
        if recorded is not None and result == {"fingerprint": self.fingerprint, "model": recorded}:
            self.path.unlink(missing_ok=True)
        self._result.unlink()

    @property
    def _result(self) -> Path:
        return self.path.with_suffix(".json")

    def _read(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The note and all arrays; both empty where there is no file, or a damaged one."""
        try:
            arrays = disk.read_arrays(self.path)
            return dict(json.loads(arrays["note"].tobytes())), arrays
        except Exception:  # whatever the byte that is wrong makes of it, training starts anew
            return {}, {}


def _variables(model: keras.Model) -> list[Any]:
    """All there is: weights, states of random generators, moments and the step count."""
    return [*model.variables, *model.optimizer.variables]


def _numbered(name: str, values: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}_{number:04}": value for number, value in enumerate(values)}


def _listed(name: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}_")]
