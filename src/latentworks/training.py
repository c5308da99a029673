"""Training that can be killed at any moment and goes on to the same bytes.

Keras's own `BackupAndRestore` forgets random states and may read a torn file. Here each finished
epoch leaves one file, renamed into place, with every variable of the model and of the optimizer,
the best weights so far and the curves; batches are shuffled by (seed, epoch) alone.
"""

import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentworks import disk
from latentworks.backend import keras, tf
from latentworks.errors import ParamsError, TrainingError
from latentworks.models.config import TrainConfig

Epoch = dict[str, float]  # epoch, loss, learning_rate and, with validation images, val_loss


@contextmanager
def undisturbed() -> Iterator[None]:
    """SIGTERM has to wait for the end of the block: a finished epoch is not lost."""
    told: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
        for number in told:
            os.kill(os.getpid(), number)


class Batches(keras.utils.PyDataset):
    """Batches of images, uint8 [B, H, W, C], each read from the memory map when it is needed.

    With labels a batch is images and labels, int64 [B].
    """

    def __init__(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        labels: np.ndarray | None = None,
    ) -> None:
        """`rows` int64 [n] of `images`; with `seed` they are shuffled anew for every epoch.

        `labels` int64 [N] are those of all `images`.
        """
        super().__init__()
        self.images = images
        self.labels = labels
        self.rows = self.order = rows
        self.batch_size = batch_size
        self.seed = seed

    def shuffle(self, epoch: int) -> None:
        if self.seed is not None:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self.order = rng.permutation(self.rows)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        rows = np.sort(rows)  # ascending, as the disk likes it
        if self.labels is None:
            return (self.images[rows],)
        return ((self.images[rows], self.labels[rows]),)


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


class _EveryEpoch(keras.callbacks.Callback):
    """Shuffles before an epoch; after it keeps the best weights, saves, reports, stops."""

    def __init__(
        self,
        batches: Batches,
        checkpoint: Checkpoint,
        progress: Progress,
        config: TrainConfig,
        report: Callable[[Epoch], None],
    ) -> None:
        super().__init__()
        self.batches = batches
        self.checkpoint = checkpoint
        self.progress = progress
        self.config = config
        self.report = report

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.batches.shuffle(epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if logs:
            self._require_finite("loss", logs["loss"], f"step {batch + 1}")

    def _require_finite(self, name: str, value: float, when: str) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"training diverged: {name} is {value} in epoch {len(self.progress.epochs) + 1}, "
                f"{when}. Expected a finite number. Lower train.learning_rate, or raise "
                "train.warmup_steps."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        # The last step may have spoiled the weights without a loss to show it.
        weights = sum(float(np.sum(np.abs(value))) for value in self.model.get_weights())
        for name, value in {**(logs or {}), "the sum of the weights": weights}.items():
            self._require_finite(name, value, "at its end")
        rate = float(self.model.optimizer.learning_rate)
        numbers = {"epoch": epoch + 1, **(logs or {}), "learning_rate": rate}
        self.progress.epochs.append({name: float(value) for name, value in numbers.items()})
        best = self.progress.best_epoch
        if "val_loss" in numbers and best == epoch:
            self.progress.best_weights = self.model.get_weights()
        # While β rises the loss is another one; patience begins when it has its full weight.
        settled = self.model.kl_warmup_steps // len(self.batches)
        patient = "val_loss" not in numbers or epoch - max(best, settled) < self.config.patience
        self.progress.finished = epoch + 1 == self.config.epochs or not patient
        self.model.stop_training = self.progress.finished
        with undisturbed():
            # In this order: a kill in between costs the epoch, and not what was to be shown of it.
            self.report(self.progress.epochs[-1])
            self.checkpoint.save(self.model, self.progress)


def fit(
    model: keras.Model,
    batches: Batches,
    validation: Batches | None,
    config: TrainConfig,
    checkpoint: Checkpoint,
    report: Callable[[Epoch], None],
) -> Progress:
    """Train `model`, from its checkpoint where there is one, and leave the best weights in it.

    `report` is called after each epoch. Raises TrainingError when the loss is not finite, and
    ParamsError when a warm-up takes all steps.
    """
    _require_more(config.epochs, len(batches), "model.kl_warmup_steps", model.kl_warmup_steps)
    model.compile(optimizer=keras.optimizers.Adam(learning_rate(config, len(batches))))
    model.optimizer.build(model.trainable_variables)
    progress = checkpoint.restore(model)
    if progress.epochs:
        print(f"train: goes on after epoch {len(progress.epochs)} of {config.epochs}")
    if not progress.finished:
        model.fit(
            batches,
            shuffle=False,  # Keras would reorder the batches by a random state of its own
            validation_data=validation,
            epochs=config.epochs,
            initial_epoch=len(progress.epochs),
            callbacks=[_EveryEpoch(batches, checkpoint, progress, config, report)],
            verbose=1 if sys.stdout.isatty() else 2,
        )
    if progress.best_weights is not None:
        model.set_weights(progress.best_weights)
    return progress


def learning_rate(config: TrainConfig, steps_per_epoch: int) -> Any:
    """A linear warm-up to `learning_rate`, then a cosine to 0 (Loshchilov and Hutter 2017)."""
    num_steps = config.epochs * steps_per_epoch
    _require_more(config.epochs, steps_per_epoch, "train.warmup_steps", config.warmup_steps)
    if config.schedule == "constant" and config.warmup_steps == 0:
        return config.learning_rate
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if config.warmup_steps else config.learning_rate,
        decay_steps=num_steps - config.warmup_steps,
        alpha=1.0 if config.schedule == "constant" else 0.0,
        warmup_target=config.learning_rate if config.warmup_steps else None,
        warmup_steps=config.warmup_steps,
    )


def _require_more(epochs: int, steps_per_epoch: int, name: str, warmup_steps: int) -> None:
    num_steps = epochs * steps_per_epoch
    if warmup_steps >= num_steps:
        raise ParamsError(
            f"{name} leaves no step after the warm-up. Expected less than the {num_steps} steps of "
            f"{epochs} epochs. Received: {warmup_steps}."
        )


def fingerprint(*parts: Any) -> str:
    """One hash of what decides a training: `parts`, the code that is loaded, its libraries."""
    own = sorted(name for name in sys.modules if name.split(".")[0] == "latentworks")
    code = {name: disk.file_digest(Path(str(sys.modules[name].__file__))) for name in own}
    versions = {module.__name__: module.__version__ for module in (keras, np, tf)}
    text = json.dumps([parts, code, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
