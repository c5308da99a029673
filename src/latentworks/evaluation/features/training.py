"""Training of the classifier: minutes at most. Equal images give equal bytes."""

import math
import sys

import keras
import numpy as np

from latentworks.evaluation.features import classifier

SEED = 0  # not that of params.yaml, so that models of all seeds are compared in one network
NUM_THREADS = 2  # fixed for the same reason
BATCH_SIZE = 128
MAX_BATCH_BYTES = 256_000_000  # of float32 pixels; adding noise takes three times this memory
LEARNING_RATE = 0.002  # of Adam, with a cosine decay to 0
NUM_SEEN = 300_000
MAX_EPOCHS = 40
MAX_IMAGES = 60_000
SHIFT = 16  # an image is shifted by up to 1/16 of its side
NOISE = 16  # grey values: the largest standard deviation of the noise


class Batches(keras.utils.PyDataset):
    """Batches of augmented images, uint8 [B, H, W, C], and their labels [B].

    Images are shifted, get noise, and with `flip` half of them are mirrored.
    """

    def __init__(
        self, images: np.ndarray, rows: np.ndarray, labels: np.ndarray, *, flip: bool
    ) -> None:
        super().__init__()
        self.images = images
        self.rows = rows
        self.labels = labels
        self.flip = flip
        image_bytes = 4 * math.prod(images.shape[1:])
        self.batch_size = max(1, min(BATCH_SIZE, MAX_BATCH_BYTES // image_bytes))
        self.shuffle(0)

    def shuffle(self, epoch: int) -> None:
        self.epoch = epoch
        self.order = self._rng(0).permutation(len(self.rows))

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[SEED, self.epoch], counter=index << 32))

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        chosen = chosen[np.argsort(self.rows[chosen])]  # ascending: faster to read
        rng = self._rng(index + 1)
        images = moved(self.images[self.rows[chosen]], rng, flip=self.flip)
        return noisy(images, rng), self.labels[chosen]


def moved(images: np.ndarray, rng: np.random.Generator, *, flip: bool) -> np.ndarray:
    """Shift each image slightly and repeat its edge pixels. With `flip`, mirror half of them."""
    num, height, width, _ = images.shape
    steps = [max(1, side // SHIFT) for side in (height, width)]
    down, right = (rng.integers(-most, most + 1, (num, 1)) for most in steps)
    y = (np.arange(height) + down).clip(0, height - 1)
    x = (np.arange(width) + right).clip(0, width - 1)
    if flip:
        x = np.where(rng.random((num, 1)) < 0.5, x[:, ::-1], x)
    return np.asarray(images[np.arange(num)[:, None, None], y[:, :, None], x[:, None, :]])


def noisy(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise to each image, of random strength, so that no noise level becomes a feature."""
    strengths = rng.uniform(0, NOISE, (len(images), 1, 1, 1)).astype(np.float32)
    noise = strengths * rng.standard_normal(images.shape, np.float32)
    return np.asarray((images + noise).round().clip(0, 255), np.uint8)


def some(num: int, most: int) -> np.ndarray:
    """Choose at most `most` of the first `num` integers: a random choice, always the same."""
    rng = np.random.default_rng(SEED)
    return np.arange(num) if num <= most else np.sort(rng.choice(num, most, replace=False))


def fit(
    images: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    num_seen: int = NUM_SEEN,
    flip: bool = False,
) -> keras.Model:
    """Train a classifier of `images[rows]`, uint8 [n, H, W, C], with `labels`, int64 [n].

    `num_seen` limits the epochs: together they have the pixels of `num_seen` images of 32x32.
    """
    chosen = some(len(rows), MAX_IMAGES)
    rows, labels = rows[chosen], labels[chosen]
    height, width, channels = images.shape[1:]
    num_pixels = len(rows) * min(height, classifier.MAX_SIDE) * min(width, classifier.MAX_SIDE)
    epochs = max(1, min(MAX_EPOCHS, num_seen * 32 * 32 // num_pixels))
    batches = Batches(images, rows, labels, flip=flip)
    keras.utils.set_random_seed(SEED)
    model = classifier.build((height, width, channels), num_classes, SEED)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * len(batches))
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss={classifier.HEAD: keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
    )
    model.fit(
        batches,
        epochs=epochs,
        shuffle=False,  # Keras would shuffle the batches by its own random state
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: batches.shuffle(epoch))
        ],
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return model
