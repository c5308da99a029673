"""Training that can be killed at any moment and goes on to the same bytes.

Keras's own `BackupAndRestore` forgets random states and may read a torn file. Here each finished
epoch leaves one file, renamed into place, with every variable of the model and of the optimizer,
the best weights so far and the curves; batches are shuffled by (seed, epoch) alone.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentworks import artifacts
from latentworks.backend import keras, tf
from latentworks.errors import ParamsError, TrainingError
from latentworks.models.config import TrainConfig

Epoch = dict[str, float]  # epoch, loss, learning_rate and, with validation images, val_loss


def configure(seed: int, num_threads: int) -> None:
    """Make what follows repeatable. To be called once, before the first tensor is made."""
    tf.config.threading.set_intra_op_parallelism_threads(num_threads)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)


class Batches(keras.utils.PyDataset):
    """Batches of images, uint8 [B, H, W, C], each read from the memory map when it is needed."""

    def __init__(
        self, images: np.ndarray, rows: np.ndarray, batch_size: int, seed: int | None = None
    ) -> None:
        """`rows` int64 [n] of `images`; with `seed` they are shuffled anew for every epoch."""
        super().__init__()
        self.images = images
        self.rows = self.order = rows
        self.batch_size = batch_size
        self.seed = seed

    def shuffle(self, epoch: int) -> None:
        if self.seed is not None:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self.order = rng.permutation(self.rows)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return (self.images[np.sort(rows)],)  # ascending, as the disk likes it


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
        with artifacts.replacing(self.path) as temporary:
            artifacts.write_arrays(temporary, arrays)

    def restore(self, model: keras.Model) -> Progress:
        """Fill `model` and say how far it is; a file of another training counts for nothing."""
        note, arrays = self._read()
        if note.get("fingerprint") != self.fingerprint:
            return Progress()
        for variable, value in zip(_variables(model), _listed("variable", arrays), strict=True):
            variable.assign(value)
        best = _listed("best", arrays)
        return Progress(note["epochs"], best or None, note["finished"])

    def forget_finished(self, recorded: Path) -> None:
        """Forget a finished training once `recorded`, which DVC writes after it, is younger.

        Until then DVC may have been killed before it took the model over, and the next run
        needs nothing but the file. Afterwards a run is one that the user forced.
        """
        note, _ = self._read()
        if not (note.get("finished") and recorded.is_file()):
            return
        if recorded.stat().st_mtime_ns >= self.path.stat().st_mtime_ns:
            self.path.unlink()

    def _read(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The note and all arrays; both empty where there is no file, or a damaged one."""
        try:
            arrays = artifacts.read_arrays(self.path)
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
        patient = "val_loss" not in numbers or epoch - best < self.config.patience
        self.progress.finished = epoch + 1 == self.config.epochs or not patient
        self.model.stop_training = self.progress.finished
        self.checkpoint.save(self.model, self.progress)
        self.report(self.progress.epochs[-1])


def fit(
    model: keras.Model,
    batches: Batches,
    validation: Batches | None,
    config: TrainConfig,
    checkpoint: Checkpoint,
    report: Callable[[Epoch], None],
) -> Progress:
    """Train `model`, from its checkpoint where there is one, and leave the best weights in it.

    `report` is called after each epoch. Raises TrainingError when the loss is not finite.
    """
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
    if config.warmup_steps >= num_steps:
        raise ParamsError(
            f"train.warmup_steps leaves no step to train at full rate. Expected less than the "
            f"{num_steps} steps of {config.epochs} epochs. Received: {config.warmup_steps}."
        )
    if config.schedule == "constant" and config.warmup_steps == 0:
        return config.learning_rate
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if config.warmup_steps else config.learning_rate,
        decay_steps=num_steps - config.warmup_steps,
        alpha=1.0 if config.schedule == "constant" else 0.0,
        warmup_target=config.learning_rate if config.warmup_steps else None,
        warmup_steps=config.warmup_steps,
    )


def fingerprint(*parts: Any) -> str:
    """One hash of what decides a training: `parts`, the code that is loaded, its libraries."""
    own = sorted(name for name in sys.modules if name.split(".")[0] == "latentworks")
    code = {name: artifacts.file_digest(Path(str(sys.modules[name].__file__))) for name in own}
    versions = {module.__name__: module.__version__ for module in (keras, np, tf)}
    text = json.dumps([parts, code, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
