"""The Fréchet distance of two sets of features, each taken for a Gaussian."""

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), of features [N, F] and [M, F], at least 2 of each.

    Dowson and Landau 1982; of images in the features of a network, Heusel et al. 2017.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    of_x, of_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # The eigenvalues of C1 C2 are those of C1^½ C2 C1^½, which is symmetric, so that no root is
    # complex where features are constant or depend on one another.
    root = square_root(of_x)
    between = np.sqrt(np.linalg.eigvalsh(root @ of_y @ root).clip(0)).sum()
    gap = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    return max(0.0, float(gap + np.trace(of_x) + np.trace(of_y) - 2 * between))


def square_root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix [F, F] without negative eigenvalues but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)
