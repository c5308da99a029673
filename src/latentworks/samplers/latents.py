"""What every sampler asks of the latents that it is fitted to."""

import numpy as np

from latentworks.errors import DataError


def checked(latents: np.ndarray) -> np.ndarray:
    """The latents as float64 [N, D]. Raises DataError if there are none, or some are not finite."""
    if len(latents) == 0:
        raise DataError("a sampler needs latents to fit. Expected at least 1. Received: 0.")
    bad = ~np.isfinite(latents).all(axis=1)
    if bad.any():
        raise DataError(
            f"a sampler needs finite latents. Received: {bad.sum()} of {len(latents)} latents with "
            f"NaN or infinity. Train again with a lower train.learning_rate."
        )
    return latents.astype(np.float64)


def standardised(latents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The latents with mean 0 and variance 1 in each dimension, then that mean and scale: [D].

    A covariance is regularised by a fixed amount, which fits only latents of a known scale.
    A constant dimension has no scale; it keeps 1, so that it can be divided by.
    """
    mean = latents.mean(axis=0)
    scale = np.where(np.ptp(latents, axis=0) > 0, latents.std(axis=0), 1.0)
    return (latents - mean) / scale, mean, scale
