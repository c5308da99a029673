"""Metrics of reconstructions: a score for each image, and means over images."""

from collections.abc import Iterable

import numpy as np
from scipy.special import xlog1py, xlogy
from skimage.metrics import structural_similarity as ssim

from latentworks.metrics.pixels import chunks

CLIP = 1e-7  # as in Keras; keeps the cross-entropy of 0 and 1 finite
MAX_PSNR = 100.0  # dB, instead of infinity for identical images
SSIM_WINDOW = 7  # pixels a side, as in scikit-image
HARDLY = 0.5  # of the mean image's mse: above it, a model shows little but the mean image

# The binary entropy of each grey value, in nats: the cross-entropy of a perfect reconstruction.
_GREY = np.arange(256) / 255
GREY_ENTROPY = -(xlogy(_GREY, _GREY) + xlog1py(1 - _GREY, -_GREY))


def reconstruction_metrics(batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Compute the means of bce, excess_bce, mse, psnr and ssim over the images of all batches.

    A batch is originals, uint8 [B, H, W, C], and reconstructions, float32 [B, H, W, C] in [0, 1].
    `excess_bce` is `bce` minus the entropy of the grey values, the lowest `bce` possible. Unlike
    `bce`, `excess_bce` can be compared between sets of images.
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


def mean_image(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean of `images[rows]`, the best constant output: float64 [H, W, C] in [0, 1]."""
    parts = chunks(rows, images[0].size)
    total = sum(images[part].sum(axis=0, dtype=np.int64) for part in parts)
    return np.asarray(total / (255.0 * len(rows)))


def mean_image_mse(images: np.ndarray, train: np.ndarray, rows: np.ndarray) -> float:
    """Compute the mean squared error of the mean of `images[train]`, over `images[rows]`."""
    mean = mean_image(images, train)
    parts = chunks(rows, mean.size)
    total = sum(mean_squared_error(images[part] / 255.0, mean).sum() for part in parts)
    return float(total) / len(rows)


def hardly_better(mse: float, of_mean_image: float) -> bool:
    """Return True if reconstructions show little more than the mean image of the training images.

    `mse` is their mean squared error, `of_mean_image` that of the mean image on the same images.
    """
    return mse > HARDLY * of_mean_image


def binary_crossentropy(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """-t log p - (1 - t) log(1 - p), mean over pixels, in nats: [N]. Both inputs are in [0, 1]."""
    clipped = predictions.clip(CLIP, 1 - CLIP)
    losses = targets * np.log(clipped) + (1 - targets) * np.log1p(-clipped)
    return -np.asarray(losses.mean(axis=(1, 2, 3)))


def mean_squared_error(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """(t - p)², mean over pixels: [N]. Both inputs are in [0, 1]."""
    return np.asarray(((targets - predictions) ** 2).mean(axis=(1, 2, 3)))


def peak_signal_to_noise(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """10 log10(1 / mean squared error), in dB, at most MAX_PSNR: [N]. Both inputs are in [0, 1]."""
    floor = 10 ** (-MAX_PSNR / 10)
    return np.asarray(-10 * np.log10(mean_squared_error(targets, predictions).clip(floor)))


def structural_similarity(targets: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """SSIM (Wang et al. 2004, eq. 13), mean over windows and channels: [N]. Inputs in [0, 1].

    Windows are uniform, with SSIM_WINDOW pixels a side, or the largest odd size that fits into
    smaller images. Images need at least 3 pixels a side: one pixel has no variance.
    """
    side = min(SSIM_WINDOW, (min(targets.shape[1:3]) - 1) // 2 * 2 + 1)
    pairs = zip(targets, predictions, strict=True)
    return np.array([ssim(x, y, win_size=side, data_range=1, channel_axis=2) for x, y in pairs])
