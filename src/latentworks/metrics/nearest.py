"""The training images that are most like a few others: are samples copies?"""

import numpy as np

CHUNK_BYTES = 2**23  # of images compared at once; as float64 they take eight times that


def nearest_images(
    queries: np.ndarray, images: np.ndarray, rows: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `num` of `images[rows]` nearest to each query, the nearest first, and how far they are.

    Queries are uint8 [Q, H, W, C], images uint8 [N, H, W, C], rows int64 [M]. Returns rows, int64
    [Q, num], and L2 distances with pixels in [0, 1], float32 [Q, num]; where M is smaller than
    `num`, so many. Of equally near images the one that comes first in `rows` is the nearer.
    """
    wanted = queries.reshape(len(queries), -1).astype(np.float64)  # [Q, D]
    found = np.empty((len(queries), 0), dtype=np.int64)
    squares = np.empty((len(queries), 0))
    step = max(1, CHUNK_BYTES // images[0].size)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        chunk = images[part].reshape(len(part), -1).astype(np.float64)  # [n, D]
        # |q|² + |c|² - 2 q·c. Grey values are whole numbers, whose sums are exact in float64.
        apart = _squared(wanted)[:, None] + _squared(chunk) - 2 * wanted @ chunk.T
        squares = np.hstack([squares, apart])
        found = np.hstack([found, np.broadcast_to(part, apart.shape)])
        best = np.argsort(squares, axis=1, kind="stable")[:, :num]
        squares = np.take_along_axis(squares, best, axis=1)
        found = np.take_along_axis(found, best, axis=1)
    return found, np.sqrt(squares / 255**2).astype(np.float32)


def _squared(vectors: np.ndarray) -> np.ndarray:
    """|v|² of each: [N, D] -> [N]."""
    return np.asarray(np.einsum("nd,nd->n", vectors, vectors))
