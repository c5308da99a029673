"""Samples against real images, in the features of a classifier and in the classes it sees."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from latentworks.metrics.frechet import frechet_distance
from latentworks.metrics.kernel import kernel_distance
from latentworks.metrics.neighbours import neighbour_metrics

MAX_SEEN = 10_000  # images of each kind


@dataclass(frozen=True, eq=False)
class Seen:
    """What a classifier sees in some images."""

    features: np.ndarray  # float32 [N, F]
    classes: np.ndarray | None = None  # int64 [N], the likeliest of each; None where there are none
    labels: np.ndarray | None = None  # int64 [N], what it should have seen; -1 where nobody knows


def generation_metrics(
    samples: Seen, test: Seen, train: Seen, reconstructions: Seen
) -> Iterator[dict[str, float]]:
    """The part of section `samples` that needs a classifier, in pieces that take seconds each.

    `frechet` and `kid` from the samples to the test images; `frechet_floor`, the same for training
    images, as many as there are samples: what a perfect sampler would still get, and a copying
    one, too. `frechet_blur` is what the model loses, from the reconstructions of the test images to
    these; `frechet_sampler` what the sampler does, from the samples to the reconstructions.
    `precision`, `recall`, `density`, `coverage`; with `_real` those of the training images.
    None of it where one kind has less than 2 images.
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
    """class_balance, label_agreement and label_agreement_real, where there are classes and labels.

    `label_agreement` is the share of samples that show the class asked for, of those with one;
    `label_agreement_real` the same of the test images, for their true class.
    """
    if samples.classes is None or test.classes is None:
        return {}
    scores = {"class_balance": class_balance(samples.classes, test.classes)}
    asked, known = label_agreement(samples), label_agreement(test)
    if asked is not None and known is not None:
        scores |= {"label_agreement": asked, "label_agreement_real": known}
    return scores


def class_balance(first: np.ndarray, second: np.ndarray) -> float:
    """1 minus the total variation distance of two distributions of classes, int64 [N] and [M].

    The share of one that would not have to be exchanged to have as much of each class as the other.
    """
    size = int(max(first.max(), second.max())) + 1
    shares = [np.bincount(classes, minlength=size) / len(classes) for classes in (first, second)]
    return float(np.minimum(*shares).sum())


def label_agreement(seen: Seen) -> float | None:
    """The share of those with a label that are seen as its class; None where none has one."""
    if seen.classes is None or seen.labels is None or not (seen.labels >= 0).any():
        return None
    return float((seen.classes == seen.labels)[seen.labels >= 0].mean())
