"""Samples against real images, pixel by pixel: how far the two sets are, and copies."""

import numpy as np

from latentworks.metrics.pixels import subset, thumbnails

NUM_PROJECTIONS = 256
MAX_PROJECTED = 10_000  # images of each kind
MAX_SEARCHED = 2_000  # images of each kind whose nearest training image is looked for


def sample_metrics(
    samples: np.ndarray, images: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray
) -> dict[str, float]:
    """sliced_wasserstein from the samples to the test images, its floor, and memorisation.

    `samples` and `images` are uint8 [N, H, W, C]; the rows, int64, say which images are for
    training and which for testing. The floor is the distance to the test images of as many
    training images as there are samples: what a perfect sampler would still get. Where there are
    fewer, it is that of all of them, and higher, as few images lie further from anything.
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
    """`images[rows]` on NUM_PROJECTIONS random unit directions, always the same: float32 [n, P]."""
    size = next(thumbnails(images, rows[:1])).shape[1]
    directions = np.random.default_rng(0).standard_normal((size, NUM_PROJECTIONS), np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    return np.concatenate([chunk @ directions for chunk in thumbnails(images, rows)])


def sliced_wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """The sliced 2-Wasserstein distance of two projected sets: [N, P] and [M, P].

    The root of the mean over projections of the squared W2 (Bonneel et al. 2015).
    """
    x, y = np.sort(first.astype(np.float64), axis=0), np.sort(second.astype(np.float64), axis=0)
    i, j, share = quantile_pairs(len(x), len(y))
    return float(np.sqrt((share @ (x[i] - y[j]) ** 2).mean()))


def quantile_pairs(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best plan on a line: which of n and of m sorted points are joined, int64 [K] each, and
    the share of the mass that goes between them, float64 [K].
    """
    # It joins equal quantiles, which change only at multiples of 1/n and 1/m. Counted in 1/(nm),
    # these edges are whole numbers, and so exact.
    edges = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    left = edges[:-1]
    return left // m, left // n, np.diff(edges) / (n * m)


def memorisation(
    samples: np.ndarray, images: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray
) -> float | None:
    """How near the samples are to training images, compared with images never trained on.

    The median L2 distance from samples to their nearest training image, divided by the same median
    for test images: 1 is like fresh data, towards 0 is copying. None where
    most test images look like a training image themselves, so that there is nothing to compare.
    """
    drawn = subset(np.arange(len(samples)), MAX_SEARCHED)
    queries = [*thumbnails(samples, drawn), *thumbnails(images, subset(test_rows, MAX_SEARCHED))]
    distances = nearest_distances(np.concatenate(queries), images, train_rows)
    return distance_ratio(distances[: len(drawn)], distances[len(drawn) :])


def distance_ratio(of_samples: np.ndarray, of_test: np.ndarray) -> float | None:
    """The ratio of two medians, None where that of the test images is 0. Distances are [N], [M]."""
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
        # |c|² - 2 q·c ranks as |q - c|² does. In place, since [Q, n] is the largest array here.
        ranks = queries @ chunk.T
        ranks *= -2
        ranks += np.einsum("nd,nd->n", chunk, chunk)
        best = ranks.argmin(axis=1)
        rank = ranks[np.arange(len(queries)), best]
        closer = rank < least
        nearest[closer] = rows[start + best[closer]]
        least[closer] = rank[closer]
        start += len(chunk)
    # From the differences, since |q|² + |c|² - 2 q·c would leave only rounding noise of a copy.
    found = np.concatenate(list(thumbnails(images, nearest)))
    return np.asarray(np.linalg.norm(queries - found, axis=1))
