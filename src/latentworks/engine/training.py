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
        self.progress.planned = self.config.epochs
        settled = self.model.settled_after // len(self.batches)
        self.model.stop_training = _has_ended(self.progress, self.config, settled)
        with undisturbed():
            # Report first: a kill in between repeats the epoch, and its report is not lost.
            self.report(self.progress.epochs[-1])
            self.checkpoint.save(self.model, self.progress)


def _has_ended(progress: Progress, config: TrainingConfig, settled: int) -> bool:
    """True if no epoch is left, or `patience` epochs did not lower the val_loss.

    A loss whose weights rise for `settled` epochs changes its meaning: patience counts from then
    on.
    """
    done = len(progress.epochs)
    if done == 0 or done >= config.epochs:
        return done > 0
    waited = done - 1 - max(progress.best_epoch, settled)
    return "val_loss" in progress.epochs[-1] and waited >= config.patience


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
            f"number. Lower {section}.learning_rate, or raise {section}.warmup."
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

    `model.settled_after` is the number of steps after which its loss keeps its meaning; it may
    depend on `model.num_training_steps`, which is set here. `section` of params.yaml has the
    config. `report` is called after each epoch. Raises TrainingError if the loss or a weight is not
    finite, and ParamsError if a warm-up takes all steps.
    """
    _, settled = _warm_ups(model, config, config.epochs, len(batches))
    name = "kl_warmup_steps" if getattr(model, "kl_warmup", None) is None else "kl_warmup"
    _require_more(config.epochs, len(batches), f"model.{name}", settled, section)
    rate = learning_rate(config, len(batches), section)
    model.compile(optimizer=keras.optimizers.Adam(rate))
    model.optimizer.build(model.trainable_variables)
    progress = _restored(model, checkpoint, config, len(batches), section)
    if not _has_ended(progress, config, settled // len(batches)):
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


def _restored(
    model: keras.Model,
    checkpoint: Checkpoint,
    config: TrainingConfig,
    steps_per_epoch: int,
    section: str,
) -> Progress:
    """Restore the progress of this training, and print the epoch after which it goes on.

    A checkpoint of another number of epochs is of use if its steps are those of this training.
    """

    def fits(found: Progress) -> bool:
        done, planned = len(found.epochs), found.planned
        former = _warm_ups(model, config, planned, steps_per_epoch)
        same = former == _warm_ups(model, config, config.epochs, steps_per_epoch)
        if done > config.epochs:
            print(f"{section}: starts from the first epoch. The checkpoint has {done} already")
            return False
        grows = config.schedule == "constant" and same
        if grows or planned == config.epochs:
            return True
        print(
            f"{section}: starts from the first epoch. The checkpoint is of {planned} epochs, whose "
            f"steps differ from those of {config.epochs}"
        )
        return False

    progress = checkpoint.restore(model, Progress, fits) or Progress()
    if progress.epochs:
        print(f"{section}: goes on after epoch {len(progress.epochs)} of {config.epochs}")
    return progress


def _warm_ups(
    model: keras.Model, config: TrainingConfig, epochs: int, steps_per_epoch: int
) -> tuple[int, int]:
    """The steps of both warm-ups, of the learning rate and of the loss, in `epochs` epochs."""
    model.num_training_steps = epochs * steps_per_epoch
    return config.num_warmup_steps(model.num_training_steps), model.settled_after


def learning_rate(config: TrainingConfig, steps_per_epoch: int, section: str = "train") -> Any:
    """A linear warm-up to `learning_rate`, then constant or a cosine to 0.

    Loshchilov and Hutter 2017. Raises ParamsError if the warm-up takes all steps.
    """
    num_steps = config.epochs * steps_per_epoch
    warmup = config.num_warmup_steps(num_steps)
    name = "warmup_steps" if config.warmup is None else "warmup"
    _require_more(config.epochs, steps_per_epoch, f"{section}.{name}", warmup, section)
    if config.schedule == "constant" and warmup == 0:
        return config.learning_rate
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else config.learning_rate,
        decay_steps=num_steps - warmup,
        alpha=1.0 if config.schedule == "constant" else 0.0,
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _require_more(
    epochs: int, steps_per_epoch: int, name: str, warmup_steps: int, section: str
) -> None:
    num_steps = epochs * steps_per_epoch
    if warmup_steps >= num_steps:
        raise ParamsError(
            f"{name} leaves no step after the warm-up. Expected less than the {num_steps} steps of "
            f"{epochs} epochs. Received: {warmup_steps} steps. Lower {name}, or raise "
            f"{section}.epochs."
        )


def fingerprint(*parts: Any) -> str:
    """Hash all inputs of a training: `parts`, the loaded latentworks code, library versions."""
    own = sorted(name for name in sys.modules if name.split(".")[0] == "latentworks")
    code = {name: disk.file_digest(Path(str(sys.modules[name].__file__))) for name in own}
    versions = {module.__name__: module.__version__ for module in (keras, np, tf)}
    text = json.dumps([parts, code, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
