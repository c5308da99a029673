"""Checkpoints: training that is killed at any moment resumes and ends in the same bytes.

Keras's `BackupAndRestore` does not save random states and may read a half-written file. A
checkpoint here is one file, replaced atomically after each epoch. It holds every variable of the
model and of the optimizer, the best weights so far, and the curves.
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
class Refinement:
    """The state of the second phase, besides the variables of model and optimizer."""

    weights: list[float]  # of the distances
    mse: float  # of the validation images, before the phase
    start: list[np.ndarray]  # the model's weights before the phase
    rounds: list[Epoch] = field(default_factory=list)
    is_undone: bool = False


@dataclass
class Progress:
    """The state of a training, besides the variables of model and optimizer."""

    epochs: list[Epoch] = field(default_factory=list)
    best_weights: list[np.ndarray] | None = None  # None without validation images
    finished: bool = False
    refinement: Refinement | None = None  # the second phase, once it has begun

    @property
    def curves(self) -> list[Epoch]:
        """The epochs of the first phase, and the rounds of the second, unless it was undone."""
        if self.refinement is None or self.refinement.is_undone:
            return self.epochs
        return [*self.epochs, *self.refinement.rounds]

    @property
    def best_epoch(self) -> int:
        """Index of the epoch with the lowest val_loss; without validation, of the last epoch."""
        losses = [epoch.get("val_loss", -number) for number, epoch in enumerate(self.epochs)]
        return int(np.argmin(losses))


class Checkpoint:
    """A checkpoint file. `fingerprint` identifies the training that it belongs to."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint

    def save(self, model: keras.Model, progress: Progress) -> None:
        note: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "epochs": progress.epochs,
            "finished": progress.finished,
        }
        arrays = _numbered("variable", [np.asarray(variable) for variable in _variables(model)])
        arrays |= _numbered("best", progress.best_weights or [])
        if refinement := progress.refinement:
            note["second phase"] = [refinement.weights, refinement.mse, refinement.rounds]
            arrays |= _numbered("start", refinement.start)
        arrays["note"] = np.frombuffer(json.dumps(note).encode(), np.uint8)
        with disk.replacing(self.path) as temporary:
            disk.write_arrays(temporary, arrays)

    def restore(self, model: keras.Model, phase: int = 1) -> Progress:
        """Restore the variables of `model`, and return the progress of its training.

        A missing or damaged file, or one of another training, restores nothing. Variables are
        restored if the training was in this phase, which has an optimizer of its own.
        """
        note, arrays = self._read()
        if note.get("fingerprint") != self.fingerprint:
            return Progress()
        if phase == (2 if "second phase" in note else 1):
            saved = _listed("variable", arrays)
            for variable, value in zip(_variables(model), saved, strict=True):
                variable.assign(value)
        best = _listed("best", arrays)
        progress = Progress(note["epochs"], best or None, note["finished"])
        if second := note.get("second phase"):
            weights, mse, rounds = second
            progress.refinement = Refinement(weights, mse, _listed("start", arrays), rounds)
        return progress

    def became(self, model: str) -> None:
        """Record that the finished training was written as a model file with the MD5 `model`."""
        note = {"fingerprint": self.fingerprint, "model": model}
        disk.write_json(self._result, note)

    def forget_finished(self, recorded: str | None) -> None:
        """Delete the checkpoint of a finished training if its model has the MD5 in dvc.lock.

        `recorded` is this MD5. Without it, DVC may have been killed before it recorded the model,
        and the next run reuses the checkpoint. With it, the user forced a new training.
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
        """Read the note and all arrays. Both are empty if the file is missing or damaged."""
        try:
            arrays = disk.read_arrays(self.path)
            return dict(json.loads(arrays["note"].tobytes())), arrays
        except Exception:  # a damaged file can raise any error: training starts again
            return {}, {}


def _variables(model: keras.Model) -> list[Any]:
    """List all variables: weights, states of random generators, moments and the step count."""
    return [*model.variables, *model.optimizer.variables]


def _numbered(name: str, values: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}_{number:04}": value for number, value in enumerate(values)}


def _listed(name: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [arrays[key] for key in sorted(arrays) if key.startswith(f"{name}_")]
