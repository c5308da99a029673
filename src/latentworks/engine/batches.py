"""Batches of images, shuffled by (seed, epoch) alone: resumed training sees the same batches."""

import math
from collections.abc import Iterator

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
        length: int | None = None,
    ) -> None:
        """Select `rows`, int64 [n], of `images`, uint8 [N, H, W, C].

        With `seed`, `shuffle` gives the rows a new order. `labels`, int64 [N], cover all `images`.
        An epoch has `length` batches, for which rows are left out or repeated; by default, each row
        once.
        """
        super().__init__()
        self.images = images
        self.labels = labels
        self.rows = self.order = rows
        self.batch_size = batch_size
        self.seed = seed
        self.length = length
        self.shuffle(0)

    def shuffle(self, epoch: int) -> None:
        """Shuffle the rows for `epoch`, counted from 0. Without a seed, keep their order."""
        if self.seed is not None:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            num = len(self) * self.batch_size if self.length else len(self.rows)
            orders = [rng.permutation(self.rows) for _ in range(math.ceil(num / len(self.rows)))]
            self.order = np.concatenate(orders)[:num]

    def of_length(self, length: int) -> "Batches":
        """Return batches of the same rows with another length of an epoch."""
        size = min(self.batch_size, len(self.rows))
        return Batches(self.images, self.rows, size, self.seed, self.labels, length)

    def sample(self, num: int) -> "Batches":
        """Return batches of at most `num` rows, chosen and mixed at random, always the same."""
        rows = np.random.default_rng(0).permutation(self.rows)[:num]
        return Batches(self.images, rows, self.batch_size, None, self.labels)

    def pictures(self) -> Iterator[np.ndarray]:
        """Yield the images of each batch, without labels."""
        for number in range(len(self)):
            (given,) = self[number]
            yield given[0] if isinstance(given, tuple) else given

    def __len__(self) -> int:
        return self.length or math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray] | tuple[tuple[np.ndarray, np.ndarray]]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        rows = np.sort(rows)  # ascending rows are faster to read from disk
        if self.labels is None:
            return (self.images[rows],)
        return ((self.images[rows], self.labels[rows]),)
