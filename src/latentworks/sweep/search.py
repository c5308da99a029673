"""A search by Optuna: the values of a trial follow from the scores of those before it.

The records of the trials are all that it remembers: the study is made from them for each trial,
with a seed of that trial. So a sweep that was killed goes on as if it had not been.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentworks.errors import LatentworksError
from latentworks.sweep.axes import Axis, Range, Values
from latentworks.sweep.records import Record
from latentworks.sweep.scores import LOWER, SCORES

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def require_optuna() -> None:
    """Raise LatentworksError unless Optuna is installed."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise LatentworksError(
            "--trials needs Optuna, which is not installed. Run "
            "`pip install 'optuna>=4.5,<6'`. A grid needs nothing: leave --trials out."
        ) from None


def next_values(axes: Sequence[Axis], before: Sequence[Record], by: str, seed: int) -> Values:
    """Return the values of the trial after `before`. Equal arguments give equal values."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed + len(before))
    direction = "minimize" if SCORES[by] == LOWER else "maximize"
    study = optuna.create_study(sampler=sampler, direction=direction)
    distributions = {axis.name: _distribution(axis) for axis in axes}
    states = optuna.trial.TrialState
    for record in before:
        study.add_trial(
            optuna.trial.create_trial(
                state=states.COMPLETE if record.is_finished else states.FAIL,
                params={axis.name: _to_optuna(axis, record.values[axis.name]) for axis in axes},
                distributions=distributions,
                value=record.scores.get(by),
            )
        )
    asked = study.ask(distributions)
    return {axis.name: _from_optuna(axis, asked.params[axis.name]) for axis in axes}


def _distribution(axis: Axis) -> "BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if not isinstance(axis, Range):  # by position: Optuna takes no lists as choices
        return CategoricalDistribution(tuple(range(len(axis.values))))
    if axis.is_whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.is_logarithmic)
    return FloatDistribution(axis.low, axis.high, log=axis.is_logarithmic)


def _to_optuna(axis: Axis, value: Any) -> Any:
    return value if isinstance(axis, Range) else axis.values.index(value)


def _from_optuna(axis: Axis, value: Any) -> Any:
    if not isinstance(axis, Range):
        return axis.values[value]
    return value if axis.is_whole else min(max(float(f"{value:.4g}"), axis.low), axis.high)
