"""The result of a checkout: outs that belong together, and the digests that identify it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentworks.repository import dag
from latentworks.system import disk

if TYPE_CHECKING:
    from latentworks.params import RawSections


@dataclass(frozen=True)
class Result:
    """The outs of one result by name, and the sections of params.yaml that made them.

    Outs that do not exist yet are missing.
    """

    outs: dict[str, Path]
    params: RawSections = field(default_factory=dict)

    @classmethod
    def of(cls, *outs: Path) -> Result:
        """Return the result with these outs."""
        return cls(dag.by_name(outs))

    def model_digest(self) -> str:
        return disk.file_digest(self.outs["autoencoder"] / "model.keras")

    def sampler_digest(self) -> str | None:
        folder = self.outs.get("sampler")
        return disk.file_digest(folder / "sampler.npz") if folder else None

    def samples_digest(self) -> str | None:
        """Digest of the latents drawn; it changes with the sampler, their number and the seed."""
        folder = self.outs.get("samples")
        return disk.file_digest(folder / "latents.npy") if folder else None

    def prior_digest(self) -> str | None:
        folder = self.outs.get("prior")
        return "-".join(map(disk.file_digest, sorted(folder.iterdir()))) if folder else None

    def digest_for(self, stage: dag.Stage) -> str | None:
        """Digest that tells whether timings of a stage of dvc.yaml belong to this result.

        It is made from the last of the identifying outs that the stage reads or writes; None if
        this result lacks that out.
        """
        touched = {Path(path).stem for path in dag.files_of(stage)}
        if "samples" in touched:
            samples = self.samples_digest()
            return samples and f"{self.model_digest()} {samples}"
        if "prior" in touched:
            prior = self.prior_digest()
            return prior and f"{self.model_digest()} {prior}"
        if "autoencoder" in touched:
            return self.model_digest() if "autoencoder" in self.outs else None
        if "prepared" not in self.outs:
            return None
        profile = disk.read_json(self.outs["prepared"] / "profile.json")
        return str(profile["fingerprint" if "prepared" in touched else "source"])


def flat(nested: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    """Return nested scores or sections by dotted names: {"a": {"b": 1}} becomes {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        dotted = f"{prefix}{name}"
        found |= flat(value, f"{dotted}.") if isinstance(value, dict) else {dotted: value}
    return found


def recorded_result(root: Path) -> Result | None:
    """Return the result that dvc.lock records in a checkout; None without a trained model."""
    outs: dict[str, Path] = {}
    sections: RawSections = {}
    for stage in dag.recorded(root).values():
        outs |= stage.outs
        sections |= stage.params
    return Result(outs, sections) if "autoencoder" in outs else None
