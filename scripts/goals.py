"""Goals of a recipe: the section `goal` of its file, such as `test.bce: at most 0.256`.

The key names a score in metrics.json, or the ratio or difference of two scores, such as
`samples.frechet / samples.frechet_floor`.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from latentworks import params
from latentworks.params.recipes import GOAL

OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "/": operator.truediv,
    "-": operator.sub,
}


@dataclass(frozen=True)
class Goal:
    """A bound on a score."""

    side: str  # "at most" or "at least"
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Goal":
        """Parse `at most 0.256` or `at least 0.9`. Raises ValueError."""
        found = re.fullmatch(r"(at most|at least) (-?[\d.]+)", text)
        if found is None:
            raise ValueError(f"A goal is such as `at most 0.256`. Received: {text!r}.")
        return cls(found[1], float(found[2]))

    def reached(self, score: float) -> bool:
        return score <= self.bound if self.side == "at most" else score >= self.bound

    def __str__(self) -> str:
        return f"{self.side} {self.bound:g}"


def goals(recipe: Path) -> dict[str, Goal]:
    """The goals of a recipe, by the name of the score."""
    return {name: Goal.parse(text) for name, text in params.read(recipe).get(GOAL, {}).items()}


def score(name: str, metrics: Mapping[str, float]) -> float:
    """Return the score `name`, or the ratio or difference of two scores if `name` has two."""
    first, *rest = name.split(" ")
    if not rest:
        return metrics[first]
    operation, second = rest
    return OPERATIONS[operation](metrics[first], metrics[second])
