"""The arguments of a sweep: params, each with its values or with a range."""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latentworks.errors import ParamsError
from latentworks.params import recipes

DECADE = 10  # a range whose ends differ by this factor is searched on a logarithmic scale
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})\.\.({NUMBER})")

Values = dict[str, Any]  # by the dotted name of a param, such as {"model.latent_dim": 16}


@dataclass(frozen=True)
class Choices:
    """A param with values to choose from."""

    name: str
    values: tuple[Any, ...]

    @property
    def tried(self) -> tuple[Any, ...]:
        """The values that are validated before the first trial."""
        return self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


@dataclass(frozen=True)
class Range:
    """A param with a lowest and a highest value: both whole numbers, or both not."""

    name: str
    low: float
    high: float

    @property
    def tried(self) -> tuple[Any, ...]:
        """The values that are validated before the first trial."""
        return self.low, self.high

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def is_logarithmic(self) -> bool:
        return self.low > 0 and self.high >= DECADE * self.low

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


Axis = Choices | Range


def parse(arguments: Sequence[str], *, with_ranges: bool) -> list[Axis]:
    """Read arguments such as `model.latent_dim=8,16` or `train.learning_rate=0.0005..0.005`.

    Raises ParamsError for anything else, and for a range unless `with_ranges`.
    """
    axes = [_axis(argument) for argument in arguments]
    names = [axis.name for axis in axes]
    for axis in axes:
        if names.count(axis.name) > 1:
            raise ParamsError(f"{axis.name} is given twice. Write all its values in one argument.")
        if isinstance(axis, Range) and not with_ranges:
            raise ParamsError(
                f"{axis.name} has a range, of which a grid does not know the values. Received: "
                f"{axis}. List values, such as {axis.name}={axis.low},{axis.high}, or add --trials."
            )
    return axes


def _axis(argument: str) -> Axis:
    name, _, text = argument.partition("=")
    if not name or not text:
        raise ParamsError(
            "Expected a param and its values, such as model.latent_dim=8,16. Received: "
            f"{argument!r}."
        )
    if ends := RANGE.fullmatch(text):
        return _range(name, text, recipes.listed(name, f"{ends[1]},{ends[2]}"))
    values = {json.dumps(value, default=str): value for value in recipes.listed(name, text)}
    return Choices(name, tuple(values.values()))


def _range(name: str, text: str, ends: list[Any]) -> Range:
    low, high = ends
    if not low < high:
        raise ParamsError(
            f"{name}: a range is two numbers, the lower one first, such as 0.0005..0.005. "
            f"Received: {text!r}."
        )
    return Range(name, low, high)


def grid(axes: Sequence[Axis]) -> list[Values]:
    """Return all combinations of the values. The last param changes fastest."""
    names = [axis.name for axis in axes]
    combined = itertools.product(*(axis.tried for axis in axes))
    return [dict(zip(names, values, strict=True)) for values in combined]


def one_by_one(axes: Sequence[Axis]) -> list[Values]:
    """Return combinations that have each value, and each end of a range, at least once."""
    first = {axis.name: axis.tried[0] for axis in axes}
    return [first, *({**first, axis.name: value} for axis in axes for value in axis.tried[1:])]
