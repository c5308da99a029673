"""Numbers about images and latents. Nothing here draws at random without a fixed seed.

Images are uint8 [N, H, W, C], often a memory map larger than memory, so they are read in chunks.
Every function for one section of metrics.json returns that section.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from scipy.special import xlog1py, xlogy
from skimage.measure import block_reduce
from skimage.metrics import structural_similarity as ssim
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CLIP = 1e-7  # Keras's own, so that a probability of 0 or 1 has a finite cross-entropy
MAX_PSNR = 100.0  # dB, for identical images, whose ratio is infinite
SSIM_WINDOW = 7  # pixels a side, as in scikit-image
NUM_NEIGHBOURS = 10
ACTIVE_VARIANCE = 0.01
NUM_PROJECTIONS = 256
MAX_PROJECTED = 10_000  # images of each kind
MAX_SEARCHED = 2_000  # images of each kind whose nearest training image is looked for
MAX_SIDE = 64  # pixels a side of the images compared
CHUNK_IMAGES = 4096  # held at once,
CHUNK_BYTES = 2**26  # or as many as fit into this

# The binary entropy of each grey value in nats: the cross-entropy of a perfect reconstruction.
_GREY = np.arange(256) / 255
GREY_ENTROPY = -(xlogy(_GREY, _GREY) + xlog1py(1 - _GREY, -_GREY))


# --- reconstructions -----------------------------------------------------------------------------


def reconstruction_metrics(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """bce, excess_bce, mse, psnr and ssim: means over the images of all batches.

    A batch is originals, uint8 [B, H, W, C], and reconstructions, float32 [B, H, W, C] in [0, 1].
    `excess_bce` is what is left of `bce` after subtracting the entropy of the grey values, the
    floor that no model can go below; it can be compared between sets of images, `bce` cannot.
    """
    num_images = 0
    sums = dict.fromkeys(("bce", "excess_bce", "mse", "psnr", "ssim"), 0.0)
    for originals, reconstructions in batches:
        targets, predictions = originals / 255.0, reconstructions.astype(np.float64)
        bce = binary_crossentropy(targets, predictions)
        scores = {
            "bce": bce,
            "excess_bce": bce - GREY_ENTROPY[originals].mean(axis=(1, 2, 3)),
            "mse": mean_squared_error(targets, predictions),
            "psnr": peak_signal_to_noise(targets, predictions),
            "ssim": structural_similarity(targets, predictions),
        }
        num_images += len(originals)
        for name, score in scores.items():
            sums[name] += float(score.sum())
    return {name: total / num_images for name, total in sums.items()}


def binary_crossentropy(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """-t log p - (1 - t) log(1 - p), the mean over pixels in nats: [N]. Both are in [0, 1]."""
    clipped = predictions.clip(CLIP, 1 - CLIP)
    losses = targets * np.log(clipped) + (1 - targets) * np.log1p(-clipped)
    return -np.asarray(losses.mean(axis=(1, 2, 3)))


def mean_squared_error(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """The mean over pixels: [N]. Both are in [0, 1]."""
    return np.asarray(((targets - predictions) ** 2).mean(axis=(1, 2, 3)))


def peak_signal_to_noise(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """10 log10(1 / mean squared error), in dB, at most MAX_PSNR: [N]. Both are in [0, 1]."""
    floor = 10 ** (-MAX_PSNR / 10)
    return np.asarray(-10 * np.log10(mean_squared_error(targets, predictions).clip(floor)))


def structural_similarity(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """SSIM (Wang et al. 2004, eq. 13), mean over windows and channels: [N]. Both are in [0, 1].

    In uniform windows of SSIM_WINDOW pixels a side; in images smaller than that, the largest odd
    size that fits. They are at least 3 pixels a side: one pixel has no variance.
    """
    side = min(SSIM_WINDOW, (min(targets.shape[1:3]) - 1) // 2 * 2 + 1)
    pairs = zip(targets, predictions, strict=True)
    return np.array([ssim(x, y, win_size=side, data_range=1, channel_axis=2) for x, y in pairs])


# --- latents -------------------------------------------------------------------------------------


def latent_metrics(
    train: np.ndarray,
    train_labels: np.ndarray | None,
    test: np.ndarray,
    test_labels: np.ndarray | None,
) -> dict[str, float]:
    """active_units, and where there are labels knn_accuracy and linear_accuracy.

    Latents are float32 [N, D], labels int64 [N], -1 where an image has none. The classifiers learn
    from the training latents and are scored on the test latents, over the labelled ones alone.
    The accuracies are absent where there is nothing to learn (one class) or to score.
    """
    metrics: dict[str, float] = {"active_units": active_units(train)}
    if train_labels is None or test_labels is None:
        return metrics
    known, asked = train_labels >= 0, test_labels >= 0
    if len(np.unique(train_labels[known])) < 2 or not asked.any():
        return metrics
    knn = KNeighborsClassifier(min(NUM_NEIGHBOURS, int(known.sum())))
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    for name, classifier in {"knn_accuracy": knn, "linear_accuracy": linear}.items():
        classifier.fit(train[known], train_labels[known])
        metrics[name] = float(classifier.score(test[asked], test_labels[asked]))
    return metrics


def active_units(latents: np.ndarray) -> int:
    """How many latents vary: variance over the data above 0.01 (Burda et al. 2016)."""
    return int((latents.var(axis=0, dtype=np.float64) > ACTIVE_VARIANCE).sum())


# --- samples -------------------------------------------------------------------------------------


def sample_metrics(
    samples: np.ndarray, images: np.ndarray, train_rows: np.ndarray, test_rows: np.ndarray
) -> dict[str, float]:
    """sliced_wasserstein from the samples to the test images, its floor, and memorisation.

    `samples` and `images` are uint8 [N, H, W, C]; the rows, int64, say which images are for
    training and which for testing. The floor is the distance to the test images of as many
    training images as there are samples: what a perfect sampler would still get.
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


def subset(rows: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of the rows, in their order: a random choice, always the same."""
    if len(rows) <= num:
        return rows
    return rows[np.sort(np.random.default_rng(0).choice(len(rows), num, replace=False))]


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


def thumbnails(images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """`images[rows]` in chunks: float32 [n, D], pixels in [0, 1].

    Images larger than MAX_SIDE are averaged over squares of pixels, so that comparing all with all
    takes seconds; smaller ones are as they are.
    """
    block = -(-max(images.shape[1:3]) // MAX_SIDE)
    for part in chunks(rows, images[0].size):
        chunk = images[part]
        if block > 1:
            chunk = block_reduce(chunk, (1, block, block, 1), np.mean)
        yield chunk.reshape(len(chunk), -1).astype(np.float32) / np.float32(255)


def chunks(rows: np.ndarray, size: int, num_bytes: int = CHUNK_BYTES) -> Iterator[np.ndarray]:
    """Parts of `rows`, whose images are of `size` bytes each."""
    step = max(1, min(CHUNK_IMAGES, num_bytes // size))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
