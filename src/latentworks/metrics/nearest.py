"""Search for the training images nearest to samples, to see if samples are copies."""

import numpy as np

CHUNK_BYTES = 2**23  # of uint8 images compared at once; eight times as many in float64


def nearest_images(
    queries: np.ndarray, images: np.ndarray, rows: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `num` nearest of `images[rows]` to each query, and their L2 distances.

    Queries are uint8 [Q, H, W, C], images uint8 [N, H, W, C], rows int64 [M]. Returns rows, int64
    [Q, K], nearest first, and distances with pixels in [0, 1], float32 [Q, K], where K is the
    smaller of `num` and M. Among images at equal distance, the first in `rows` comes first.
    """
    wanted = queries.reshape(len(queries), -1).astype(np.float64)  # [Q, D]
    found = np.empty((len(queries), 0), dtype=np.int64)
    squares = np.empty((len(queries), 0))
    step = max(1, CHUNK_BYTES // images[0].size)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        chunk = images[part].reshape(len(part), -1).astype(np.float64)  # [n, D]
        # |q|² + |c|² - 2 q·c: exact in float64, since grey values are integers.
        apart = _squared(wanted)[:, None] + _squared(chunk) - 2 * wanted @ chunk.T
        squares = np.hstack([squares, apart])
        found = np.hstack([found, np.broadcast_to(part, apart.shape)])
        best = np.argsort(squares, axis=1, kind="stable")[:, :num]
        squares = np.take_along_axis(squares, best, axis=1)
        found = np.take_along_axis(found, best, axis=1)
    return found, np.sqrt(squares / 255**2).astype(np.float32)


def _squared(vectors: np.ndarray) -> np.ndarray:
    """|v|² of each vector: [N, D] -> [N]."""
    return np.asarray(np.einsum("nd,nd->n", vectors, vectors))
