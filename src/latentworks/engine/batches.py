"""Training that can be killed at any moment and goes on to the same bytes.

Keras's own `BackupAndRestore` forgets random states and may read a torn file. Here each finished
epoch leaves one file, renamed into place, with every variable of the model and of the optimizer,
the best weights so far and the curves; batches are shuffled by (seed, epoch) alone.
"""

import math
from typing import Any

import numpy as np

from latentworks.engine.backend import keras


class Batches(keras.utils.PyDataset):
    """Batches of images, uint8 [B, H, W, C], each read from the memory map when it is needed.

    With labels a batch is images and labels, int64 [B].
    """

    def __init__(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        seed: int | None = None,
        labels: np.ndarray | None = None,
    ) -> None:
        """`rows` int64 [n] of `images`; with `seed` they are shuffled anew for every epoch.

        `labels` int64 [N] are those of all `images`.
        """
        super().__init__()
        self.images = images
        self.labels = labels
        self.rows = self.order = rows
        self.batch_size = batch_size
        self.seed = seed

    def shuffle(self, epoch: int) -> None:
        if self.seed is not None:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self.order = rng.permutation(self.rows)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        rows = np.sort(rows)  # ascending, as the disk likes it
        if self.labels is None:
            return (self.images[rows],)
        return ((self.images[rows], self.labels[rows]),)
