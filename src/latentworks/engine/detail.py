"""Three distances between images and their reconstructions, which weight detail.

A model that is trained on a loss of single pixels averages over what it cannot know, so that its
images are blurred. The distances compare what blur changes first:

- energy: the strength of edges in each neighbourhood of 8 x 8 pixels
- moments: mean and deviation of features over a batch, at each place
- features: the features themselves

The features are those of a convolutional network with random weights, so that nothing is trained
and nothing downloaded. Each channel is divided by its deviation on real images.
"""

import math
from typing import NamedTuple

import numpy as np

from latentworks.engine.backend import keras
from latentworks.models.network import Tensor

LAYERS = ((5, 16), (3, 32), (3, 64))  # kernel size and filters of each layer; strides are 2
WINDOW, STRIDE = 8, 4  # pixels: the neighbourhoods of the energy
SMALLEST = 1e-5  # added to squares, so that their roots have a gradient
SEED = 0


class Distances(NamedTuple):
    """Scalars, all at least 0, and 0 for equal images."""

    energy: Tensor
    moments: Tensor
    features: Tensor


class Detail:
    """Measures the three distances with one random network."""

    def __init__(self, images: np.ndarray) -> None:
        """Draw the network, and measure its channels on `images`, uint8 [N, H, W, C]."""
        rng = np.random.default_rng(SEED)
        channels = images.shape[-1]
        self.kernels = []
        for size, filters in LAYERS:
            deviation = math.sqrt(2 / (size**2 * channels))  # He et al. 2015
            kernel = rng.normal(0, deviation, (size, size, channels, filters))
            self.kernels.append(kernel.astype(np.float32))
            channels = filters
        self.scales = [np.float32(1)] * len(LAYERS)
        found = self._features(images.astype(np.float32) / 255)
        deviations = [np.std(np.asarray(each), axis=(0, 1, 2)) for each in found]
        self.scales = [1 / (each + np.float32(SMALLEST)) for each in deviations]

    def distances(self, images: Tensor, others: Tensor) -> Distances:
        """Compare two batches of images, float32 [B, H, W, C] in [0, 1]."""
        ops = keras.ops
        pairs = [*zip(self._features(images), self._features(others), strict=True)]
        energies = zip(_energies(images), _energies(others), strict=True)
        return Distances(
            energy=_mean([ops.mean(ops.square(a - b)) for a, b in energies]),
            moments=_mean(
                [
                    ops.mean(ops.square(each(a) - each(b)))
                    for a, b in pairs
                    for each in (_means, _deviations)
                ]
            ),
            features=_mean([ops.mean(ops.square(a - b)) for a, b in pairs]),
        )

    def _features(self, images: Tensor) -> list[Tensor]:
        found = []
        for kernel, scale in zip(self.kernels, self.scales, strict=True):
            convolved = keras.ops.conv(images, kernel, strides=2, padding="same")
            images = keras.ops.silu(convolved)
            found.append(images * scale)
        return found


def _means(features: Tensor) -> Tensor:
    return keras.ops.mean(features, axis=0)


def _deviations(features: Tensor) -> Tensor:
    return keras.ops.sqrt(keras.ops.var(features, axis=0) + SMALLEST)


def _energies(images: Tensor) -> list[Tensor]:
    """The strength of vertical and horizontal edges, and of spots, in each neighbourhood."""
    inner = images[:, 1:-1, 1:-1]
    around = images[:, :-2, 1:-1] + images[:, 2:, 1:-1] + images[:, 1:-1, :-2] + images[:, 1:-1, 2:]
    differences = (
        images[:, :, 1:] - images[:, :, :-1],
        images[:, 1:] - images[:, :-1],
        inner - around / 4,
    )
    return [
        keras.ops.average_pool(
            keras.ops.sqrt(keras.ops.square(each) + SMALLEST), WINDOW, STRIDE, padding="same"
        )
        for each in differences
    ]


def _mean(values: list[Tensor]) -> Tensor:
    return sum(values[1:], values[0]) / len(values)
