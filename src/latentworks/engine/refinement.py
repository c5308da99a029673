"""The second phase of training: a few hundred steps that also match statistics of detail.

It begins when the first phase has ended. Used from the first step of a training, these losses make
the model worse. The loss of the first phase stays, and each distance of `detail` is added with a
weight:

    weight = share * excess / distance

`share` is a param. `excess` is the loss that was reached, above its minimum for these images, and
`distance` the distance that was reached. So a share means the same for grey and colour images, and
for both kinds of loss. The term of `discriminator` counts as a distance of 1, since a discriminator
starts with the phase, and the hinge loss fixes the scale of its logits. The phase is undone, and
the weights of the first phase come back, if the mean squared error of the validation images ends
more than a tenth higher, or training diverges.
"""

import math
import sys
from collections.abc import Callable, Iterator

import numpy as np

from latentworks.engine import training
from latentworks.engine.backend import keras
from latentworks.engine.batches import Batches
from latentworks.engine.checkpoint import Checkpoint, Epoch, Refinement
from latentworks.engine.detail import Detail, Distances
from latentworks.engine.discriminator import WithDiscriminator
from latentworks.errors import TrainingError
from latentworks.models.autoencoder import Autoencoder, scale
from latentworks.models.config import STEPS_PER_ROUND, RefineConfig
from latentworks.models.network import Tensor

SHARES = ("energy", "moments", "features", "discriminator")  # the order of Refinement.weights
RATE = "train.refine.learning_rate"
MAX_RISE = 0.1  # of the mean squared error of the validation images, as a share
NUM_MEASURED = 1024  # training images that decide the weights, and the deviations of features


class _EveryRound(keras.callbacks.Callback):
    """Shuffles before each round, which is an epoch for Keras, and saves after it."""

    def __init__(
        self,
        batches: Batches,
        first: int,
        refinement: Refinement,
        checkpoint: Checkpoint,
    ) -> None:
        """`first`: the number of epochs before the first round."""
        super().__init__()
        self.batches = batches
        self.first = first
        self.refinement = refinement
        self.checkpoint = checkpoint

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.batches.shuffle(self.first + epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        number = self.first + epoch + 1
        numbers = {"epoch": number, "phase": 2, **(logs or {})}
        numbers["learning_rate"] = float(self.model.optimizer.learning_rate)
        training.require_finite(self.model, numbers, number)
        self.refinement.epochs.append({name: float(value) for name, value in numbers.items()})
        with training.undisturbed():
            self.checkpoint.save(self.model, self.refinement)


def refine(
    model: Autoencoder,
    batches: Batches,
    validation: Batches | None,
    config: RefineConfig,
    num_epochs: int,
    checkpoint: Checkpoint,
    report: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train a model in the second phase, after `num_epochs` epochs of `training.fit`.

    An interrupted phase goes on after its last round. Returns the rounds, or nothing if the phase
    was undone. `report` is called once, with the last round: until then, the phase may be undone.
    """
    if not config.steps:
        return []
    num_rounds = config.steps // STEPS_PER_ROUND
    some = batches.sample(NUM_MEASURED)
    detail = Detail(some.images.shape[-1], some.pictures())
    watched = validation or some
    opponent = WithDiscriminator(model) if config.discriminator else None
    trained = model if opponent is None else opponent
    rate = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.steps)
    trained.compile(optimizer=keras.optimizers.Adam(rate))
    trained.optimizer.build(trained.trainable_variables)
    refinement = checkpoint.restore(trained, Refinement)
    if refinement is None:
        refinement = _begin(model, some, watched, config, detail)
    done = len(refinement.epochs)
    said = f"goes on after round {done} of {num_rounds}" if done else f"has {config.steps} steps"
    print(f"train: the second phase {said}")
    rounds = batches.of_length(STEPS_PER_ROUND)
    model.refinement = _added(detail, opponent, refinement.weights)
    try:
        if done < num_rounds:
            trained.fit(
                rounds,
                shuffle=False,
                validation_data=validation,
                epochs=num_rounds,
                initial_epoch=done,
                callbacks=[_EveryRound(rounds, num_epochs, refinement, checkpoint)],
                verbose=1 if sys.stdout.isatty() else 2,
            )
        after = mean_squared_error(model, watched)
        told = f"mse {refinement.mse:.5f} before, {after:.5f} after"
        raised = [f"train.refine.{share}" for share in SHARES if getattr(config, share)]
        cure = " or ".join(raised or [RATE])
    except TrainingError as error:
        after, told, cure = math.nan, str(error).partition(". ")[0], RATE
    finally:
        model.refinement = None
    if after <= (1 + MAX_RISE) * refinement.mse:
        print(f"train: second phase: {told}")
        report(refinement.epochs[-1])
        return refinement.epochs
    model.set_weights(refinement.kept)
    print(f"train: the second phase was undone: {told}. Lower {cure}.")
    return []


def _begin(
    model: Autoencoder, batches: Batches, watched: Batches, config: RefineConfig, detail: Detail
) -> Refinement:
    """Measure what the first phase has reached, and choose the weights of the added terms."""
    sums, count = np.zeros(1 + len(Distances._fields)), 0
    for images, targets, reconstructions in _reconstructed(model, batches):
        reached = model.excess(images, reconstructions), *detail.distances(targets, reconstructions)
        sums += len(images) * np.array([float(value) for value in reached])
        count += len(images)
    excess, *distances = sums / count
    weights = [
        float(getattr(config, share) * excess / distance) if distance else 0.0
        for share, distance in zip(SHARES, [*distances, 1.0], strict=True)
    ]
    mse = mean_squared_error(model, watched)
    return Refinement(kept=model.get_weights(), weights=weights, mse=mse)


def _added(
    detail: Detail, opponent: WithDiscriminator | None, weights: list[float]
) -> Callable[[Tensor, Tensor], Tensor]:
    *of_distances, opposed = weights

    def added(targets: Tensor, reconstructions: Tensor) -> Tensor:
        distances = detail.distances(targets, reconstructions)
        pairs = zip(of_distances, distances, strict=True)
        total = sum((weight * each for weight, each in pairs if weight), 0.0)
        if opponent is not None:
            total += opponent.added(targets, reconstructions, opposed)
        return total

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
