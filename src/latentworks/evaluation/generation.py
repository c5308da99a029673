"""Scores of samples against real images, by classifiers and in the features of a network."""

from collections.abc import Callable, Iterable

import numpy as np
from tqdm import tqdm

from latentworks import metrics
from latentworks.artifacts.images import Prepared
from latentworks.artifacts.samples import Samples
from latentworks.engine import inference
from latentworks.evaluation.features import choice, classifier, training
from latentworks.models.network import Network
from latentworks.preprocess import to_pixels

NUM_SEEN = 100_000  # images in all epochs of the classifier that is trained on samples
# From batches of images, uint8 [B, H, W, C], to features float32 [N, F], and to predicted classes
# int64 [N], or None.
See = Callable[[Iterable[np.ndarray]], tuple[np.ndarray, np.ndarray | None]]


def compare(see: See, model: Network, data: Prepared, samples: Samples) -> dict[str, float]:
    """Measure `metrics.generation_metrics` of samples and of reconstructions.

    `see` runs the network in whose features images are compared. At most metrics.MAX_SEEN images of
    each kind are used, always the same ones, and as many samples as training images in each of
    their sets. Only one batch of them is in memory.
    """
    # A Fréchet distance grows with fewer images, so that samples and the floor need as many.
    num = min(len(samples.images), len(data.rows("train")), metrics.MAX_SEEN)
    drawn = metrics.subset(np.arange(len(samples.images)), num)
    test = metrics.subset(data.rows("test"), metrics.MAX_SEEN)
    train = metrics.disjoint_subsets(data.rows("train"), num, metrics.NUM_FLOORS)
    requested = None if samples.labels is None else samples.labels[drawn]
    pairs = inference.reconstruct(model, data.images, test, data.labels(test))

    def seen(
        batches: Iterable[np.ndarray], num: int, labels: np.ndarray | None = None
    ) -> metrics.Seen:
        return metrics.Seen(*see(inference.counted(batches, num)), labels)

    pieces = metrics.generation_metrics(
        samples=seen(classifier.batches(samples.images, drawn), len(drawn), requested),
        test=seen(classifier.batches(data.images, test), len(test), data.labels(test)),
        train=[seen(classifier.batches(data.images, some), len(some)) for some in train],
        reconstructions=seen(
            (to_pixels(again) for _, again in pairs), len(test), data.labels(test)
        ),
    )
    bar = tqdm(pieces, unit=" comparisons", desc="evaluate", disable=None)
    return {name: value for piece in bar for name, value in piece.items()}


def classification_accuracy(data: Prepared, samples: Samples) -> dict[str, float]:
    """Measure the accuracy on test images of a classifier that is trained on samples alone.

    The score of Ravuri and Vinyals 2019, *Classification Accuracy Score for Conditional Generative
    Models*. Returns {} if the samples have labels of fewer than two classes, or no test image has
    a label. `features.training` trains the classifier; after `backend.configure`, equal samples
    give equal weights.
    """
    test = metrics.subset(data.rows("test"), metrics.MAX_SEEN)
    known = data.labels(test)
    if samples.labels is None or known is None or not choice.has_classes(samples.labels):
        return {}
    test, known = test[known >= 0], known[known >= 0]
    if not len(test):
        return {}
    rows = metrics.subset(np.flatnonzero(samples.labels >= 0), metrics.MAX_SEEN)
    network = training.fit(
        samples.images, rows, samples.labels[rows], len(data.class_names), num_seen=NUM_SEEN
    )
    _, seen = classifier.see(network, classifier.batches(data.images, test))
    assert seen is not None
    return {"classification_accuracy": float((seen == known).mean())}
