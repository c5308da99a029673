"""What a classifier, the judge, makes of samples beside real images."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm import tqdm

from latentworks import inference, metrics
from latentworks.artifacts import Features, Prepared, Samples
from latentworks.features import classifier
from latentworks.preprocess import to_pixels


def compare(judge: Features, model: Any, data: Prepared, samples: Samples) -> dict[str, float]:
    """`metrics.generation_metrics` of the samples, and of the model that decoded them.

    At most metrics.MAX_SEEN of each kind, always the same ones; no more of them are in memory than
    a batch.
    """
    network = classifier.load(data.image_shape, judge.weights)
    drawn = metrics.subset(np.arange(len(samples.images)), metrics.MAX_SEEN)
    test = metrics.subset(data.rows("test"), metrics.MAX_SEEN)
    train = metrics.subset(data.rows("train"), len(drawn))
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
