"""An autoencoder whose latents are codes on a grid (Mentzer et al. 2023).

Finite scalar quantization: each place of the grid has a few numbers, and each number is rounded to
one of a few levels. There is no codebook, so none can collapse. The gradient passes the rounding
unchanged (Bengio et al. 2013). Numbers of a batch are normalised before they are rounded. Without
it they begin near 0, where all have one value, and most values stay unused.

Latents are the rounded numbers of all places, between -1 and 1. `latentworks.quantization` turns
them into codes. The decoder rounds, too, so that any latents decode to an image of codes.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from latentworks.models.architectures import build_grid_encoder, grid_sides, grid_to_pixels
from latentworks.models.autoencoder import Autoencoder, scale
from latentworks.models.network import Tensor

MARGIN = 1e-3  # the outermost levels are reached by finite numbers


@keras.saving.register_keras_serializable(package="latentworks")
class Codes(Autoencoder):
    """Reconstructs images from codes. Latents: [B, h * w * len(levels)], row by row."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        architecture: str,
        filters: tuple[int, ...],
        loss: str,
        levels: tuple[int, ...],
        name: str = "codes",
        **kwargs: Any,
    ) -> None:
        self.levels = tuple(levels)
        self.rounding = Rounding(self.levels, name="rounding")
        height, width, channels = image_shape
        self.grid = grid_sides((height, width, channels), tuple(filters))
        dim = math.prod(self.grid) * len(levels)
        super().__init__(image_shape, dim, architecture, filters, loss, name=name, **kwargs)

    def _build_encoder(self) -> keras.Model:
        depth = len(self.rounding.levels)
        return build_grid_encoder(self.architecture, self.image_shape, self.filters, depth)

    def _build_decoder(self) -> keras.Model:
        latents = layers.Input((self.latent_dim,), name="latents")
        grid = layers.Reshape((*self.grid, len(self.rounding.levels)), name="to_grid")(latents)
        rounded = self.rounding(grid)
        images = grid_to_pixels(rounded, self.architecture, self.image_shape, self.filters)
        return keras.Model(latents, images, name="decoder")

    def encode(self, images: Tensor, labels: Tensor = None) -> Tensor:
        """Encode images uint8 [B, H, W, C] to latents [B, D], one of the levels each."""
        return self._flat(self.rounding(self._bounded(images, training=False)))

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.decoder(self._flat(self._bounded(inputs, training)), training=training)

    def _bounded(self, images: Tensor, training: bool | None) -> Tensor:
        """Encode images to numbers in the range of their levels, [-1, 1]: [B, h, w, K]."""
        return ops.tanh(self.encoder(scale(images), training=training)) / (1 - MARGIN)

    def _flat(self, grid: Tensor) -> Tensor:
        return ops.reshape(grid, (-1, self.latent_dim))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in ("latent_dim", "latent_l2", "latent_noise"):
            del config[name]
        return {**config, "levels": list(self.rounding.levels)}


@keras.saving.register_keras_serializable(package="latentworks")
class Rounding(layers.Layer):
    """Rounds number k of each place to the nearest of `levels[k]` values from -1 to 1."""

    def __init__(self, levels: tuple[int, ...], name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.levels = tuple(levels)

    def call(self, grid: Tensor) -> Tensor:
        """Round [B, h, w, K]. The gradient passes unchanged."""
        steps = np.array(self.levels, np.float32) - 1  # between the least and the greatest level
        numbers = ops.clip(ops.round((grid + 1) / 2 * steps), 0, steps)
        return grid + ops.stop_gradient(numbers / steps * 2 - 1 - grid)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "levels": list(self.levels)}
