"""Images as rows of numbers, in chunks, and the choice of some of them."""

from collections.abc import Iterator

import numpy as np
from skimage.measure import block_reduce

MAX_SIDE = 64  # pixels a side of the images compared
CHUNK_IMAGES = 4096  # held at once,
CHUNK_BYTES = 2**26  # or as many as fit into this


def subset(rows: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of the rows, in their order: a random choice, always the same."""
    if len(rows) <= num:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), num, replace=False))]


def thumbnails(images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """`images[rows]` in chunks: float32 [n, D], pixels in [0, 1].

    Images larger than MAX_SIDE are averaged over squares of pixels, so that comparing all with all
    takes seconds; smaller ones are as they are.
    """
    block = -(-max(images.shape[1:3]) // MAX_SIDE)
    for part in chunks(rows, images[0].size):
        chunk = images[part]
        if block > 1:
            chunk = block_reduce(chunk, (1, block, block, 1), np.mean)
        yield chunk.reshape(len(chunk), -1).astype(np.float32) / np.float32(255)


def chunks(rows: np.ndarray, size: int, num_bytes: int = CHUNK_BYTES) -> Iterator[np.ndarray]:
    """Parts of `rows`, whose images are of `size` bytes each."""
    step = max(1, min(CHUNK_IMAGES, num_bytes // size))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
