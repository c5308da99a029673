"""The second phase of training: some hundred steps that also match statistics of detail.

It begins when the first phase has converged; from the first step on, these losses make a model
worse. The loss of the first phase stays, and each distance of `detail` is added with a weight:

    weight = share * excess / distance

`share` is a param. `excess` is the loss that was reached, above its minimum for these images, and
`distance` the distance that was reached. So a share means the same for grey and colour images, and
for both kinds of loss. If the mean squared error of the validation images ends more than a tenth
higher, the weights of the first phase come back.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np

from latentworks.engine import training
from latentworks.engine.backend import keras
from latentworks.engine.batches import Batches
from latentworks.engine.checkpoint import Checkpoint, Epoch, Progress, Refinement
from latentworks.engine.detail import Detail, Distances
from latentworks.models.autoencoder import Autoencoder, scale
from latentworks.models.config import STEPS_PER_ROUND, RefineConfig
from latentworks.models.network import Tensor

MAX_RISE = 0.1  # of the mean squared error of the validation images, as a share
NUM_MEASURED = 1024  # images that decide the weights, and the deviations of features


class _EveryRound(keras.callbacks.Callback):
    """Shuffles before each round, which is an epoch for Keras. After it: reports and saves."""

    def __init__(
        self,
        batches: Batches,
        progress: Progress,
        refinement: Refinement,
        checkpoint: Checkpoint,
        report: Callable[[Epoch], None],
    ) -> None:
        super().__init__()
        self.batches = batches
        self.progress = progress
        self.refinement = refinement
        self.checkpoint = checkpoint
        self.report = report

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.batches.shuffle(len(self.progress.epochs) + epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        number = len(self.progress.epochs) + epoch + 1
        numbers = {"epoch": number, "phase": 2, **(logs or {})}
        numbers["learning_rate"] = float(self.model.optimizer.learning_rate)
        training.require_finite(self.model, numbers, number)
        self.refinement.rounds.append({name: float(value) for name, value in numbers.items()})
        with training.undisturbed():
            self.report(self.refinement.rounds[-1])
            self.checkpoint.save(self.model, self.progress)


def refine(
    model: Autoencoder,
    batches: Batches,
    validation: Batches | None,
    config: RefineConfig,
    progress: Progress,
    checkpoint: Checkpoint,
    report: Callable[[Epoch], None],
) -> None:
    """Train a model, which `training.fit` has trained, in the second phase.

    An interrupted phase goes on after its last round. `report` is called after each round. Raises
    TrainingError if the loss or a weight is not finite.
    """
    if not config.steps:
        return
    num_rounds = config.steps // STEPS_PER_ROUND
    some = batches.sample(NUM_MEASURED)
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.steps)
    detail = Detail(some.images[some.rows])
    watched = validation or some
    known = progress.refinement
    refinement = known or _begin(model, some, watched, config, detail)
    progress.refinement = refinement
    model.compile(optimizer=keras.optimizers.Adam(rate))
    model.optimizer.build(model.trainable_variables)
    if known is not None:
        checkpoint.restore(model, phase=2)
        print(f"train: the second phase goes on after round {len(known.rounds)} of {num_rounds}")
    else:
        print(f"train: the second phase has {config.steps} steps in {num_rounds} rounds")
    rounds = batches.of_length(STEPS_PER_ROUND)
    model.refinement = _added(detail, refinement.weights)
    try:
        if len(refinement.rounds) < num_rounds:
            model.fit(
                rounds,
                shuffle=False,
                validation_data=validation,
                epochs=num_rounds,
                initial_epoch=len(refinement.rounds),
                callbacks=[_EveryRound(rounds, progress, refinement, checkpoint, report)],
                verbose=1 if sys.stdout.isatty() else 2,
            )
    finally:
        model.refinement = None
    after = mean_squared_error(model, watched)
    told = f"mse {refinement.mse:.5f} before, {after:.5f} after"
    if after > (1 + MAX_RISE) * refinement.mse:
        model.set_weights(refinement.start)
        refinement.is_undone = True
        print(f"train: the second phase was undone: {told}. Lower train.refine.energy and moments.")
    else:
        print(f"train: second phase: {told}")


def _begin(
    model: Autoencoder, batches: Batches, watched: Batches, config: RefineConfig, detail: Detail
) -> Refinement:
    """Measure what the first phase has reached, and choose the weights of the distances."""
    excesses, distances = [], []
    for images, targets, reconstructions in _reconstructed(model, batches):
        excesses.append(model.excess(images, reconstructions))
        distances.append(detail.distances(targets, reconstructions))
    excess = float(np.mean(excesses))
    shares = Distances(config.energy, config.moments, config.features)
    reached = [float(np.mean(values)) for values in zip(*distances, strict=True)]
    weights = [
        share * excess / distance if distance else 0.0
        for share, distance in zip(shares, reached, strict=True)
    ]
    return Refinement(weights, mean_squared_error(model, watched), model.get_weights())


def _added(detail: Detail, weights: list[float]) -> Callable[[Tensor, Tensor], Tensor]:
    def added(targets: Tensor, reconstructions: Tensor) -> Tensor:
        distances = detail.distances(targets, reconstructions)
        return sum(
            (weight * each for weight, each in zip(weights, distances, strict=True) if weight), 0.0
        )

    return added


def _reconstructed(model: Autoencoder, batches: Batches) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Reconstruct images: yield them as uint8 and float32 [B, H, W, C], and reconstructions."""
    for number in range(len(batches)):
        (given,) = batches[number]
        images, labels = given if isinstance(given, tuple) else (given, None)
        yield images, scale(images), model.decode(model.encode(images, labels), labels)


def mean_squared_error(model: Autoencoder, batches: Batches) -> float:
    """The mean squared error of all images of `batches`, reconstructed without noise."""
    sums, count = 0.0, 0
    for _, targets, reconstructions in _reconstructed(model, batches):
        errors = np.square(np.asarray(targets) - np.asarray(reconstructions), dtype=np.float64)
        sums, count = sums + float(errors.sum()), count + errors.size
    return sums / count
