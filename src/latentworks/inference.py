"""A trained model at work, a batch at a time, so that memory does not grow with the data."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from latentworks.backend import keras

BATCH_SIZE = 500


def encode(model: Any, images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Latents float32 [B, D] of `rows` int64 [N] of `images` uint8 [M, H, W, C], batch by batch."""
    for start in range(0, len(rows), BATCH_SIZE):
        batch = images[rows[start : start + BATCH_SIZE]]
        yield keras.ops.convert_to_numpy(model.encode(batch))


def decode(model: Any, latents: np.ndarray) -> Iterator[np.ndarray]:
    """Images float32 [B, H, W, C] in [0, 1] of `latents` float32 [N, D], batch by batch."""
    for start in range(0, len(latents), BATCH_SIZE):
        batch = latents[start : start + BATCH_SIZE].astype(np.float32)
        yield keras.ops.convert_to_numpy(model.decode(batch))


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Images float32 in [0, 1] to uint8, 0 to 255, rounded."""
    return np.asarray(np.rint(np.clip(images, 0.0, 1.0) * 255.0), dtype=np.uint8)
