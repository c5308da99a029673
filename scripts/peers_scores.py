"""Scores of samples given as uint8 images, by the functions that the stage `evaluate` calls."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

import efficientnet
from latentworks import metrics
from latentworks.artifacts.features import read_features
from latentworks.artifacts.images import Prepared
from latentworks.evaluation.features import classifier
from latentworks.metrics.frechet import frechet_distance

# From batches of images, uint8 [B, H, W, C], to features, float32 [N, F], and classes, if any.
See = Callable[[Iterable[np.ndarray]], tuple[np.ndarray, np.ndarray | None]]

ERROR = "frechet_error"
SHOWN = ("frechet", "frechet_blur", "frechet_floor", "precision", "recall", "coverage")
NUM_GROUPS = 10


def judges(features: Path, image_shape: tuple[int, int, int]) -> dict[str, See]:
    """The networks that compare images, by the names that docs/peers.md gives them."""
    network = classifier.load(image_shape, read_features(features).weights)
    second = efficientnet.build(efficientnet.read(efficientnet.find()), image_shape)
    return {
        "the feature network of the stage `evaluate`": partial(classifier.see, network),
        "EfficientNet-Lite0": partial(efficientnet.see, second),
    }


class Scorer:
    """A judge that has seen real images: the rows `test`, and sets of training images."""

    def __init__(self, see: See, data: Prepared, test: np.ndarray, num_samples: int) -> None:
        self.see = see
        self.num = min(num_samples, len(data.rows("train")), metrics.MAX_SEEN)
        self.test = self._seen(data.images, test)
        some = metrics.disjoint_subsets(data.rows("train"), self.num, metrics.NUM_FLOORS)
        self.train = [self._seen(data.images, rows) for rows in some]

    def _seen(self, images: np.ndarray, rows: np.ndarray) -> metrics.Seen:
        return metrics.Seen(*self.see(classifier.batches(images, rows)))

    def score(self, samples: np.ndarray, reconstructions: np.ndarray) -> dict[str, float]:
        """Compute SHOWN, and the standard error of the Fréchet distance.

        `samples` are uint8 [N, H, W, C], and `reconstructions` those of the rows `test`.
        """
        drawn = self._seen(samples, metrics.subset(np.arange(len(samples)), self.num))
        again = self._seen(reconstructions, np.arange(len(reconstructions)))
        pieces = metrics.generation_metrics(drawn, self.test, self.train, again)
        found = {name: value for piece in pieces for name, value in piece.items()}
        error = frechet_error(drawn.features, self.test.features)
        return {**{name: found[name] for name in SHOWN}, ERROR: error}


def frechet_error(samples: np.ndarray, test: np.ndarray) -> float:
    """The standard error of the Fréchet distance of features [N, F] and [M, F].

    By the jackknife: each of NUM_GROUPS disjoint groups of both sets is left out in turn. A
    bootstrap would repeat images, and repeated images raise the distance.
    """
    without = [
        frechet_distance(
            *(np.delete(each, np.s_[k::NUM_GROUPS], axis=0) for each in (samples, test))
        )
        for k in range(NUM_GROUPS)
    ]
    return math.sqrt((NUM_GROUPS - 1) * float(np.var(without)))
