"""Training of a model, with a checkpoint and a report after every epoch."""

import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from latentworks.config import TrainingConfig
from latentworks.engine.backend import keras, tf
from latentworks.engine.batches import Batches
from latentworks.engine.checkpoint import Checkpoint, Epoch, Progress
from latentworks.errors import ParamsError, TrainingError
from latentworks.system import disk
from latentworks.system.progress import Ticker


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay SIGTERM until the end of the block, so that a finished epoch is not lost."""
    received: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
        for number in received:
            os.kill(os.getpid(), number)


class _EveryEpoch(keras.callbacks.Callback):
    """Shuffles before each epoch. After it: keeps the best weights, reports, saves, may stop."""

    def __init__(
        self,
        batches: Batches,
        checkpoint: Checkpoint,
        progress: Progress,
        config: TrainingConfig,
        report: Callable[[Epoch], None],
        section: str,
    ) -> None:
        super().__init__()
        self.batches = batches
        self.checkpoint = checkpoint
        self.progress = progress
        self.config = config
        self.report = report
        self.section = section
        self.ticker = Ticker()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.batches.shuffle(epoch)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if logs:
            number = len(self.progress.epochs) + 1
            _require_finite("loss", logs["loss"], number, f"step {batch + 1}", self.section)
            if self.ticker.is_due():
                print(
                    f"{self.section}: epoch {number} of {self.config.epochs}, step {batch + 1} of "
                    f"{len(self.batches)}, loss {logs['loss']:.4f}"
                )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        require_finite(self.model, logs or {}, epoch + 1, self.section)
        rate = float(self.model.optimizer.learning_rate)
        numbers = {"epoch": epoch + 1, **(logs or {}), "learning_rate": rate}
        self.progress.epochs.append({name: float(value) for name, value in numbers.items()})
        best = self.progress.best_epoch
        if "val_loss" in numbers and best == epoch:
            self.progress.kept = self.model.get_weights()
        # A loss whose weights still rise changes its meaning: patience counts from then on.
        settled = self.model.settled_after // len(self.batches)
        patient = "val_loss" not in numbers or epoch - max(best, settled) < self.config.patience
        self.progress.finished = epoch + 1 == self.config.epochs or not patient
        self.model.stop_training = self.progress.finished
        with undisturbed():
            # Report first: a kill in between repeats the epoch, and its report is not lost.
            self.report(self.progress.epochs[-1])
            self.checkpoint.save(self.model, self.progress)


def require_finite(model: keras.Model, logs: Epoch, epoch: int, section: str = "train") -> None:
    """Raise TrainingError if a number of an epoch, or a weight of the model, is not finite."""
    # The last step may have made weights infinite or NaN after its loss was computed.
    weights = sum(float(np.sum(np.abs(value))) for value in model.get_weights())
    for name, value in {**logs, "the sum of the weights": weights}.items():
        _require_finite(name, value, epoch, "at its end", section)


def _require_finite(name: str, value: float, epoch: int, when: str, section: str) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"Training diverged: {name} is {value} in epoch {epoch}, {when}. Expected a finite "
            f"number. Lower {section}.learning_rate, or raise {section}.warmup_steps."
        )


def fit(
    model: keras.Model,
    batches: Batches,
    validation: Batches | None,
    config: TrainingConfig,
    checkpoint: Checkpoint,
    report: Callable[[Epoch], None],
    section: str = "train",
) -> Progress:
    """Train `model`, from its checkpoint if there is one, and give it the best weights.

    `model.settled_after` is the number of steps after which its loss keeps its meaning. `section`
    of params.yaml has the config. `report` is called after each epoch. Raises TrainingError if the
    loss or a weight is not finite, and ParamsError if a warm-up takes all steps.
    """
    settled = model.settled_after
    _require_more(config.epochs, len(batches), "model.kl_warmup_steps", settled, section)
    rate = learning_rate(config, len(batches), section)
    model.compile(optimizer=keras.optimizers.Adam(rate))
    model.optimizer.build(model.trainable_variables)
    progress = checkpoint.restore(model, Progress) or Progress()
    if progress.epochs:
        print(f"{section}: goes on after epoch {len(progress.epochs)} of {config.epochs}")
    if not progress.finished:
        model.fit(
            batches,
            shuffle=False,  # Keras would shuffle by a random state that no checkpoint holds
            validation_data=validation,
            epochs=config.epochs,
            initial_epoch=len(progress.epochs),
            callbacks=[_EveryEpoch(batches, checkpoint, progress, config, report, section)],
            verbose=1 if sys.stdout.isatty() else 2,
        )
    if progress.kept:
        model.set_weights(progress.kept)
    return progress


def learning_rate(config: TrainingConfig, steps_per_epoch: int, section: str = "train") -> Any:
    """A linear warm-up to `learning_rate`, then constant or a cosine to 0.

    Loshchilov and Hutter 2017. Raises ParamsError if the warm-up takes all steps.
    """
    num_steps = config.epochs * steps_per_epoch
    name = f"{section}.warmup_steps"
    _require_more(config.epochs, steps_per_epoch, name, config.warmup_steps, section)
    if config.schedule == "constant" and config.warmup_steps == 0:
        return config.learning_rate
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if config.warmup_steps else config.learning_rate,
        decay_steps=num_steps - config.warmup_steps,
        alpha=1.0 if config.schedule == "constant" else 0.0,
        warmup_target=config.learning_rate if config.warmup_steps else None,
        warmup_steps=config.warmup_steps,
    )


def _require_more(
    epochs: int, steps_per_epoch: int, name: str, warmup_steps: int, section: str
) -> None:
    num_steps = epochs * steps_per_epoch
    if warmup_steps >= num_steps:
        raise ParamsError(
            f"{name} leaves no step after the warm-up. Expected less than the {num_steps} steps of "
            f"{epochs} epochs. Received: {warmup_steps}. Lower {name}, or raise {section}.epochs."
        )


def fingerprint(*parts: Any) -> str:
    """Hash all inputs of a training: `parts`, the loaded latentworks code, library versions."""
    own = sorted(name for name in sys.modules if name.split(".")[0] == "latentworks")
    code = {name: disk.file_digest(Path(str(sys.modules[name].__file__))) for name in own}
    versions = {module.__name__: module.__version__ for module in (keras, np, tf)}
    text = json.dumps([parts, code, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
