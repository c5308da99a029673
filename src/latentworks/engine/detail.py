"""Three distances between images and their reconstructions, which weight detail.

A model that is trained on a loss of single pixels averages over what it cannot know, so that its
images are blurred. The distances compare what blur changes first:

- energy: the strength of edges in each neighbourhood of 8 x 8 pixels
- moments: mean and deviation of edges and features over a batch, at each place
- features: the features themselves

The features are those of a convolutional network with random weights, so that nothing is trained
and nothing downloaded. Each channel is divided by its deviation on real images.

A decoder could reach the strength of edges with a pattern that is the same in every image, such as
a chessboard. Edges of several kinds, a chessboard among them, and their mean over a batch prevent
it.
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
        kernels = np.einsum("ijk,cd->ijcdk", _edge_kernels(), np.eye(channels, dtype=np.float32))
        self.edges = kernels.reshape(*kernels.shape[:3], -1)
        self.kernels = []
        for size, filters in LAYERS:
            deviation = math.sqrt(2 / (size**2 * channels))  # He et al. 2015
            kernel = rng.normal(0, deviation, (size, size, channels, filters))
            self.kernels.append(kernel.astype(np.float32))
            channels = filters
        self.scales = [np.float32(1)] * len(LAYERS)
        seen = self._seen(images.astype(np.float32) / 255)
        deviations = [np.std(np.asarray(each), axis=(0, 1, 2)) for each in seen]
        self.scale, *self.scales = [1 / (each + np.float32(SMALLEST)) for each in deviations]

    def distances(self, images: Tensor, others: Tensor) -> Distances:
        """Compare two batches of images, float32 [B, H, W, C] in [0, 1]."""
        (edges, *features), (other_edges, *other_features) = self._seen(images), self._seen(others)
        scaled = [(edges * self.scale, other_edges * self.scale)]
        pairs = [*zip(features, other_features, strict=True)]
        return Distances(
            energy=_apart(_energy(edges), _energy(other_edges)),
            moments=_mean(
                [
                    _apart(moment(one), moment(other))
                    for one, other in (*scaled, *pairs)
                    for moment in (_means, _deviations)
                ]
            ),
            features=_mean([_apart(one, other) for one, other in pairs]),
        )

    def _seen(self, images: Tensor) -> list[Tensor]:
        """The edges of images, and the features of each layer."""
        seen = [keras.ops.conv(images, self.edges, padding="valid")]
        for kernel, scale in zip(self.kernels, self.scales, strict=True):
            images = keras.ops.silu(keras.ops.conv(images, kernel, strides=2, padding="same"))
            seen.append(images * scale)
        return seen


def _edge_kernels() -> np.ndarray:
    """Kernels [4, 4, K] of differences: of neighbours, of the next but one, and diagonal ones.

    The last one is a chessboard, with half the weight.
    """
    kernels = np.zeros((6, 4, 4), np.float32)
    kernels[0, 1, 1:3] = kernels[1, 1:3, 1] = (-1, 1)
    kernels[2, 1, :3] = kernels[3, :3, 1] = (-1, 0, 1)
    kernels[4, 1:3, 1:3] = ((1, -1), (-1, 1))
    kernels[5] = np.where(np.indices((4, 4)).sum(0) % 2, -0.5, 0.5)
    return kernels.transpose(1, 2, 0)


def _energy(edges: Tensor) -> Tensor:
    strength = keras.ops.sqrt(keras.ops.square(edges) + SMALLEST)
    return keras.ops.average_pool(strength, WINDOW, STRIDE, padding="same")


def _means(features: Tensor) -> Tensor:
    return keras.ops.mean(features, axis=0)


def _deviations(features: Tensor) -> Tensor:
    return keras.ops.sqrt(keras.ops.var(features, axis=0) + SMALLEST)


def _apart(one: Tensor, other: Tensor) -> Tensor:
    return keras.ops.mean(keras.ops.square(one - other))


def _mean(values: list[Tensor]) -> Tensor:
    return sum(values[1:], values[0]) / len(values)
