"""The Fréchet distance between two sets of features, each modelled as a Gaussian."""

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½) of features [N, F] and [M, F], with N, M >= 2.

    m and C are means and covariances (Dowson and Landau 1982). Heusel et al. 2017 apply the
    distance to images in the features of a network.
    """
    x, y = first.astype(np.float64), second.astype(np.float64)
    of_x, of_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    # C1 C2 has the eigenvalues of C1^½ C2 C1^½, which is symmetric: no root is complex, even if
    # features are constant or linearly dependent.
    root = square_root(of_x)
    between = np.sqrt(np.linalg.eigvalsh(root @ of_y @ root).clip(0)).sum()
    gap = ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    return max(0.0, float(gap + np.trace(of_x) + np.trace(of_y) - 2 * between))


def square_root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix [F, F]. Eigenvalues below 0 are rounding errors."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)
