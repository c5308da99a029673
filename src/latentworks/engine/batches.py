"""Batches of images, shuffled by (seed, epoch) alone: resumed training sees the same batches."""

import math
from typing import Any

import numpy as np

from latentworks.engine.backend import keras


class Batches(keras.utils.PyDataset):
    """Batches of images, uint8 [B, H, W, C], read from the memory map on demand.

    With labels, a batch is a pair of images and labels, int64 [B].
    """

    def __init__(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        labels: np.ndarray | None = None,
    ) -> None:
        """Select `rows`, int64 [n], of `images`, uint8 [N, H, W, C].

        With `seed`, `shuffle` gives the rows a new order. `labels`, int64 [N], cover all `images`.
        """
        super().__init__()
        self.images = images
        self.labels = labels
        self.rows = self.order = rows
        self.batch_size = batch_size
        self.seed = seed

    def shuffle(self, epoch: int) -> None:
        """Shuffle the rows for `epoch`, counted from 0. Without a seed, keep their order."""
        if self.seed is not None:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self.order = rng.permutation(self.rows)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        rows = np.sort(rows)  # ascending rows are faster to read from disk
        if self.labels is None:
            return (self.images[rows],)
        return ((self.images[rows], self.labels[rows]),)
