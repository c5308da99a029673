"""What was measured of one model, and how it is kept."""

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
    resample is the same for every model on the same data. None where it does not depend on them.
    `reference`: what it is on the same data for the mean image, for real images, or at best.
    """

    value: float
    replicates: np.ndarray | None = None
    reference: float | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Score) and self.to_json() == other.to_json()

    def usable(self) -> float:
        """The value; nan where anything of the score is nan or infinite."""
        parts = [
            self.value,
            self.reference or 0.0,
            *(() if self.replicates is None else self.replicates),
        ]
        return self.value if np.isfinite(parts).all() else math.nan

    def to_json(self) -> dict[str, Any]:
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
    """JSON has no nan and no inf; `float` reads them from text."""
    return float(value) if math.isfinite(value) else str(float(value))


@dataclass(frozen=True)
class Scores:
    """All that is measured of one model."""

    data: str  # fingerprint of the data it was measured on
    scorer: str  # digest of the code that measured
    metrics: dict[str, Score]
    size_mb: float
    latency_ms: dict[str, float] = field(compare=False)  # by the number of latents decoded

    def to_json(self) -> dict[str, Any]:
        """For a JSON file; `from_json` gives an equal one back."""
        metrics = {name: score.to_json() for name, score in self.metrics.items()}
        return {**vars(self), "metrics": metrics, "latency_ms": dict(self.latency_ms)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Scores":
        metrics = {name: Score.from_json(score) for name, score in fields["metrics"].items()}
        return cls(**{**fields, "metrics": metrics})


def scorer_digest() -> str:
    """12 hexadecimal digits of the code that measures: what other code measured does not compare.

    Of the files, without importing the libraries that they need.
    """
    here = Path(__file__).parent
    files = [*sorted((here.parent / "metrics").glob("*.py")), here / "scoring.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
