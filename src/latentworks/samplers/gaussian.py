"""One Gaussian with a full covariance."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.linalg import solve_triangular

from latentworks.samplers.latents import checked, standardised

# Added to the variance of every standardised latent, as in scikit-learn's mixtures, so that the
# covariance has a Cholesky factor even if a dimension is constant or repeated. The standard
# deviation that it adds is 1/1000 of the scale.
REGULARISATION = 1e-6


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution, given by its mean and the lower Cholesky factor of its covariance."""

    mean: np.ndarray  # float64 [D]
    cholesky: np.ndarray  # float64 [D, D]

    @classmethod
    def fit(cls, latents: np.ndarray) -> Gaussian:
        """Fit by maximum likelihood to latents, float32 [N, D]. Raises DataError: see `checked`."""
        from threadpoolctl import threadpool_limits  # imported here: a server does not fit

        z, mean, scale = standardised(checked(latents))
        # With more threads, the last digits would depend on the number of cores.
        with threadpool_limits(1):
            covariance = z.T @ z / len(z) + REGULARISATION * np.eye(z.shape[1])
            return cls(mean, scale[:, None] * np.linalg.cholesky(covariance))

    def sample(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `num` latents: float32 [num, D]."""
        noise = rng.standard_normal((num, len(self.mean)))
        return np.asarray(self.mean + noise @ self.cholesky.T, dtype=np.float32)

    def log_density(self, latents: np.ndarray) -> np.ndarray:
        """The log density at latents [N, D]: float64 [N], in nats."""
        white = solve_triangular(self.cholesky, (latents - self.mean).T, lower=True)  # [D, N]
        log_norm = np.log(np.diag(self.cholesky)).sum() + len(self.mean) / 2 * np.log(2 * np.pi)
        return np.asarray(-(white**2).sum(axis=0) / 2 - log_norm)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that define the sampler, by name."""
        return asdict(self)
