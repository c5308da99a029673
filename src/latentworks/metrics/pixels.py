"""Selection of images, and their conversion to vectors, chunk by chunk."""

from collections.abc import Iterator

import numpy as np
from skimage.measure import block_reduce

MAX_SIDE = 64  # pixels a side of the thumbnails
CHUNK_IMAGES = 4096  # upper bound of images per chunk
CHUNK_BYTES = 2**26  # upper bound of bytes per chunk


def subset(rows: np.ndarray, num: int) -> np.ndarray:
    """Choose at most `num` rows at random with a fixed seed, and keep their order."""
    if len(rows) <= num:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), num, replace=False))]


def disjoint_subsets(rows: np.ndarray, num: int, max_subsets: int) -> list[np.ndarray]:
    """Choose disjoint subsets of `num` rows each, at most `max_subsets`; the first is `subset`.

    With fewer than `num` rows, all of them are the only subset.
    """
    found = [subset(rows, num)]
    while len(found) < max_subsets:
        rows = np.setdiff1d(rows, found[-1], assume_unique=True)
        if len(rows) < num:
            break
        found.append(subset(rows, num))
    return found


def thumbnails(images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield `images[rows]` as vectors, in chunks float32 [n, D], with pixels in [0, 1].

    Images larger than MAX_SIDE are averaged over square blocks of pixels, so that comparing all
    pairs takes seconds; smaller images are unchanged.
    """
    block = -(-max(images.shape[1:3]) // MAX_SIDE)
    for part in chunks(rows, images[0].size):
        chunk = images[part]
        if block > 1:
            chunk = block_reduce(chunk, (1, block, block, 1), np.mean)
        yield chunk.reshape(len(chunk), -1).astype(np.float32) / np.float32(255)


def chunks(rows: np.ndarray, size: int, num_bytes: int = CHUNK_BYTES) -> Iterator[np.ndarray]:
    """Split `rows` into parts of at most CHUNK_IMAGES images and `num_bytes` bytes.

    `size`: bytes of one image.
    """
    step = max(1, min(CHUNK_IMAGES, num_bytes // size))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
