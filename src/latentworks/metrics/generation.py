"""Comparison of samples with real images by the features and classes of a classifier."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from latentworks.metrics.frechet import frechet_distance
from latentworks.metrics.kernel import kernel_distance
from latentworks.metrics.neighbours import neighbour_metrics

MAX_SEEN = 10_000  # samples, test images, training images and reconstructions, each


@dataclass(frozen=True, eq=False)
class Seen:
    """The features and classes that a classifier assigns to images."""

    features: np.ndarray  # float32 [N, F]
    classes: np.ndarray | None = None  # int64 [N], the likeliest class; None without classes
    labels: np.ndarray | None = None  # int64 [N], the true or requested class; -1 if unknown


def generation_metrics(
    samples: Seen, test: Seen, train: Seen, reconstructions: Seen
) -> Iterator[dict[str, float]]:
    """Compute the metrics of section `samples` that need a classifier, in parts of a few seconds.

    - `frechet`, `kid`: distance from the samples to the test images.
    - `frechet_floor`: distance from the training images to the test images. A perfect sampler
      reaches it, and so does one that copies training images.
    - `frechet_blur`: distance from the reconstructions of the test images to these images, the
      loss of the model.
    - `frechet_sampler`: distance from the samples to the reconstructions, the loss of the sampler.
    - `precision`, `recall`, `density`, `coverage`: of the samples; with `_real`, of the training
      images.

    Yields nothing if one of the sets has less than 2 images.
    """
    if min(len(each.features) for each in (samples, test, train, reconstructions)) < 2:
        return
    yield {
        name: frechet_distance(first.features, second.features)
        for name, first, second in (
            ("frechet", samples, test),
            ("frechet_floor", train, test),
            ("frechet_blur", reconstructions, test),
            ("frechet_sampler", samples, reconstructions),
        )
    }
    yield {"kid": kernel_distance(samples.features, test.features)}
    yield neighbour_metrics(test.features, samples.features)
    of_real = neighbour_metrics(test.features, train.features)
    yield {f"{name}_real": value for name, value in of_real.items()}
    yield class_metrics(samples, test)


def class_metrics(samples: Seen, test: Seen) -> dict[str, float]:
    """Compute class_balance, label_agreement and label_agreement_real.

    `label_agreement` is the share of samples that show the class requested for them, among samples
    with such a class. `label_agreement_real` is the share of test images that show their true
    class, among labelled ones. Metrics without the classes or labels that they need are left out.
    """
    if samples.classes is None or test.classes is None:
        return {}
    scores = {"class_balance": class_balance(samples.classes, test.classes)}
    of_samples, of_test = label_agreement(samples), label_agreement(test)
    if of_samples is not None and of_test is not None:
        scores |= {"label_agreement": of_samples, "label_agreement_real": of_test}
    return scores


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
