"""Precision, recall, density and coverage of samples, by nearest neighbours in feature space."""

import numpy as np

NUM_NEAREST = 5
CHUNK_ROWS = 1000  # rows of a distance matrix in memory at once


def neighbour_metrics(real: np.ndarray, samples: np.ndarray) -> dict[str, float]:
    """Precision, recall, density and coverage of features [N, F] and [M, F], with N, M >= 2.

    The ball of a feature reaches to its NUM_NEAREST-th nearest neighbour in the same set.

    - `precision`: the share of samples in the ball of a real image (Kynkäänniemi et al. 2019).
    - `recall`: the share of real images in the ball of a sample (same paper).
    - `density`: the mean number of real balls around a sample, divided by NUM_NEAREST. It is about
      1 for real images (Naeem et al. 2020).
    - `coverage`: the share of real balls that contain a sample (same paper).
    """
    x, y = real.astype(np.float64), samples.astype(np.float64)
    nearest = min(NUM_NEAREST, len(x) - 1, len(y) - 1)
    of_real, of_samples = radii(x, nearest), radii(y, nearest)
    num_around = np.zeros(len(y), np.int64)  # real balls around each sample
    recalled, covered = [], []
    for start in range(0, len(x), CHUNK_ROWS):
        part = slice(start, start + CHUNK_ROWS)
        distances = squared_distances(x[part], y)
        inside = distances < of_real[part, None]
        num_around += inside.sum(axis=0)
        covered.append(inside.any(axis=1))
        recalled.append((distances < of_samples).any(axis=1))
    return {
        "precision": float((num_around > 0).mean()),
        "recall": float(np.concatenate(recalled).mean()),
        "density": float(num_around.mean() / nearest),
        "coverage": float(np.concatenate(covered).mean()),
    }


def radii(features: np.ndarray, nearest: int) -> np.ndarray:
    """The squared distance from each feature to its `nearest`-th neighbour in the set: [N]."""
    squares = []
    for start in range(0, len(features), CHUNK_ROWS):
        distances = squared_distances(features[start : start + CHUNK_ROWS], features)
        distances.partition(nearest, axis=1)  # column 0 is the feature itself
        squares.append(distances[:, nearest].copy())
    return np.concatenate(squares)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x|² - 2 x·y + |y|² of all pairs: [N, M]."""
    distances = x @ y.T
    distances *= -2
    distances += np.einsum("nf,nf->n", x, x)[:, None]
    distances += np.einsum("nf,nf->n", y, y)
    return np.asarray(distances.clip(0, out=distances))
