"""Comparison of samples with real images by the features and classes of a classifier."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from latentworks.metrics.frechet import frechet_distance
from latentworks.metrics.kernel import kernel_distance
from latentworks.metrics.neighbours import neighbour_metrics
from latentworks.metrics.pixels import subset

MAX_SEEN = 10_000  # samples, test images, reconstructions, and each set of training images
NUM_FLOORS = 4  # sets of training images whose distances give the floor and its spread


@dataclass(frozen=True, eq=False)
class Seen:
    """The features and classes that a classifier assigns to images."""

    features: np.ndarray  # float32 [N, F]
    classes: np.ndarray | None = None  # int64 [N], the likeliest class; None without classes
    labels: np.ndarray | None = None  # int64 [N], the true or requested class; -1 if unknown


def generation_metrics(
    samples: Seen, test: Seen, train: Sequence[Seen], reconstructions: Seen
) -> Iterator[dict[str, float]]:
    """Compute the metrics of section `samples` that need a classifier, in parts of a few seconds.

    `train` holds disjoint sets of training images, one or more.

    - `frechet`, `kid`: distance from the samples to the test images.
    - `frechet_floor`: mean distance from a set of training images to the test images. A perfect
      sampler reaches it, and so does one that copies training images. `frechet_floor_std` is the
      standard deviation over the sets, and is missing for a single set.
    - `frechet_blur`: distance from the reconstructions of the test images to these images, the
      loss of the model.
    - `frechet_sampler`: distance from the samples to the reconstructions, the loss of the sampler.
    - `precision`, `recall`, `density`, `coverage`: of the samples; with `_real`, of the first set
      of training images; with `_reconstructed`, of as many reconstructions of test images.

    Yields nothing if one of the sets has less than 2 images.
    """
    if min(len(each.features) for each in (samples, test, *train, reconstructions)) < 2:
        return
    yield {
        name: frechet_distance(first.features, second.features)
        for name, first, second in (
            ("frechet", samples, test),
            ("frechet_blur", reconstructions, test),
            ("frechet_sampler", samples, reconstructions),
        )
    }
    floors = [frechet_distance(each.features, test.features) for each in train]
    yield {"frechet_floor": float(np.mean(floors))}
    if len(floors) > 1:
        yield {"frechet_floor_std": float(np.std(floors, ddof=1))}
    yield {"kid": kernel_distance(samples.features, test.features)}
    yield neighbour_metrics(test.features, samples.features)
    as_many = subset(np.arange(len(reconstructions.features)), len(samples.features))
    for ending, others in (
        ("real", train[0].features),
        ("reconstructed", reconstructions.features[as_many]),
    ):
        scores = neighbour_metrics(test.features, others)
        yield {f"{name}_{ending}": value for name, value in scores.items()}
    yield class_metrics(samples, test, reconstructions)


def class_metrics(samples: Seen, test: Seen, reconstructions: Seen) -> dict[str, float]:
    """Compute class_balance and label_agreement, with `_real` and `_reconstructed`.

    `label_agreement` is the share of samples that show the class requested for them, among samples
    with such a class. With `_real` and `_reconstructed`, it is the share of test images and of
    their reconstructions that show the true class, among labelled ones. Metrics without the classes
    or labels that they need are left out.
    """
    if samples.classes is None or test.classes is None:
        return {}
    scores = {"class_balance": class_balance(samples.classes, test.classes)}
    shares = {
        "label_agreement": label_agreement(samples),
        "label_agreement_real": label_agreement(test),
        "label_agreement_reconstructed": label_agreement(reconstructions),
    }
    return scores | {name: share for name, share in shares.items() if share is not None}


def class_balance(first: np.ndarray, second: np.ndarray) -> float:
    """1 - the total variation distance between the classes of two sets, int64 [N] and [M].

    1 if both sets have the same share of every class; 0 if they have no class in common.
    """
    size = int(max(first.max(), second.max())) + 1
    shares = [np.bincount(classes, minlength=size) / len(classes) for classes in (first, second)]
    return float(np.minimum(*shares).sum())


def label_agreement(seen: Seen) -> float | None:
    """The share of labelled images that the classifier assigns to their label; None without any."""
    if seen.classes is None or seen.labels is None or not (seen.labels >= 0).any():
        return None
    return float((seen.classes == seen.labels)[seen.labels >= 0].mean())
