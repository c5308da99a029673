"""Codes of quantised latents: a whole number for each place of a grid (Mentzer et al. 2023).

A place has K numbers, and number k is one of `levels[k]` values from -1 to 1. Its code counts the
values in a mixed radix, so it is below the product of `levels`.
"""

import numpy as np

MAX_ROWS = 4096  # that are converted at once; bounds the memory


def to_codes(latents: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Convert latents, float32 [N, P * K], to the codes of the nearest values: int16 [N, P]."""
    steps, worth = np.asarray(levels) - 1, _worth(levels)
    codes = np.empty((len(latents), latents.shape[1] // len(steps)), np.int16)
    for start in range(0, len(latents), MAX_ROWS):
        rows = latents[start : start + MAX_ROWS]
        places = (rows.reshape(*codes[start : start + MAX_ROWS].shape, -1) + 1) / 2 * steps
        codes[start : start + MAX_ROWS] = np.rint(places).clip(0, steps) @ worth
    return codes


def to_latents(codes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Convert codes, int16 [N, P], to latents: float32 [N, P * K]."""
    sizes = np.asarray(levels)
    numbers = np.arange(sizes.prod())[:, None] // _worth(levels) % sizes
    values = (numbers / (sizes - 1) * 2 - 1).astype(np.float32)  # [V, K], of each code
    return np.asarray(values[codes].reshape(len(codes), codes.shape[1] * len(sizes)))


def _worth(levels: np.ndarray) -> np.ndarray:
    """The worth of each of the K numbers of a place in its code: int64 [K]."""
    return np.cumprod([1, *levels[:-1]])
