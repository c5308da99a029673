"""Are samples where real images are, and the other way round? From nearest neighbours."""

import numpy as np

NUM_NEAREST = 5
CHUNK_ROWS = 1000  # of a matrix of distances that are held at once


def neighbour_metrics(real: np.ndarray, samples: np.ndarray) -> dict[str, float]:
    """precision, recall, density and coverage, of features [N, F] and [M, F], at least 2 of each.

    Around each feature there is a ball that reaches to the NUM_NEAREST-th nearest of its own set.
    `precision`: the share of samples in a real ball; `recall`: the share of real images in a
    sample's ball (Kynkäänniemi et al. 2019). `density`: in how many real balls a sample is, per
    NUM_NEAREST, which is about 1 for real images; `coverage`: the share of real balls with a
    sample in them (Naeem et al. 2020).
    """
    x, y = real.astype(np.float64), samples.astype(np.float64)
    nearest = min(NUM_NEAREST, len(x) - 1, len(y) - 1)
    of_real, of_samples = radii(x, nearest), radii(y, nearest)
    num_around = np.zeros(len(y), np.int64)  # real balls that each sample is in
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
    """The squared distance of each to its `nearest`-th neighbour in the same set: [N]."""
    found = []
    for start in range(0, len(features), CHUNK_ROWS):
        distances = squared_distances(features[start : start + CHUNK_ROWS], features)
        distances.partition(nearest, axis=1)  # itself, the nearest, comes before
        found.append(distances[:, nearest].copy())
    return np.concatenate(found)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x|² - 2 x·y + |y|², of all pairs: [N, M]."""
    distances = x @ y.T
    distances *= -2
    distances += np.einsum("nf,nf->n", x, x)[:, None]
    distances += np.einsum("nf,nf->n", y, y)
    return np.asarray(distances.clip(0, out=distances))
