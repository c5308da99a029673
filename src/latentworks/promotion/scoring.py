"""What the gate measures of a model: the metrics of `evaluate`, and how far chance may move them.

Equal models, data and code give equal scores, but for the latency. No TensorFlow: a model is
whatever encodes, decodes and draws.
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
NUM_SAMPLES = 10_000  # drawn and decoded, with SEED
SEED = 0
MAX_LATENTS = 20_000  # of training images, to tell which of them vary
REPLICATED_PROJECTIONS = 64  # of metrics.NUM_PROJECTIONS: sorting them is most of the time
DECODED_BYTES = 2**22  # a chunk of images is worked on as float64, with copies
LATENCY_SIZES, LATENCY_RUNS = (1, 32), 20


class Servable(Protocol):
    """What can be scored. Its verbs take any number and work in batches."""

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def latent_dim(self) -> int: ...

    def encode_images(self, images: np.ndarray, *labels: np.ndarray) -> np.ndarray:
        """Images uint8 [N, H, W, C] to latents float32 [N, D]; conditional ones take labels."""
        ...

    def decode_latents(self, latents: np.ndarray, *labels: np.ndarray) -> np.ndarray:
        """Latents float32 [N, D] to images float32 [N, H, W, C] in [0, 1]; the same holds."""
        ...

    def draw_latents(self, num: int, seed: int) -> np.ndarray:
        """Latents float32 [num, D] from the sampler."""
        ...


def score(servable: Servable, prepared: Prepared, *, size_mb: float) -> Scores:
    """Measure a model on the test images of `prepared`. Raises DataError where it cannot.

    `size_mb` is the caller's to know; it and the latency are recorded only.
    """
    if prepared.image_shape != tuple(servable.image_shape):
        raise DataError(
            "the model works on images of another shape than those prepared. Expected: "
            f"{tuple(servable.image_shape)}. Received: {prepared.image_shape}."
        )
    for split in ("train", "test"):
        if not len(prepared.rows(split)):
            raise DataError(f"the prepared data has no {split} images, so nothing can be scored.")
    # What diverged scores nan, which is on record and never promoted; it needs no warning.
    with np.errstate(invalid="ignore", over="ignore"):
        scored = {
            "mse": _reconstruction(servable, prepared),
            "active_units": _active_units(servable, prepared),
            **_samples(servable, prepared),
        }
    data = prepared.profile["fingerprint"]
    return Scores(data, scorer_digest(), scored, float(size_mb), _latency(servable))


def resamples(num: int, stream: int = 0) -> Iterator[np.ndarray]:
    """Bootstrap resamples (Efron 1979) of `num` things, always the same: rows int64 [num] each."""
    rng = np.random.default_rng(stream)
    for _ in range(NUM_REPLICATES):
        yield rng.integers(num, size=num)


def _bar(total: int, unit: str) -> Any:
    return tqdm(total=total, unit=f" {unit}", desc="score", disable=None)


# --- reconstructions and latents -----------------------------------------------------------------


def _reconstruction(servable: Servable, prepared: Prepared) -> Score:
    """mse over all test images; its reference is that of the mean training image."""
    rows = prepared.rows("test")
    mean = mean_image(prepared.images, prepared.rows("train"))
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


def _labels(servable: Any, prepared: Prepared, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """What a conditional model is given beside images; nothing for others."""
    labels = prepared.labels(rows) if _is_conditional(servable) else None
    return () if labels is None else (labels,)


def _is_conditional(servable: Any) -> bool:
    """A version that was registered before there were such models does not say."""
    return getattr(servable, "conditional", False)


def mean_image(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean of `images[rows]`: float64 [H, W, C] in [0, 1]. The best constant answer."""
    parts = metrics.chunks(rows, images[0].size)
    total = sum(images[part].sum(axis=0, dtype=np.int64) for part in parts)
    return np.asarray(total / (255.0 * len(rows)))


def _active_units(servable: Servable, prepared: Prepared) -> Score:
    """How many latents vary over training images; its reference is how many there are."""
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
    """sliced_wasserstein and memorisation, as `metrics.sample_metrics` has them."""
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
    """NUM_SAMPLES samples: all projected, float32 [n, P]; thumbnails of those that are looked up
    among the training images, float32 [m, D]; whether all their pixels were finite numbers.
    """
    asked: list[np.ndarray] = []  # the labels, where it is told some
    if _is_conditional(servable):
        latents, *asked = servable.draw(NUM_SAMPLES, SEED)  # type: ignore[attr-defined]
    else:
        latents = servable.draw_latents(NUM_SAMPLES, SEED)
    looked_up = metrics.subset(np.arange(len(latents)), metrics.MAX_SEARCHED)
    size = math.prod(servable.image_shape)
    projected, thumbnails, finite = [], [], True
    with _bar(len(latents), "samples") as bar:
        for part in metrics.chunks(np.arange(len(latents)), size, DECODED_BYTES):
            decoded = servable.decode_latents(latents[part], *(each[part] for each in asked))
            finite &= bool(np.isfinite(decoded).all())
            pixels = np.rint(np.nan_to_num(decoded).clip(0, 1) * 255).astype(np.uint8)
            projected.append(metrics.project(pixels, np.arange(len(pixels))))
            chosen = np.flatnonzero(np.isin(part, looked_up))
            thumbnails += [*metrics.thumbnails(pixels, chosen)]
            bar.update(len(part))
    return np.concatenate(projected), np.concatenate(thumbnails), finite


def resampled_distances(samples: np.ndarray, real: np.ndarray) -> np.ndarray:
    """How far resampling moves `metrics.sliced_wasserstein`, from projections: float64 [B].

    Both sides are resampled: with the test images alone, two draws from one sampler would differ
    beyond chance. On the first REPLICATED_PROJECTIONS, for time, and therefore as differences from
    the distance on these. A resample lies further from anything than its source, by about as much
    for every model, so that it cancels in the differences between two.
    """
    x, y = (each[:, :REPLICATED_PROJECTIONS].T for each in (samples, real))
    ranked = [(np.sort(each), each.argsort().argsort().astype(np.uint16)) for each in (x, y)]
    i, j, share = metrics.quantile_pairs(x.shape[1], y.shape[1])
    share = share.astype(np.float32)
    distances = []
    with _bar(NUM_REPLICATES, "resamples") as bar:
        for again, drawn in zip(resamples(len(real)), resamples(len(samples), 1), strict=True):
            squares = []
            for of_samples, of_real in zip(
                _resampled(*ranked[0], drawn), _resampled(*ranked[1], again), strict=True
            ):
                gaps = of_samples.take(i) - of_real.take(j)
                squares.append(gaps * gaps @ share)
            distances.append(math.sqrt(np.mean(squares)))
            bar.update()
    return np.asarray(distances, np.float64) - metrics.sliced_wasserstein(x.T, y.T)


def _resampled(values: np.ndarray, ranks: np.ndarray, drawn: np.ndarray) -> Iterator[np.ndarray]:
    """Each projection of a resample, sorted: float32 [N].

    Its ranks are sorted, whole numbers below MAX_PROJECTED, which takes a fraction of the time.
    """
    for row, rank in zip(values, ranks, strict=True):
        again = rank.take(drawn)
        again.sort(kind="stable")  # by radix, for numbers of two bytes
        yield row.take(again)


def resampled_ratios(of_samples: np.ndarray, of_test: np.ndarray) -> np.ndarray | None:
    """`metrics.memorisation` of resamples, from distances to the nearest training image: [B].

    Both sides are resampled: the test images are the same for two models, so that with these alone
    the smallest difference would be beyond chance. None where some resample has no ratio.
    """
    pairs = zip(resamples(len(of_test)), resamples(len(of_samples), 1), strict=True)
    ratios = [metrics.distance_ratio(of_samples[drawn], of_test[again]) for again, drawn in pairs]
    return None if None in ratios else np.array(ratios, np.float64)


# --- what is recorded only -----------------------------------------------------------------------


def _latency(servable: Servable) -> dict[str, float]:
    """Milliseconds to decode so many latents, the median of LATENCY_RUNS."""
    medians = {}
    for size in LATENCY_SIZES:
        latents = servable.draw_latents(size, SEED)
        times = []
        for _ in range(LATENCY_RUNS + 1):
            start = time.perf_counter()
            servable.decode_latents(latents)
            times.append(1000 * (time.perf_counter() - start))
        medians[str(size)] = statistics.median(times[1:])  # the first one warms up
    return medians
