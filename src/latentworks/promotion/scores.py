"""The scores of a model, as the gate records them."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Score:
    """One metric of one model.

    `replicates`: float64 [B], the metric on B bootstrap resamples of the test images; the b-th
    resample is the same for every model on the same data. None for a metric without resamples.
    `reference`: a value on the same data for comparison: the metric of the mean image, the metric
    of real images, or the best possible value.
    """

    value: float
    replicates: np.ndarray | None = None
    reference: float | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Score) and self.to_json() == other.to_json()

    def usable(self) -> float:
        """Return the value, or nan if any number of the score is nan or infinite."""
        parts = [
            self.value,
            self.reference or 0.0,
            *(() if self.replicates is None else self.replicates),
        ]
        return self.value if np.isfinite(parts).all() else math.nan

    def to_json(self) -> dict[str, object]:
        replicates = None if self.replicates is None else [*map(_to_json, self.replicates)]
        reference = None if self.reference is None else _to_json(self.reference)
        return {"value": _to_json(self.value), "reference": reference, "replicates": replicates}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Score":
        replicates, reference = fields["replicates"], fields["reference"]
        return cls(
            float(fields["value"]),
            None if replicates is None else np.array([*map(float, replicates)], np.float64),
            None if reference is None else float(reference),
        )


def _to_json(value: float) -> float | str:
    """Return a number, or nan and inf as text, which JSON lacks as numbers and `float` reads."""
    return float(value) if math.isfinite(value) else str(float(value))


@dataclass(frozen=True)
class Scores:
    """All scores of one model."""

    data: str  # fingerprint of the prepared images
    scorer: str  # digest of the code that measured the scores
    metrics: dict[str, Score]
    size_mb: float
    latency_ms: dict[str, float] = field(compare=False)  # by number of decoded latents

    def to_json(self) -> dict[str, object]:
        """Return fields for a JSON file, from which `from_json` makes equal scores."""
        metrics = {name: score.to_json() for name, score in self.metrics.items()}
        return {**vars(self), "metrics": metrics, "latency_ms": dict(self.latency_ms)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Scores":
        metrics = {name: Score.from_json(score) for name, score in fields["metrics"].items()}
        return cls(**{**fields, "metrics": metrics})


def scorer_digest() -> str:
    """Return 12 hexadecimal digits that identify the code of the scores.

    Scores of different code cannot be compared. The digest is of the files, so that their libraries
    need not be imported.
    """
    here = Path(__file__).parent
    files = [*sorted((here.parent / "metrics").glob("*.py")), here / "scoring.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
