"""A uniform distribution over the range of each latent (Foster): a baseline."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from latentworks.samplers.latents import checked


@dataclass(frozen=True)
class UniformBox:
    """The uniform distribution on the smallest box around the latents."""

    low: np.ndarray  # float64 [D]
    high: np.ndarray  # float64 [D]

    @classmethod
    def fit(cls, latents: np.ndarray) -> UniformBox:
        """Fit to latents, float32 [N, D]. Raises DataError: see `checked`."""
        latents = checked(latents)
        return cls(latents.min(axis=0), latents.max(axis=0))

    def sample(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `num` latents: float32 [num, D]."""
        return rng.uniform(self.low, self.high, (num, len(self.low))).astype(np.float32)

    def log_density(self, latents: np.ndarray) -> np.ndarray:
        """The log density at latents [N, D]: float64 [N], in nats; -log(volume) inside, else -inf.

        A constant dimension has no density. Its width counts as 1, and only its value is inside.
        """
        width = np.where(self.high > self.low, self.high - self.low, 1.0)
        inside = ((latents >= self.low) & (latents <= self.high)).all(axis=1)
        return np.where(inside, -np.log(width).sum(), -np.inf)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that define the sampler, by name."""
        return asdict(self)
