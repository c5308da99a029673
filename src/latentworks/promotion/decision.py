"""The decision of the gate: does the challenger replace the champion?

The functions are pure: they compare recorded scores, and use neither a disk nor MLflow. To gate
another metric, add it to METRICS, Margins, FirstLimits, `promotion` in params.yaml and
`scoring.score`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from latentworks.config import Config
from latentworks.errors import RegistryError
from latentworks.promotion.scores import Score, Scores

BAND = (2.5, 97.5)  # percentiles: the 95 % band
ROUNDING = 1e-9  # relative: a loss of 7 from 100 is within 0.07, although 0.07 * 100 exceeds 7


@dataclass(frozen=True)
class Metric:
    """The rule for a metric."""

    better: Literal[-1, 1]  # -1: lower is better, 1: higher is better
    reference: str  # name of the value with which a first model is compared
    optional: bool = False  # absent if the data has no such score
    enough: float = math.inf  # values above this count as equal to this


METRICS = {
    "mse": Metric(-1, "the mean image's"),
    "sliced_wasserstein": Metric(-1, "real against real"),
    "active_units": Metric(1, "all latents"),
    "memorisation": Metric(1, "that of fresh images", optional=True, enough=1.0),
}

Share = Annotated[float, Field(ge=0, le=1)]
Margin = Annotated[float, Field(ge=0)]


class Margins(Config):
    """The allowed loss of each metric, as a share of the champion's value."""

    mse: Margin
    sliced_wasserstein: Margin
    active_units: Margin
    memorisation: Margin


class FirstLimits(Config):
    """Limits of a first model, which has no champion to replace, as multiples of the references."""

    mse: Annotated[float, Field(gt=0, le=1)]
    sliced_wasserstein: Annotated[float, Field(ge=1)]
    active_units: Share
    memorisation: Share


class PromotionConfig(Config):
    """The conditions for a promotion. `metric` must get better, the others stay within margins."""

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    metric: Literal["mse", "sliced_wasserstein", "active_units", "memorisation"]
    margins: Margins
    first: FirstLimits


# --- the decision --------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricRow:
    """One metric of a decision. Unusable values are nan."""

    metric: str
    challenger: float
    champion: float | None  # None for a first model
    reference: float | None  # with which a first model is compared
    gain: float | None  # in % of the champion's value; positive if the challenger is better
    band: tuple[float, float] | None  # 95 % band of the gain over resamples of the test images
    limit: float | None  # the worst value allowed; None for the metric that must get better
    verdict: Literal["better", "ok", "not better", "worse"]


@dataclass(frozen=True)
class Decision:
    """The verdict on a challenger, with its reason."""

    promoted: bool
    reason: str  # one sentence without a full stop; of a refusal, all metrics that failed
    rows: tuple[MetricRow, ...]


def decide(challenger: Scores, champion: Scores | None, config: PromotionConfig) -> Decision:
    """Compare a challenger with the champion, or with the limits of a first model.

    The challenger replaces the champion if `config.metric` is better in the whole 95 % band of
    paired bootstrap differences (Efron and Tibshirani 1993, ch. 13) and no other metric is worse
    by more than its margin. Raises RegistryError if the scores cannot be compared.
    """
    names = _comparable(challenger, champion, config.metric)
    ours = challenger.metrics
    if champion is None:
        rows = [_within_limit(name, ours[name], config) for name in names]
    else:
        rows = [_against(name, ours[name], champion.metrics[name], config) for name in names]
    failed = [_sentence(row) for row in rows if row.verdict not in ("better", "ok")]
    remark = "" if champion is None else _remark(ours["mse"], config.first)
    if failed:
        return Decision(False, "; ".join(failed) + remark, tuple(rows))
    if champion is None:
        values = (f"{row.metric} {number(row.challenger)}" for row in rows)
        reason = f"a first model, within its limits: {', '.join(values)}"
    else:
        (won,) = (_sentence(row) for row in rows if row.metric == config.metric)
        reason = f"{won}; nothing else is worse beyond its margin"
    return Decision(True, reason + remark, tuple(rows))


def _comparable(challenger: Scores, champion: Scores | None, declared: str) -> list[str]:
    """Return the metrics to compare, in the order of METRICS. Raises RegistryError."""
    scored = {"challenger": challenger} | ({"champion": champion} if champion else {})
    for basis in ("data", "scorer"):
        digests = [getattr(scores, basis) for scores in scored.values()]
        if digests[0] != digests[-1]:
            raise RegistryError(
                f"Challenger and champion were not scored with the same {basis}. "
                f"Received: {' and '.join(digests)}. Score both again."
            )
    # The data decides on an optional metric, so that both models have it or neither does.
    needed = {name for name, metric in METRICS.items() if not metric.optional} | {declared}
    present = needed.union(*(scores.metrics for scores in scored.values()))
    if unknown := present - set(METRICS):
        raise RegistryError(
            f"The gate has no rule for the metric {', '.join(sorted(unknown))}. Add it to METRICS."
        )
    for role, scores in scored.items():
        if missing := present - set(scores.metrics):
            raise RegistryError(
                f"The {role} has no score for {', '.join(sorted(missing))}. Expected a score for "
                "every compared metric. Score it again, or declare another promotion.metric."
            )
    return [name for name in METRICS if name in present]


def _within_limit(name: str, score: Score, config: PromotionConfig) -> MetricRow:
    """Compare a metric of a first model with a multiple of its reference."""
    value, reference = score.usable(), score.reference
    limit = math.nan if reference is None else getattr(config.first, name) * reference
    # If the value or the limit is nan, the comparison is False.
    within = METRICS[name].better * (value - limit) >= -ROUNDING * abs(limit)
    return MetricRow(name, value, None, reference, None, None, limit, "ok" if within else "worse")


def _against(name: str, ours: Score, theirs: Score, config: PromotionConfig) -> MetricRow:
    """Compare a metric of the challenger with that of the champion."""
    better, margin = METRICS[name].better, getattr(config.margins, name)
    value, base = (min(each.usable(), METRICS[name].enough) for each in (ours, theirs))
    gain, loss = better * (value - base), margin * abs(base)  # the largest loss allowed
    band = _band(name, ours, theirs)
    low, high = band or (gain, gain)
    verdict: Literal["better", "ok", "not better", "worse"]
    # If a value is nan, all these comparisons are False.
    if gain > 0 and low > 0:
        verdict = "better"
    elif name == config.metric:
        verdict = "not better" if high >= 0 else "worse"
    else:
        verdict = "ok" if gain >= -loss - ROUNDING * abs(base) else "worse"
    limit = None if name == config.metric else base - better * loss
    share = 100 / abs(base) if base else math.nan
    in_percent = None if math.isnan(gain * share) else gain * share
    percents = None if band is None or in_percent is None else (low * share, high * share)
    values = ours.usable(), theirs.usable()
    return MetricRow(name, *values, ours.reference, in_percent, percents, limit, verdict)


def _band(name: str, ours: Score, theirs: Score) -> tuple[float, float] | None:
    """Return the 95 % band of paired gains; None if replicates are missing or unusable."""
    first, second = ours.replicates, theirs.replicates
    sizes = [None if each is None else len(each) for each in (first, second)]
    if sizes[0] != sizes[1]:
        raise RegistryError(
            f"The replicates of {name} cannot be paired. Received: {sizes[0]} of the challenger "
            f"and {sizes[1]} of the champion. Score both again."
        )
    if first is None or second is None or math.isnan(ours.usable() + theirs.usable()):
        return None
    first, second = (np.minimum(each, METRICS[name].enough) for each in (first, second))
    low, high = np.percentile(METRICS[name].better * (first - second), BAND)
    return float(low), float(high)


# --- the reason in words -------------------------------------------------------------------------


def _sentence(row: MetricRow) -> str:
    """Return a row in words."""
    for role, value in {"challenger": row.challenger, "champion": row.champion}.items():
        if value is not None and not math.isfinite(value):
            return f"{row.metric} of the {role} is not a finite number"
    ours = number(row.challenger)
    if row.champion is None:
        side = "at most" if METRICS[row.metric].better < 0 else "at least"
        problem = "" if row.verdict == "ok" else "is not within its limit: "
        of = f"{METRICS[row.metric].reference} {number(row.reference)}"
        return f"{row.metric} {problem}{ours}, {side} {number(row.limit)} allowed ({of})"
    problem = {
        "not better": "is not better beyond chance: " if row.band else "is not better: ",
        "worse": "is worse: " if row.limit is None else "is worse beyond its margin: ",
    }.get(row.verdict, "")
    return f"{row.metric} {problem}{ours} against {number(row.champion)}{_gain(row)}"


def _remark(mse: Score, first: FirstLimits) -> str:
    """Return a clause about reconstructions that no first model would be promoted with; else ""."""
    if mse.reference is None or not mse.value > first.mse * mse.reference:
        return ""
    return "; its reconstructions are hardly better than the mean image"


def _gain(row: MetricRow) -> str:
    """Return the gain in words: ", better by 8.3 % (95 % band 7.9 to 8.8 %)", or "worse by"."""
    if row.gain is None or (row.gain == 0 and row.band is None):
        return ""
    sign = -1 if row.gain < 0 else 1
    text = f", {'worse' if row.gain < 0 else 'better'} by {percent(sign * row.gain)} %"
    if row.band is None:
        return text
    return f"{text} (95 % band {span(tuple(sorted(sign * edge for edge in row.band)))} %)"


def span(band: tuple[float, ...]) -> str:
    return f"{percent(band[0])} to {percent(band[1])}"


def percent(value: float) -> str:
    rounded = round(value, 1 if abs(value) >= 1 else 2) + 0.0  # not -0.0
    return f"{rounded:.1f}" if abs(value) >= 1 else f"{rounded:.2f}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
