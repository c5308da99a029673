"""The scoring of a model for the gate: metrics of `evaluate`, and their variation by chance.

Equal models, data and code give equal scores, except for the latency. TensorFlow is not needed: a
model is any object with the methods of `Servable`, below.
"""

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from latentworks import metrics
from latentworks.artifacts.images import Prepared
from latentworks.errors import DataError
from latentworks.promotion.scores import Score, Scores, scorer_digest

NUM_REPLICATES = 1000
NUM_SAMPLES = 10_000  # drawn with SEED, and decoded
SEED = 0
MAX_LATENTS = 20_000  # encoded training images, for the number of active units
REPLICATED_PROJECTIONS = 64  # of metrics.NUM_PROJECTIONS; sorting them takes most of the time
DECODED_BYTES = 2**22  # of a chunk of images, which is also copied as float64
LATENCY_SIZES, LATENCY_RUNS = (1, 32), 20


class Servable(Protocol):
    """The methods that scoring needs. They take any number of rows and work in batches."""

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def latent_dim(self) -> int: ...

    def encode_images(self, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Encode images uint8 [N, H, W, C] to latents [N, D]. Conditional models take labels."""
        ...

    def decode_latents(self, latents: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Decode latents [N, D] to images float32 [N, H, W, C] in [0, 1], labels as above."""
        ...

    def draw_latents(self, num: int, seed: int) -> np.ndarray:
        """Draw latents float32 [num, D] from the sampler."""
        ...


def score(servable: Servable, prepared: Prepared, *, size_mb: float) -> Scores:
    """Score a model on the test images of `prepared`. Raises DataError if the data does not fit.

    `size_mb`, which the caller measures, and the latency are recorded, but not compared.
    """
    if prepared.image_shape != tuple(servable.image_shape):
        raise DataError(
            "The prepared images do not have the shape of the model. Expected: "
            f"{tuple(servable.image_shape)}. Received: {prepared.image_shape}."
        )
    for split in ("train", "test"):
        if not len(prepared.rows(split)):
            raise DataError(f"The prepared data has no {split} images, so nothing can be scored.")
    # A model that diverged scores nan. The gate refuses nan, so that no warning is needed.
    with np.errstate(invalid="ignore", over="ignore"):
        scored = {
            "mse": _reconstruction(servable, prepared),
            "active_units": _active_units(servable, prepared),
            **_samples(servable, prepared),
        }
    data = prepared.profile["fingerprint"]
    return Scores(data, scorer_digest(), scored, float(size_mb), _latency(servable))


def resamples(num: int, stream: int = 0) -> Iterator[np.ndarray]:
    """Yield bootstrap resamples (Efron 1979), always the same: rows int64 [num] below `num`."""
    rng = np.random.default_rng(stream)
    for _ in range(NUM_REPLICATES):
        yield rng.integers(num, size=num)


def _bar(total: int, unit: str) -> Any:
    return tqdm(total=total, unit=f" {unit}", desc="score", disable=None)


# --- reconstructions and latents -----------------------------------------------------------------


def _reconstruction(servable: Servable, prepared: Prepared) -> Score:
    """Score mse over all test images. The reference is the mse of the mean training image."""
    rows = prepared.rows("test")
    mean = metrics.mean_image(prepared.images, prepared.rows("train"))
    errors, of_mean = [], []
    with _bar(len(rows), "images") as bar:
        for part in metrics.chunks(rows, mean.size, DECODED_BYTES):
            images = prepared.images[part]
            labels = _labels(servable, prepared, part)
            decoded = servable.decode_latents(servable.encode_images(images, *labels), *labels)
            targets = images / 255.0
            errors.append(metrics.mean_squared_error(targets, decoded.astype(np.float64)))
            of_mean.append(metrics.mean_squared_error(targets, mean))
            bar.update(len(part))
    each = np.concatenate(errors)
    replicates = np.array([each[again].mean() for again in resamples(len(each))])
    return Score(float(each.mean()), replicates, float(np.concatenate(of_mean).mean()))


def _labels(servable: Servable, prepared: Prepared, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the labels of images as the extra argument of a conditional model, else ()."""
    labels = prepared.labels(rows) if _is_conditional(servable) else None
    return () if labels is None else (labels,)


def _is_conditional(servable: Servable) -> bool:
    """Return True for a conditional model. Versions from before these existed lack the flag."""
    return getattr(servable, "conditional", False)


def _active_units(servable: Servable, prepared: Prepared) -> Score:
    """Score how many latents vary over training images. The reference is the number of latents."""
    rows = metrics.subset(prepared.rows("train"), MAX_LATENTS)
    parts = metrics.chunks(rows, prepared.images[0].size, DECODED_BYTES)
    encoded = [
        servable.encode_images(prepared.images[part], *_labels(servable, prepared, part))
        for part in parts
    ]
    latents = np.concatenate(encoded)
    value = metrics.active_units(latents) if np.isfinite(latents).all() else math.nan
    return Score(float(value), None, float(servable.latent_dim))


# --- samples -------------------------------------------------------------------------------------


def _samples(servable: Servable, prepared: Prepared) -> dict[str, Score]:
    """Score sliced_wasserstein and memorisation, which `metrics.sample_metrics` defines."""
    images, train, test = prepared.images, prepared.rows("train"), prepared.rows("test")
    projected, drawn, finite = _draw(servable)
    real = metrics.project(images, metrics.subset(test, metrics.MAX_PROJECTED))
    alike = metrics.project(images, metrics.subset(train, len(projected)))
    distance = metrics.sliced_wasserstein(projected, real)
    scored = {
        "sliced_wasserstein": Score(
            distance,
            resampled_distances(projected, real) + distance,
            metrics.sliced_wasserstein(alike, real),
        )
    }
    unseen = metrics.subset(test, metrics.MAX_SEARCHED)
    queries = np.concatenate([drawn, *metrics.thumbnails(images, unseen)])
    distances = metrics.nearest_distances(queries, images, train)
    of_samples, of_test = distances[: len(drawn)], distances[len(drawn) :]
    ratio = metrics.distance_ratio(of_samples, of_test)
    if ratio is not None:
        scored["memorisation"] = Score(ratio, resampled_ratios(of_samples, of_test), 1.0)
    if not finite:
        return {name: replace(each, value=math.nan) for name, each in scored.items()}
    return scored


def _draw(servable: Servable) -> tuple[np.ndarray, np.ndarray, bool]:
    """Draw NUM_SAMPLES samples.

    Returns projections of all, float32 [n, P]; thumbnails of the samples that are looked up among
    the training images, float32 [m, D]; and True if all pixels are finite numbers.
    """
    labels: list[np.ndarray] = []  # one array for a conditional model
    if _is_conditional(servable):
        latents, *labels = servable.draw(NUM_SAMPLES, SEED)  # type: ignore[attr-defined]
    else:
        latents = servable.draw_latents(NUM_SAMPLES, SEED)
    looked_up = metrics.subset(np.arange(len(latents)), metrics.MAX_SEARCHED)
    size = math.prod(servable.image_shape)
    projected, thumbnails, finite = [], [], True
    with _bar(len(latents), "samples") as bar:
        for part in metrics.chunks(np.arange(len(latents)), size, DECODED_BYTES):
            decoded = servable.decode_latents(latents[part], *(each[part] for each in labels))
            finite &= bool(np.isfinite(decoded).all())
            pixels = np.rint(np.nan_to_num(decoded).clip(0, 1) * 255).astype(np.uint8)
            projected.append(metrics.project(pixels, np.arange(len(pixels))))
            chosen = np.flatnonzero(np.isin(part, looked_up))
            thumbnails += [*metrics.thumbnails(pixels, chosen)]
            bar.update(len(part))
    return np.concatenate(projected), np.concatenate(thumbnails), finite


def resampled_distances(samples: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Measure how far resampling moves `metrics.sliced_wasserstein`: float64 [B].

    `samples` and `real` are projections. Both are resampled: with resamples of the test images
    alone, two draws from one sampler would differ beyond chance. To save time, only the first
    REPLICATED_PROJECTIONS are used, and the result is the difference from the distance on these.
    A resample is farther from any data than its source is; this bias is about the same for every
    model, and cancels in the difference of two models.
    """
    x, y = (np.ascontiguousarray(each[:, :REPLICATED_PROJECTIONS].T) for each in (samples, real))
    i, j, share = metrics.quantile_pairs(x.shape[1], y.shape[1])
    share = share.astype(np.float32)
    distances = []
    with _bar(NUM_REPLICATES, "resamples") as bar:
        for again, drawn in zip(resamples(len(real)), resamples(len(samples), 1), strict=True):
            squares = []
            for of_samples, of_real in zip(_sorted(x, drawn), _sorted(y, again), strict=True):
                gaps = of_samples.take(i) - of_real.take(j)
                squares.append(gaps * gaps @ share)
            distances.append(math.sqrt(np.mean(squares)))
            bar.update()
    return np.asarray(distances, np.float64) - metrics.sliced_wasserstein(x.T, y.T)


def _sorted(projections: np.ndarray, drawn: np.ndarray) -> Iterator[np.ndarray]:
    """Yield each projection of the resample `drawn`, sorted: float32 [N]."""
    for row in projections:
        again = row.take(drawn)
        again.sort()  # NumPy sorts float32 with vector instructions
        yield again


def resampled_ratios(of_samples: np.ndarray, of_test: np.ndarray) -> np.ndarray | None:
    """Measure `metrics.memorisation` on resamples of nearest distances: [B].

    The distances are from samples and from test images to their nearest training image. Both are
    resampled: two models have the same test images, so that with resamples of these alone the
    smallest difference would be beyond chance. None if any resample has no ratio.
    """
    pairs = zip(resamples(len(of_test)), resamples(len(of_samples), 1), strict=True)
    ratios = [metrics.distance_ratio(of_samples[drawn], of_test[again]) for again, drawn in pairs]
    return None if None in ratios else np.array(ratios, np.float64)


# --- the latency, which is recorded but not compared ---------------------------------------------


def _latency(servable: Servable) -> dict[str, float]:
    """Measure the milliseconds to decode LATENCY_SIZES latents, the median of LATENCY_RUNS."""
    medians = {}
    for size in LATENCY_SIZES:
        latents = servable.draw_latents(size, SEED)
        times = []
        for _ in range(LATENCY_RUNS + 1):
            start = time.perf_counter()
            servable.decode_latents(latents)
            times.append(1000 * (time.perf_counter() - start))
        medians[str(size)] = statistics.median(times[1:])  # the first run warms up
    return medians
