"""Three distances between images and their reconstructions, which weight detail.

A model that is trained on a loss of single pixels averages over what it cannot know, so that its
images are blurred. The distances compare what blur changes first:

- energy: the strength of edges in each neighbourhood of 8 x 8 pixels
- moments: mean and deviation of edges and features over a batch, at each place
- features: the features themselves

The features are those of a convolutional network with random weights, so that nothing is trained
and nothing downloaded. Each channel is divided by its deviation on real images.

A decoder could reach the strength of edges with a pattern that is the same in every image, such as
a checkerboard (Odena et al. 2016). Edges of several kinds, a checkerboard among them, and their
mean over a batch prevent it.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from latentworks.engine.backend import keras
from latentworks.models.network import Tensor

LAYERS = ((5, 16), (3, 32), (3, 64))  # kernel size and filters of each layer; strides are 2
WINDOW, STRIDE = 8, 4  # pixels: the neighbourhoods of the energy
SMALLEST = 1e-5  # added to squares, so that their roots have a gradient
LEAST = 0.01  # the least deviation of a channel, as a share of the largest
TINY = 1e-5  # the least deviation, for images of one colour
SEED = 0


class Distances(NamedTuple):
    """Scalars, all at least 0, and 0 for equal images."""

    energy: Tensor
    moments: Tensor
    features: Tensor


class Detail:
    """Measures the three distances with one random network."""

    def __init__(self, channels: int, batches: Iterable[np.ndarray]) -> None:
        """Draw the network, and measure it on `batches` of images, uint8 [B, H, W, C]."""
        rng = np.random.default_rng(SEED)
        kernels = np.einsum("ijk,cd->ijcdk", _edge_kernels(), np.eye(channels, dtype=np.float32))
        self.edges = kernels.reshape(*kernels.shape[:3], -1)
        self.kernels = []
        for size, filters in LAYERS:
            deviation = math.sqrt(2 / (size**2 * channels))  # He et al. 2015
            kernel = rng.normal(0, deviation, (size, size, channels, filters))
            self.kernels.append(kernel.astype(np.float32))
            channels = filters
        self.scales = [np.ones(1, np.float32)] * len(LAYERS)
        self.scale, *self.scales = self._measured(batches)

    def _measured(self, batches: Iterable[np.ndarray]) -> list[np.ndarray]:
        """1 / the deviation of each channel of edges and features: float32 [K] each."""
        seen = None  # sums of 1, x and x²: the images are in memory batch by batch
        for images in batches:
            each = [_sums(np.asarray(part)) for part in self._seen(images.astype(np.float32) / 255)]
            seen = each if seen is None else [a + b for a, b in zip(seen, each, strict=True)]
        assert seen is not None
        deviations = [np.sqrt(np.maximum(x2 / n - (x / n) ** 2, 0)) for n, x, x2 in seen]
        # A channel that hardly varies, such as an unused colour, must not outweigh the others.
        return [(1 / np.maximum(d, LEAST * d.max() + TINY)).astype(np.float32) for d in deviations]

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

    The last one is a checkerboard, with half the weight.
    """
    kernels = np.zeros((6, 4, 4), np.float32)
    kernels[0, 1, 1:3] = kernels[1, 1:3, 1] = (-1, 1)
    kernels[2, 1, :3] = kernels[3, :3, 1] = (-1, 0, 1)
    kernels[4, 1:3, 1:3] = ((1, -1), (-1, 1))
    kernels[5] = np.where(np.indices((4, 4)).sum(0) % 2, -0.5, 0.5)
    return kernels.transpose(1, 2, 0)


def _sums(features: np.ndarray) -> np.ndarray:
    """The sums of 1, x and x² of each channel: float64 [3, K]."""
    x = features.astype(np.float64).reshape(-1, features.shape[-1])
    return np.stack([np.full(x.shape[1], float(len(x))), x.sum(axis=0), (x * x).sum(axis=0)])


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
