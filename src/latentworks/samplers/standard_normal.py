"""N(0, I), the prior of variational and adversarial autoencoders."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from latentworks.samplers.latents import checked


@dataclass(frozen=True)
class StandardNormal:
    """Independent latents with mean 0 and variance 1, whatever the latents of the images are."""

    latent_dim: np.ndarray  # int64 []

    @classmethod
    def fit(cls, latents: np.ndarray) -> StandardNormal:
        """Take D from latents, float32 [N, D]. Raises DataError: see `checked`."""
        return cls(np.array(checked(latents).shape[1]))

    def sample(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `num` latents: float32 [num, D]."""
        return rng.standard_normal((num, int(self.latent_dim))).astype(np.float32)

    def log_density(self, latents: np.ndarray) -> np.ndarray:
        """The log density at latents [N, D]: float64 [N], in nats."""
        squares = np.square(latents, dtype=np.float64).sum(axis=1)
        return np.asarray(-squares / 2 - self.latent_dim / 2 * np.log(2 * np.pi))

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that define the sampler, by name."""
        return asdict(self)
