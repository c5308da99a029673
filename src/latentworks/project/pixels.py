"""Colour, transparency and background of images, uint8 [h, w, c]: c is 1 to 4, even with alpha."""

from collections.abc import Sequence

import numpy as np

TINT = 2  # of 255: channels that differ by more are colour, and less is the rounding of JPEG
LIGHT, MIDDLE = 192, 128  # tones
WHITE, BLACK = 255, 0


def is_transparent(image: np.ndarray) -> bool:
    """True if a pixel is not opaque."""
    return bool(_alpha(image).min() < WHITE)


def _alpha(image: np.ndarray) -> np.ndarray:
    """The alpha of a uint8 image [h, w, c], as [h, w]; that of an image without alpha is opaque."""
    return image[..., -1] if image.shape[2] % 2 == 0 else np.full(image.shape[:2], WHITE, np.uint8)


def _colours(image: np.ndarray) -> np.ndarray:
    """The channels of an image [h, w, c] without alpha, 1 or 3."""
    return image[..., :-1] if image.shape[2] % 2 == 0 else image


def has_colour(image: np.ndarray) -> bool:
    """True if a pixel that is not transparent has channels that differ."""
    colours = _colours(image)[_alpha(image) > 0]  # [n, 1 or 3]
    return bool((np.ptp(colours, axis=1) > TINT).any())


def behind(images: Sequence[np.ndarray]) -> int:
    """A background for transparent images: white, or black if most opaque pixels are light."""
    tones = np.concatenate([_colours(image)[_alpha(image) >= MIDDLE].mean(1) for image in images])
    return BLACK if len(tones) and (tones >= LIGHT).mean() > 0.5 else WHITE


def around(images: Sequence[np.ndarray]) -> int:
    """A background for the margins of images: white or black, whichever their edges are nearer."""
    tones = np.concatenate(
        [
            _colours(edge).mean(axis=-1).ravel()
            for image in images
            for edge in (image[:1], image[-1:], image[:, :1], image[:, -1:])
        ]
    )
    return WHITE if (tones >= MIDDLE).mean() > 0.5 else BLACK
