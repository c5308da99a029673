"""A trained model at work, a batch at a time, so that memory does not grow with the data."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from latentworks.backend import keras

MAX_BATCH_SIZE = 500
MAX_BATCH_BYTES = 16_000_000  # of float32 pixels; a convolution needs many times that


def encode(model: Any, images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Latents float32 [B, D] of `rows` int64 [N] of `images` uint8 [M, H, W, C], batch by batch."""
    size = batch_size(images.shape[1:])
    for start in range(0, len(rows), size):
        batch = images[rows[start : start + size]]
        yield keras.ops.convert_to_numpy(model.encode(batch))


def decode(model: Any, latents: np.ndarray) -> Iterator[np.ndarray]:
    """Images float32 [B, H, W, C] in [0, 1] of `latents` float32 [N, D], batch by batch."""
    size = batch_size(model.image_shape)
    for start in range(0, len(latents), size):
        batch = latents[start : start + size].astype(np.float32)
        yield keras.ops.convert_to_numpy(model.decode(batch))


def batch_size(image_shape: tuple[int, ...]) -> int:
    """How many images of [H, W, C] are worked on at once."""
    return max(1, min(MAX_BATCH_SIZE, MAX_BATCH_BYTES // (4 * math.prod(image_shape))))
