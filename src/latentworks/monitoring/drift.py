"""Drift: the distance between the measurements of test images and of incoming images.

Pure: the measurements come from `check`. Drift is a distance that is both large, so that it
matters, and significant, so that it is not chance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from latentworks.config import Config

LEVEL = 0.001  # false alarms per check, over all rows: one in three years of daily checks
MAX_ROWS = 8  # latents in the report, those with the largest distances


class DriftConfig(Config):
    """Limits beyond which incoming images count as drift."""

    min_images: Annotated[int, Field(ge=10)]
    max_distance: Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Measured:
    """The champion's measurements of images."""

    errors: np.ndarray  # float32 [N], mean squared errors of reconstruction, pixels in [0, 1]
    latents: np.ndarray  # float32 [N, D]


@dataclass(frozen=True)
class DriftRow:
    """One quantity of test and incoming images. Distance 0: equal distributions; 1: no overlap."""

    quantity: str
    test: tuple[float, float]  # mean and standard deviation
    incoming: tuple[float, float]
    distance: float  # Kolmogorov-Smirnov: the largest gap between the cumulative distributions
    chance: float  # p-value of the distance, corrected for all rows; at most 1
    verdict: Literal["ok", "drift"]


@dataclass(frozen=True)
class Comparison:
    """Outcome of a drift check: the verdict, its reason, and the compared quantities."""

    drifted: bool
    reason: str  # one sentence without a full stop
    rows: tuple[DriftRow, ...]  # reconstruction error, then latents by falling distance


def compare(test: Measured, incoming: Measured, config: DriftConfig) -> Comparison:
    """Find drift: a distance above `config.max_distance` with a corrected p-value below LEVEL.

    Uses two-sample Kolmogorov-Smirnov tests with Bonferroni's correction. Test images without
    finite measurements are left out; incoming images without finite measurements are drift.
    """
    num = len(incoming.errors)
    if num < config.min_images:
        reason = f"{num} new images are too few: at least {config.min_images} are needed"
        return Comparison(False, reason, ())
    broken = num - int(_finite(incoming).sum())
    if broken:
        reason = f"{broken} of {num} new images are not reconstructed to finite numbers"
        return Comparison(True, reason, ())
    test = Measured(test.errors[_finite(test)], test.latents[_finite(test)])
    num_tests = 1 + test.latents.shape[1]
    error = _row("reconstruction error", test.errors, incoming.errors, num_tests, config)
    pairs = zip(test.latents.T, incoming.latents.T, strict=True)
    latents = [_row(f"latent z{i}", a, b, num_tests, config) for i, (a, b) in enumerate(pairs)]
    latents = sorted(latents, key=lambda row: -row.distance)[:MAX_ROWS]
    rows = (error, *latents)
    return Comparison(any(row.verdict == "drift" for row in rows), _reason(rows, num), rows)


def _finite(measured: Measured) -> np.ndarray:
    """Mask of the images whose error and latents are all finite: bool [N]."""
    return np.asarray(np.isfinite(measured.errors) & np.isfinite(measured.latents).all(axis=1))


def _row(
    quantity: str, test: np.ndarray, incoming: np.ndarray, num_tests: int, config: DriftConfig
) -> DriftRow:
    from scipy.stats import ks_2samp  # imported late: every command reads DriftConfig

    result = ks_2samp(test, incoming, method="asymp")
    distance, chance = float(result.statistic), min(1.0, num_tests * float(result.pvalue))
    drifted = distance > config.max_distance and chance < LEVEL
    return DriftRow(
        quantity,
        (float(test.mean()), float(test.std())),
        (float(incoming.mean()), float(incoming.std())),
        distance,
        chance,
        "drift" if drifted else "ok",
    )


def _reason(rows: Sequence[DriftRow], num: int) -> str:
    drifted = [f"{row.quantity} ({row.distance:.2f})" for row in rows if row.verdict == "drift"]
    if drifted:
        return f"{num} new images differ in {', '.join(drifted)}"
    farthest = max(rows, key=lambda row: row.distance if math.isfinite(row.distance) else 0)
    return f"{num} new images are as the test images; largest distance {farthest.distance:.2f}"
