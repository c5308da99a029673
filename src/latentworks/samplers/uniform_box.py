"""Uniform over the observed range of each latent: the book's way, and a baseline to beat."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from latentworks.samplers.latents import checked


@dataclass(frozen=True)
class UniformBox:
    """The smallest box around the latents."""

    low: np.ndarray  # float64 [D]
    high: np.ndarray  # float64 [D]

    @classmethod
    def fit(cls, latents: np.ndarray) -> UniformBox:
        """The range of latents: float32 [N, D]. Raises DataError where they cannot be used."""
        latents = checked(latents)
        return cls(latents.min(axis=0), latents.max(axis=0))

    def sample(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `num` latents: float32 [num, D]."""
        return rng.uniform(self.low, self.high, (num, len(self.low))).astype(np.float32)

    def log_density(self, latents: np.ndarray) -> np.ndarray:
        """float64 [N], in nats: minus the logarithm of the volume inside, -inf outside.

        A constant dimension counts as 1 wide where the value is met, since it has no density.
        """
        width = np.where(self.high > self.low, self.high - self.low, 1.0)
        inside = ((latents >= self.low) & (latents <= self.high)).all(axis=1)
        return np.where(inside, -np.log(width).sum(), -np.inf)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that make it, by name."""
        return asdict(self)
