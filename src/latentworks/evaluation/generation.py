"""What a classifier, the judge, makes of samples beside real images."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from latentworks import metrics
from latentworks.artifacts.features import Features
from latentworks.artifacts.images import Prepared
from latentworks.artifacts.samples import Samples
from latentworks.engine import inference
from latentworks.evaluation.features import choice, classifier, training
from latentworks.preprocess import to_pixels

NUM_SEEN = 100_000  # images, in all epochs, by the classifier that is trained on samples


def compare(judge: Features, model: Any, data: Prepared, samples: Samples) -> dict[str, float]:
    """`metrics.generation_metrics` of the samples, and of the model that decoded them.

    At most metrics.MAX_SEEN of each kind, always the same ones, and as many samples as training
    images; no more of them are in memory than a batch.
    """
    network = classifier.load(data.image_shape, judge.weights)
    # A Fréchet distance of fewer images is larger, and the floor is that of training images.
    num = min(len(samples.images), len(data.rows("train")), metrics.MAX_SEEN)
    drawn = metrics.subset(np.arange(len(samples.images)), num)
    test = metrics.subset(data.rows("test"), metrics.MAX_SEEN)
    train = metrics.subset(data.rows("train"), num)
    asked = None if samples.labels is None else samples.labels[drawn]
    pairs = inference.reconstruct(model, data.images, test, data.labels(test))

    def seen(
        batches: Iterable[np.ndarray], num: int, labels: np.ndarray | None = None
    ) -> metrics.Seen:
        return metrics.Seen(*classifier.see(network, inference.counted(batches, num)), labels)

    pieces = metrics.generation_metrics(
        samples=seen(classifier.batches(samples.images, drawn), len(drawn), asked),
        test=seen(classifier.batches(data.images, test), len(test), data.labels(test)),
        train=seen(classifier.batches(data.images, train), len(train)),
        reconstructions=seen((to_pixels(again) for _, again in pairs), len(test)),
    )
    bar = tqdm(pieces, unit=" comparisons", desc="evaluate", disable=None)
    return {name: value for piece in bar for name, value in piece.items()}


def classification_accuracy(data: Prepared, samples: Samples) -> dict[str, float]:
    """`classification_accuracy`: of a classifier that saw samples alone, on the test images.

    The score of Ravuri and Vinyals 2019, *Classification Accuracy Score for Conditional Generative
    Models*. Nothing where the samples have no labels of two classes, or no test image has one.
    The classifier is trained by `features.training`, to the same weights after `backend.configure`.
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
