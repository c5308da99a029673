"""The kernel distance of two sets of features."""

import numpy as np

CHUNK_ROWS = 1000  # of the kernel matrix that are held at once


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """KID: the unbiased estimate of the squared MMD, of features [N, F] and [M, F].

    Bińkowski et al. 2018, with their kernel, and over all pairs instead of blocks. At least 2 of
    each. It is about 0, and as often below as above, for two sets from one distribution.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    within = sum(
        (kernel_sum(each, each) - kernel_of_itself(each)) / (len(each) * (len(each) - 1))
        for each in (x, y)
    )
    return float(within - 2 * kernel_sum(x, y) / (len(x) * len(y)))


def kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """The sum over all pairs of (x·y / F + 1)³."""
    total = 0.0
    for start in range(0, len(x), CHUNK_ROWS):
        kernel = x[start : start + CHUNK_ROWS] @ y.T  # in place below: the largest array here
        kernel /= y.shape[1]
        kernel += 1
        total += _sum_of_cubes(kernel)
    return total


def kernel_of_itself(x: np.ndarray) -> float:
    """The diagonal of that matrix, summed."""
    return _sum_of_cubes(np.einsum("nf,nf->n", x, x) / x.shape[1] + 1)


def _sum_of_cubes(values: np.ndarray) -> float:
    return float(np.vdot(values * values, values))
