"""The kernel distance between two sets of features."""

import numpy as np

CHUNK_ROWS = 1000  # rows of the kernel matrix in memory at once


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """KID: the unbiased estimate of the squared MMD of features [N, F] and [M, F], with N, M >= 2.

    The kernel is that of Bińkowski et al. 2018; the mean is over all pairs, not over blocks. For
    two sets from one distribution KID is about 0, and may be negative.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    within = sum(
        (kernel_sum(each, each) - kernel_of_itself(each)) / (len(each) * (len(each) - 1))
        for each in (x, y)
    )
    return float(within - 2 * kernel_sum(x, y) / (len(x) * len(y)))


def kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """The sum of (x·y / F + 1)³ over all pairs."""
    total = 0.0
    for start in range(0, len(x), CHUNK_ROWS):
        kernel = x[start : start + CHUNK_ROWS] @ y.T  # in place below: the largest array here
        kernel /= y.shape[1]
        kernel += 1
        total += _sum_of_cubes(kernel)
    return total


def kernel_of_itself(x: np.ndarray) -> float:
    """The sum of (x·x / F + 1)³ over all x."""
    return _sum_of_cubes(np.einsum("nf,nf->n", x, x) / x.shape[1] + 1)


def _sum_of_cubes(values: np.ndarray) -> float:
    return float(np.vdot(values * values, values))
