"""The projection of latents to a plane, in which plots and the atlas draw them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plane:
    """The plane in which latents are drawn.

    With two latents, these are the axes. With more, the plane goes through their mean along the
    first two principal components. With one, the second axis has no meaning.
    """

    origin: np.ndarray  # float64 [D]
    directions: np.ndarray  # float64 [2, D]
    names: tuple[str, str]  # of the axes

    @classmethod
    def of(cls, z: np.ndarray) -> "Plane":
        """Find the plane for latents: float32 [N, D]."""
        latent_dim = z.shape[1]
        if latent_dim <= 2:
            second = "z1" if latent_dim == 2 else "random heights, to tell the points apart"
            return cls(np.zeros(latent_dim), np.eye(2, latent_dim), ("z0", second))
        mean = z.mean(axis=0, dtype=np.float64)
        centred = z - mean
        variances, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
        directions = vectors[:, :-3:-1].T
        # The sign of an eigenvector is arbitrary. This choice is the same on every machine.
        directions *= np.sign(directions[[0, 1], np.abs(directions).argmax(axis=1)])[:, None]
        shares = variances[:-3:-1] / max(variances.sum(), np.finfo(float).tiny)
        first, second = (
            f"principal component {i + 1} ({share:.0%} of the variance)"
            for i, share in enumerate(shares)
        )
        return cls(mean, directions, (first, second))

    def project(self, z: np.ndarray) -> np.ndarray:
        """Project latents [N, D] to points of the plane: float64 [N, 2]."""
        points = (z - self.origin) @ self.directions.T
        if len(self.origin) == 1:
            points[:, 1] = np.random.default_rng(0).random(len(z))
        return np.asarray(points)

    def lift(self, points: np.ndarray) -> np.ndarray:
        """Lift points of the plane [M, 2] to latents: float32 [M, D]."""
        return np.asarray(self.origin + points @ self.directions, dtype=np.float32)
