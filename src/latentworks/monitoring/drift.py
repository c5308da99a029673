"""Are the images that come in still what the model was made from?

Pure: it compares numbers that were measured before. Two distances are asked for more than one
reason: large ones matter, and those beyond chance are real; drift is both.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from latentworks.config import Config

LEVEL = 0.001  # of false alarms, in all rows of a check together: one in three years of daily ones
MAX_ROWS = 8  # latents that are shown, those that moved the most


class DriftConfig(Config):
    """When images that came in are not what the model was made from."""

    min_images: Annotated[int, Field(ge=10)]
    max_distance: Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Measured:
    """What the champion makes of images."""

    errors: np.ndarray  # float32 [N], mean squared errors of reconstruction, pixels in [0, 1]
    latents: np.ndarray  # float32 [N, D]


@dataclass(frozen=True)
class Row:
    """One quantity of both. A distance is 0 where both are alike and 1 where they are apart."""

    quantity: str
    test: tuple[float, float]  # mean and standard deviation
    incoming: tuple[float, float]
    distance: float  # Kolmogorov-Smirnov: the largest gap between the cumulative distributions
    chance: float  # how probable such a gap is without drift, for all rows together; at most 1
    verdict: Literal["ok", "drift"]


@dataclass(frozen=True)
class Comparison:
    """Whether incoming images differ from test images, and in what."""

    drifted: bool
    reason: str  # one sentence without its full stop
    rows: tuple[Row, ...]  # reconstruction error first, then latents, the farthest first


def compare(test: Measured, incoming: Measured, config: DriftConfig) -> Comparison:
    """Drift is a distance above `config.max_distance` that is beyond chance.

    Two-sample Kolmogorov-Smirnov tests with Bonferroni's correction. Test images without a finite
    error are left out; incoming ones are drift.
    """
    num = len(incoming.errors)
    if num < config.min_images:
        reason = f"too few new images to tell: {num}, at least {config.min_images} are needed"
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
    """Which images have only finite numbers: bool [N]."""
    return np.asarray(np.isfinite(measured.errors) & np.isfinite(measured.latents).all(axis=1))


def _row(
    quantity: str, test: np.ndarray, incoming: np.ndarray, num_tests: int, config: DriftConfig
) -> Row:
    from scipy.stats import ks_2samp  # here, since the configs are read on every command

    found = ks_2samp(test, incoming, method="asymp")
    distance, chance = float(found.statistic), min(1.0, num_tests * float(found.pvalue))
    drifted = distance > config.max_distance and chance < LEVEL
    return Row(
        quantity,
        (float(test.mean()), float(test.std())),
        (float(incoming.mean()), float(incoming.std())),
        distance,
        chance,
        "drift" if drifted else "ok",
    )


def _reason(rows: Sequence[Row], num: int) -> str:
    found = [f"{row.quantity} ({row.distance:.2f})" for row in rows if row.verdict == "drift"]
    if found:
        return f"{num} new images differ in {', '.join(found)}"
    farthest = max(rows, key=lambda row: row.distance if math.isfinite(row.distance) else 0)
    return f"{num} new images are as the test images; largest distance {farthest.distance:.2f}"
