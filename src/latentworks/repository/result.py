"""The files of a result, and the digests that identify it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentworks.repository import dag
from latentworks.system import disk


@dataclass(frozen=True)
class Outputs:
    """The files of one result; None for those that do not exist yet."""

    prepared: Path | None = None
    model: Path | None = None
    latents: Path | None = None
    sampler: Path | None = None
    samples: Path | None = None
    metrics: Path | None = None
    pictures: Path | None = None
    atlas: Path | None = None
    servable: Path | None = None
    features: Path | None = None
    params: dict[str, Any] = field(default_factory=dict)  # sections of params.yaml

    def model_digest(self) -> str:
        assert self.model is not None
        return disk.file_digest(self.model / "model.keras")

    def sampler_digest(self) -> str | None:
        return disk.file_digest(self.sampler / "sampler.npz") if self.sampler else None

    def samples_digest(self) -> str | None:
        """Digest of the latents drawn; it changes with the sampler, their number and the seed."""
        return disk.file_digest(self.samples / "latents.npy") if self.samples else None

    def digest_of(self, stage: str) -> str:
        """Digest that tells whether timings of `stage` belong to this result."""
        if stage in ("sample", "evaluate"):
            return f"{self.model_digest()} {self.samples_digest()}"
        return self.model_digest()


def recorded_outputs(root: Path) -> Outputs | None:
    """Return the result that dvc.lock records in a checkout; None without a trained model."""
    stages = dag.recorded(root)
    if "train" not in stages:
        return None
    sections: dict[str, Any] = {}
    for stage in stages.values():
        sections |= stage.params

    def outs(stage: str, num: int) -> list[Path | None]:
        return [*stages[stage].outs] if stage in stages else [None] * num

    (prepared,) = outs("prepare", 1)
    (model,) = outs("train", 1)
    (latents,) = outs("encode", 1)
    sampler, samples = outs("sample", 2)
    _, pictures, atlas, metrics = outs("evaluate", 4)
    (servable,) = outs("export", 1)
    (features,) = outs("features", 1)
    return Outputs(
        prepared,
        model,
        latents,
        sampler,
        samples,
        metrics,
        pictures,
        atlas,
        servable,
        features,
        sections,
    )
