"""A mixture of Gaussians, fitted by scikit-learn. Sampling needs its arrays alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.special import logsumexp

from latentworks.errors import DataError
from latentworks.samplers.gaussian import REGULARISATION, Gaussian
from latentworks.samplers.latents import checked, standardised

MAX_ITERATIONS = 300  # 50 components on 60 000 latents converge in 11 (2-D) to 52 (16-D)
HELD_OUT = 0.1  # share of the latents for choosing the number of components


@dataclass(frozen=True)
class GaussianMixture:
    """Gaussians with weights that sum to 1."""

    weights: np.ndarray  # float64 [K]
    means: np.ndarray  # float64 [K, D]
    choleskys: np.ndarray  # float64 [K, D, D], lower

    @classmethod
    def fit(
        cls, latents: np.ndarray, num_components: int | Sequence[int], seed: int
    ) -> GaussianMixture:
        """Fit to latents, float32 [N, D], by expectation maximisation from a k-means start.

        If `num_components` is a list, the number with the highest likelihood of held-out latents
        is used. Raises DataError if there are fewer distinct latents than components.
        """
        latents = checked(latents)
        if not isinstance(num_components, int):
            num_components = cls._likeliest(latents, num_components, seed)
        # Imported here: a server does not fit, and has no scikit-learn.
        from sklearn import mixture
        from sklearn.exceptions import ConvergenceWarning
        from threadpoolctl import threadpool_limits  # it comes with scikit-learn

        z, mean, scale = standardised(latents)
        num_distinct = len(np.unique(z, axis=0))
        if num_distinct < num_components:
            raise DataError(
                f"gaussian_mixture needs at least num_components latents. Expected >= "
                f"{num_components}. Received: {num_distinct} distinct latents. "
                f"Lower sample.sampler.num_components."
            )
        if len(z) == 1:  # scikit-learn needs at least two
            only = Gaussian.fit(latents)
            return cls(np.ones(1), only.mean[None], only.cholesky[None])
        expectation_maximisation = mixture.GaussianMixture(
            num_components, reg_covar=REGULARISATION, max_iter=MAX_ITERATIONS, random_state=seed
        )
        # With more threads, the last digits would depend on the number of cores.
        with threadpool_limits(1), warnings.catch_warnings():
            # A mixture that has not converged after MAX_ITERATIONS is good enough.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = expectation_maximisation.fit(z)
            choleskys = scale[:, None] * np.linalg.cholesky(fitted.covariances_)
        return cls(fitted.weights_, mean + scale * fitted.means_, choleskys)

    @classmethod
    def _likeliest(cls, latents: np.ndarray, candidates: Sequence[int], seed: int) -> int:
        """Choose the number of components with the highest mean log density of held-out latents.

        Candidates above the number of distinct latents are skipped. The smallest candidate is
        returned if less than two are left.
        """
        shuffled = np.random.default_rng(seed).permutation(latents)
        num_held_out = math.ceil(len(latents) * HELD_OUT)
        held_out, rest = shuffled[:num_held_out], shuffled[num_held_out:]
        num_distinct = len(np.unique(rest, axis=0))
        possible = [num for num in candidates if num <= num_distinct]
        if len(possible) < 2:
            return min(candidates)
        return max(possible, key=lambda num: cls.fit(rest, num, seed).log_density(held_out).mean())

    def sample(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `num` latents: float32 [num, D]."""
        choices = rng.choice(len(self.weights), size=num, p=self.weights)
        latents = rng.standard_normal((num, self.means.shape[1]))
        for k, component in enumerate(self._components()):
            rows = choices == k
            latents[rows] = component.mean + latents[rows] @ component.cholesky.T
        return latents.astype(np.float32)

    def log_density(self, latents: np.ndarray) -> np.ndarray:
        """The log density at latents [N, D]: float64 [N], in nats."""
        log_densities = [component.log_density(latents) for component in self._components()]
        return np.asarray(logsumexp(log_densities, axis=0, b=self.weights[:, None]))

    def _components(self) -> list[Gaussian]:
        return [Gaussian(*arrays) for arrays in zip(self.means, self.choleskys, strict=True)]

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that define the sampler, by name."""
        return asdict(self)
