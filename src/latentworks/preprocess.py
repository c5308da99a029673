"""Conversion of images to the shape that a model is trained on, and of model output to pixels.

Every function is pure. A raw image is uint8 or uint16 [h, w, c] with c from 1 to 4; if c is even,
the last channel is alpha. A prepared image is uint8 [S, S, C] with C 1 or 3.
"""

from typing import Literal

import numpy as np
from PIL import Image

Fit = Literal["pad", "resize"]


def prepare_image(
    image: np.ndarray, *, size: int, channels: int, fit: Fit, background: int
) -> np.ndarray:
    """Convert a raw image to uint8 [size, size, channels].

    The aspect ratio is kept: the longer side sets the scale. `background`, a grey from 0 to 255,
    fills the margins and shows through transparent pixels.
    """
    image = with_channels(over_background(to_uint8(image), background), channels)
    image = scaled(image, size, fit)
    height, width = image.shape[:2]
    if height == width == size:
        return image
    top, left = (size - height) // 2, (size - width) // 2
    canvas = np.full((size, size, channels), background, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Convert a uint16 image to uint8 by round(x / 257): 0 becomes 0, and 65535 becomes 255."""
    if image.dtype == np.uint8:
        return image
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def over_background(image: np.ndarray, background: int) -> np.ndarray:
    """Blend a uint8 image with alpha onto a grey: round((alpha x + (255 - alpha) grey) / 255)."""
    if image.shape[2] % 2:
        return image
    colour = image[..., :-1].astype(np.uint16)
    alpha = image[..., -1:].astype(np.uint16)
    mixed = colour * alpha + (255 - alpha) * np.uint16(background)  # at most 255 * 255
    return ((mixed + 127) // 255).astype(np.uint8)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert grey to RGB, or RGB to grey by ITU-R 601: 0.299 R + 0.587 G + 0.114 B."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def scaled(image: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Resize a uint8 image so that its longer side is `size`; "pad" never enlarges an image.

    Bicubic with antialiasing, by Pillow: other libraries alias when they shrink an image
    (Parmar et al. 2022).
    """
    height, width, channels = image.shape
    scale = size / max(height, width)
    if scale == 1 or (fit == "pad" and scale > 1):
        return image
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    resized = np.asarray(picture.resize(target, Image.Resampling.BICUBIC))
    return resized.reshape(target[1], target[0], channels)


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Round float32 images in [0, 1] to uint8, 0 to 255."""
    return np.asarray(np.rint(np.clip(images, 0.0, 1.0) * 255.0), dtype=np.uint8)
