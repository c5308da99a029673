"""Checkpoints: training that is killed at any moment resumes and ends in the same bytes.

Keras's `BackupAndRestore` does not save random states and may read a half-written file. A
checkpoint here is one file, replaced atomically after each epoch. It holds every variable of the
model and of the optimizer, and the state of the training.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from latentworks.engine.backend import keras
from latentworks.system import disk

Epoch = dict[str, float]  # epoch, loss, learning_rate and, with validation images, val_loss


@dataclass
class State:
    """The state of a training, besides the variables of model and optimizer."""

    epochs: list[Epoch] = field(default_factory=list)
    kept: list[np.ndarray] = field(default_factory=list)  # weights of the model, to come back to


@dataclass
class Progress(State):
    """The state of the first phase. It keeps the best weights, if there are validation images."""

    planned: int = 0  # number of epochs of the whole training, when this was saved

    @property
    def best_epoch(self) -> int:
        """Index of the epoch with the lowest val_loss; without validation, of the last epoch."""
        losses = [epoch.get("val_loss", -number) for number, epoch in enumerate(self.epochs)]
        return int(np.argmin(losses))


@dataclass
class Refinement(State):
    """The state of the second phase. It keeps the weights from before it; its epochs are rounds."""

    weights: list[float] = field(default_factory=list)  # of the terms that are added
    mse: float = 0.0  # of the validation images, before the phase


S = TypeVar("S", bound=State)


class Checkpoint:
    """A checkpoint file. `fingerprint` identifies the training that it belongs to."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint

    def save(self, model: keras.Model, state: State) -> None:
        """Replace the file by one with the variables of `model`, and the state of its training."""
        values = {each.name: getattr(state, each.name) for each in fields(state)}
        arrays = _numbered("variable", [np.asarray(variable) for variable in _variables(model)])
        arrays |= _numbered("kept", values.pop("kept"))
        note = json.dumps({"fingerprint": self.fingerprint, **values})
        arrays["note"] = np.frombuffer(note.encode(), np.uint8)
        with disk.replacing(self.path) as temporary:
            disk.write_arrays(temporary, arrays)

    def restore(
        self, model: keras.Model, kind: type[S], fits: Callable[[S], bool] = lambda _: True
    ) -> S | None:
        """Restore the variables of `model`, and return the state of its training.

        Returns None, and restores nothing, if the file is missing, damaged, of another training, or
        if `fits` refuses its state.
        """
        note, arrays = self._read()
        if note.pop("fingerprint", None) != self.fingerprint:
            return None
        state = kind(**note, kept=_listed("kept", arrays))
        if not fits(state):
            return None
        for variable, value in zip(_variables(model), _listed("variable", arrays), strict=True):
            variable.assign(value)
        return state

    def became(self, out: str) -> None:
        """Record that the finished training was written as an out with the MD5 `out`."""
        note = {"fingerprint": self.fingerprint, "model": out}
        disk.write_json(self._result, note)

    def forget_finished(self, recorded: str | None, *others: "Checkpoint") -> None:
        """Delete the checkpoints of a finished training if its out has the MD5 in dvc.lock.

        `recorded` is this MD5, and `others` are the checkpoints of earlier phases. Without it, DVC
        may have been killed before it recorded the out, and the next run reuses the checkpoints.
        With it, the user forced a new training.
        """
        try:
            result = disk.read_json(self._result)
        except (OSError, ValueError):
            return
        if recorded is not None and result == {"fingerprint": self.fingerprint, "model": recorded}:
            for each in (self, *others):
                each.path.unlink(missing_ok=True)
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
