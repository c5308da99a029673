"""Comparison of samples with real images in pixel space: distance of the sets, and copying."""

import numpy as np

from latentworks.metrics.pixels import subset, thumbnails

NUM_PROJECTIONS = 256
MAX_PROJECTED = 10_000  # samples, and test images
MAX_SEARCHED = 2_000  # samples, and test images, whose nearest training image is searched


def sample_metrics(
    samples: np.ndarray, images: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray
) -> dict[str, float]:
    """Compute sliced_wasserstein from the samples to the test images, its floor, and memorisation.

    `samples` and `images` are uint8 [N, H, W, C]; `train_rows` and `test_rows`, int64, select from
    `images`. The floor is the distance from training images, as many as there are samples, to the
    test images: a perfect sampler reaches it. With fewer training images than samples, the floor
    uses all of them and is higher, since small sets have larger distances.
    """
    sample_rows = np.arange(len(samples))
    drawn = subset(sample_rows, MAX_PROJECTED)
    test = project(images, subset(test_rows, MAX_PROJECTED))
    train = project(images, subset(train_rows, len(drawn)))
    ratio = memorisation(samples, images, train_rows, test_rows)
    return {
        "sliced_wasserstein": sliced_wasserstein(project(samples, drawn), test),
        "sliced_wasserstein_floor": sliced_wasserstein(train, test),
        **({} if ratio is None else {"memorisation": ratio}),
    }


def project(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Project `images[rows]` on NUM_PROJECTIONS fixed random unit directions: float32 [n, P]."""
    size = next(thumbnails(images, rows[:1])).shape[1]
    directions = np.random.default_rng(0).standard_normal((size, NUM_PROJECTIONS), np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    return np.concatenate([chunk @ directions for chunk in thumbnails(images, rows)])


def sliced_wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """The sliced 2-Wasserstein distance between two projected sets: [N, P] and [M, P].

    The root of the mean of W2² over projections (Bonneel et al. 2015).
    """
    x, y = np.sort(first.astype(np.float64), axis=0), np.sort(second.astype(np.float64), axis=0)
    i, j, share = quantile_pairs(len(x), len(y))
    return float(np.sqrt((share @ (x[i] - y[j]) ** 2).mean()))


def quantile_pairs(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the optimal transport plan on a line between n and m sorted points.

    Returns the indices of the joined points, int64 [K] each, and the mass moved between them,
    float64 [K].
    """
    # The plan joins equal quantiles, which change at multiples of 1/n and 1/m. In units of 1/(nm)
    # these edges are integers, and therefore exact.
    edges = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    left = edges[:-1]
    return left // m, left // n, np.diff(edges) / (n * m)


def memorisation(
    samples: np.ndarray, images: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray
) -> float | None:
    """Measure how much nearer samples are to training images than test images are.

    The median L2 distance from samples to their nearest training image, divided by the same median
    for test images. About 1 for new images, near 0 for copies. None if most test images equal a
    training image, so that the median of the test images is 0.
    """
    drawn = subset(np.arange(len(samples)), MAX_SEARCHED)
    queries = [*thumbnails(samples, drawn), *thumbnails(images, subset(test_rows, MAX_SEARCHED))]
    distances = nearest_distances(np.concatenate(queries), images, train_rows)
    return distance_ratio(distances[: len(drawn)], distances[len(drawn) :])


def distance_ratio(of_samples: np.ndarray, of_test: np.ndarray) -> float | None:
    """Divide the medians of distances [N] and [M]. None if the test images' median is 0."""
    lower = np.median(of_test)
    return float(np.median(of_samples) / lower) if lower > 0 else None


def nearest_distances(queries: np.ndarray, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The L2 distance from each query to the nearest of `images[rows]`: float32 [Q].

    The queries are thumbnails: float32 [Q, D].
    """
    least = np.full(len(queries), np.inf, dtype=np.float32)
    nearest = np.zeros(len(queries), dtype=np.int64)
    start = 0
    for chunk in thumbnails(images, rows):
        # |c|² - 2 q·c orders as |q - c|² does. In place: [Q, n] is the largest array here.
        ranks = queries @ chunk.T
        ranks *= -2
        ranks += np.einsum("nd,nd->n", chunk, chunk)
        best = ranks.argmin(axis=1)
        rank = ranks[np.arange(len(queries)), best]
        closer = rank < least
        nearest[closer] = rows[start + best[closer]]
        least[closer] = rank[closer]
        start += len(chunk)
    # By differences: for a copy, |q|² + |c|² - 2 q·c would be rounding noise instead of 0.
    neighbours = np.concatenate(list(thumbnails(images, nearest)))
    return np.asarray(np.linalg.norm(queries - neighbours, axis=1))
