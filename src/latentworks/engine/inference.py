"""Inference with a trained model, batch by batch, so that memory does not grow with the data."""

import math
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from latentworks.engine import backend
from latentworks.engine.backend import keras
from latentworks.models.network import Network

SEED = 0
NUM_THREADS = 2  # per operation; another number rounds differently
MAX_BATCH_SIZE = 500
MAX_BATCH_BYTES = 16_000_000  # of float32 pixels; a convolution needs many times that
Batch = TypeVar("Batch", np.ndarray, tuple[np.ndarray, np.ndarray])


def configure() -> None:
    """Make inference deterministic. Call this once, before the first tensor is created."""
    backend.configure(SEED, NUM_THREADS)


def encode(
    model: Network, images: np.ndarray, rows: np.ndarray, labels: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Encode `rows`, int64 [N], of `images`, uint8 [M, H, W, C]: yields latents float32 [B, D].

    `labels`, int64 [N], are the labels of these rows. Only conditional models use them.
    """
    size = batch_size(images.shape[1:])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield keras.ops.convert_to_numpy(model.encode(images[rows[part]], _part(labels, part)))


def decode(
    model: Network, latents: np.ndarray, labels: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Decode `latents`, float32 [N, D]: yields images float32 [B, H, W, C] in [0, 1].

    `labels`: int64 [N]. Only conditional models use them.
    """
    size = batch_size(model.image_shape)
    for start in range(0, len(latents), size):
        part = slice(start, start + size)
        batch = latents[part].astype(np.float32)
        yield keras.ops.convert_to_numpy(model.decode(batch, _part(labels, part)))


def _part(labels: np.ndarray | None, part: slice) -> np.ndarray | None:
    return None if labels is None else labels[part]


def reconstruct(
    model: Network, images: np.ndarray, rows: np.ndarray, labels: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield originals uint8 and reconstructions float32, [B, H, W, C], of `images[rows]`."""
    start = 0
    for z in encode(model, images, rows, labels):
        part = slice(start, start + len(z))
        decoded = np.concatenate([*decode(model, z, _part(labels, part))])
        yield images[rows[part]], decoded
        start += len(z)


def counted(batches: Iterable[Batch], total: int) -> Iterator[Batch]:
    """Yield the same batches, of images or of pairs of images, and show a progress bar."""
    with tqdm(total=total, unit=" images", desc="evaluate", disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch[0]) if isinstance(batch, tuple) else len(batch))


def batch_size(image_shape: tuple[int, ...]) -> int:
    """Return the number of images [H, W, C] per batch, bounded by MAX_BATCH_BYTES."""
    return max(1, min(MAX_BATCH_SIZE, MAX_BATCH_BYTES // (4 * math.prod(image_shape))))
