"""The choice between two versions: does the challenger replace the champion?

Pure: it compares numbers that were measured before, and touches neither a disk nor MLflow.
To gate another metric, add it to METRICS, to `promotion` in params.yaml and to `scoring.score`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, create_model

from latentworks.config import Config
from latentworks.errors import RegistryError
from latentworks.promotion.scores import Score, Scores

BAND = (2.5, 97.5)  # percentiles: the 95 % band
ROUNDING = 1e-9  # relative: 7 of 100 is a loss of 0.07, although 0.07 * 100 is above 7


@dataclass(frozen=True)
class Metric:
    """How a metric is judged. The limit of a first model is a multiple of its reference."""

    better: Literal[-1, 1]  # -1: lower, 1: higher
    reference: str  # what a first model is measured against
    limit: Any  # the range of that multiple
    optional: bool = False  # absent where the data has nothing to compare
    enough: float = math.inf  # where higher is better: what is above this is no better than this


METRICS = {
    "mse": Metric(-1, "the mean image's", Field(gt=0, le=1)),
    "sliced_wasserstein": Metric(-1, "real against real", Field(ge=1)),
    "active_units": Metric(1, "all latents", Field(ge=0, le=1)),
    "memorisation": Metric(1, "that of fresh images", Field(ge=0, le=1), optional=True, enough=1.0),
}

_MARGIN = Annotated[float, Field(ge=0)]
_margins: dict[str, Any] = dict.fromkeys(METRICS, _MARGIN)
_limits: dict[str, Any] = {name: Annotated[float, each.limit] for name, each in METRICS.items()}
Margins = create_model("Margins", __base__=Config, **_margins)
FirstLimits = create_model("FirstLimits", __base__=Config, **_limits)


class PromotionConfig(Config):
    """What a challenger must reach.

    `margins`: how much worse each metric may get, as a share of the champion's value.
    `first`: the limits of a model without a champion, as multiples of the references in METRICS.
    """

    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    # mypy does not follow types that are made from a table.
    metric: Literal[*METRICS]  # type: ignore[valid-type]
    margins: Margins  # type: ignore[valid-type]
    first: FirstLimits  # type: ignore[valid-type]


# --- what is decided -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One metric of a decision. A value that cannot be used is nan."""

    metric: str
    challenger: float
    champion: float | None  # None for a first model
    reference: float | None  # what a first model is measured against
    gain: float | None  # in % of the champion's value, above 0 where the challenger is better
    band: tuple[float, float] | None  # of 95 % of the gains over resamples of the test images
    limit: float | None  # the worst value allowed; None for the metric that must get better
    verdict: Literal["better", "ok", "not better", "worse"]


@dataclass(frozen=True)
class Decision:
    """Whether the challenger becomes champion, and why."""

    promoted: bool
    reason: str  # one sentence without its full stop; where refused, all that failed
    rows: tuple[Row, ...]


def decide(challenger: Scores, champion: Scores | None, config: PromotionConfig) -> Decision:
    """Compare a challenger with the champion, or with the limits of a first model.

    It replaces a champion where `config.metric` is better in the whole 95 % band of paired
    bootstrap differences (Efron and Tibshirani 1993, ch. 13) and no other metric is worse by more
    than its margin. Raises RegistryError where the two cannot be compared.
    """
    names = _comparable(challenger, champion, config.metric)
    ours = challenger.metrics
    if champion is None:
        rows = [_within_limit(name, ours[name], config) for name in names]
    else:
        rows = [_against(name, ours[name], champion.metrics[name], config) for name in names]
    failed = [_sentence(row) for row in rows if row.verdict not in ("better", "ok")]
    if failed:
        return Decision(False, "; ".join(failed), tuple(rows))
    if champion is None:
        found = (f"{row.metric} {number(row.challenger)}" for row in rows)
        reason = f"a first model, within its limits: {', '.join(found)}"
    else:
        (won,) = (_sentence(row) for row in rows if row.metric == config.metric)
        reason = f"{won}; nothing else is worse beyond its margin"
    return Decision(True, reason, tuple(rows))


def _comparable(challenger: Scores, champion: Scores | None, declared: str) -> list[str]:
    """The metrics of both, in the order of METRICS. Raises RegistryError."""
    scored = {"challenger": challenger} | ({"champion": champion} if champion else {})
    for what in ("data", "scorer"):
        found = [getattr(scores, what) for scores in scored.values()]
        if found[0] != found[-1]:
            raise RegistryError(
                f"challenger and champion were not scored by the same {what}. "
                f"Received: {' and '.join(found)}. Score both again."
            )
    # An optional metric is absent where the data has nothing to compare, so from both or neither.
    needed = {name for name, metric in METRICS.items() if not metric.optional} | {declared}
    present = needed.union(*(scores.metrics for scores in scored.values()))
    if unknown := present - set(METRICS):
        raise RegistryError(f"nothing says how to judge the metric {', '.join(sorted(unknown))}.")
    for role, scores in scored.items():
        if missing := present - set(scores.metrics):
            raise RegistryError(
                f"the {role} has no score for {', '.join(sorted(missing))}. Expected one for each "
                "of the metrics compared. Score it again, or declare another promotion.metric."
            )
    return [name for name in METRICS if name in present]


def _within_limit(name: str, score: Score, config: PromotionConfig) -> Row:
    """A metric of a first model, against a multiple of its reference."""
    value, reference = score.usable(), score.reference
    limit = math.nan if reference is None else getattr(config.first, name) * reference
    # Where one of them is nan, no comparison holds.
    within = METRICS[name].better * (value - limit) >= -ROUNDING * abs(limit)
    return Row(name, value, None, reference, None, None, limit, "ok" if within else "worse")


def _against(name: str, ours: Score, theirs: Score, config: PromotionConfig) -> Row:
    """A metric of the challenger, against the champion's."""
    better, margin = METRICS[name].better, getattr(config.margins, name)
    value, base = (min(each.usable(), METRICS[name].enough) for each in (ours, theirs))
    gain, loss = better * (value - base), margin * abs(base)  # the largest loss allowed
    band = _band(name, ours, theirs)
    low, high = band or (gain, gain)
    verdict: Literal["better", "ok", "not better", "worse"]
    # Where a value is nan, no comparison holds.
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
    found = ours.usable(), theirs.usable()
    return Row(name, *found, ours.reference, in_percent, percents, limit, verdict)


def _band(name: str, ours: Score, theirs: Score) -> tuple[float, float] | None:
    """Where 95 % of the paired gains lie; None without replicates or with unusable ones."""
    first, second = ours.replicates, theirs.replicates
    sizes = [None if each is None else len(each) for each in (first, second)]
    if sizes[0] != sizes[1]:
        raise RegistryError(
            f"the replicates of {name} are not pairs. Received: {sizes[0]} of the challenger and "
            f"{sizes[1]} of the champion. Score both again."
        )
    if first is None or second is None or math.isnan(ours.usable() + theirs.usable()):
        return None
    first, second = (np.minimum(each, METRICS[name].enough) for each in (first, second))
    low, high = np.percentile(METRICS[name].better * (first - second), BAND)
    return float(low), float(high)


# --- how it is told -------------------------------------------------------------------------------


def _sentence(row: Row) -> str:
    """A row in words."""
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


def _gain(row: Row) -> str:
    """ ", better by 8.3 % (95 % band 7.9 to 8.8 %)"; the other way round where it is worse."""
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
