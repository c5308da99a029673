"""Checks and standardisation of the latents that samplers are fitted to."""

import numpy as np

from latentworks.errors import DataError


def checked(latents: np.ndarray) -> np.ndarray:
    """Convert latents to float64 [N, D]. Raises DataError if N is 0, or a latent is not finite."""
    if len(latents) == 0:
        raise DataError("A sampler needs latents to fit. Expected at least 1. Received: 0.")
    bad = ~np.isfinite(latents).all(axis=1)
    if bad.any():
        raise DataError(
            f"A sampler needs finite latents. Received: {bad.sum()} of {len(latents)} latents with "
            f"NaN or infinity. Train again with a lower train.learning_rate."
        )
    return latents.astype(np.float64)


def standardised(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale latents [N, D] to mean 0 and variance 1; return them, and the mean and scale, [D] each.

    Covariances are regularised by a fixed amount, which suits only latents of a known scale. The
    scale of a constant dimension is 1, to avoid division by 0.
    """
    mean = latents.mean(axis=0)
    scale = np.where(np.ptp(latents, axis=0) > 0, latents.std(axis=0), 1.0)
    return (latents - mean) / scale, mean, scale
