"""Conversion of images to the shape that a model is trained on, and of model output to pixels.

Every function is pure. A raw image is [h, w, c] with c from 1 to 4, of integers, floats or bool; if
c is even, the last channel is alpha. A prepared image is uint8 [H, W, C] with C 1 or 3.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from PIL import Image

Fit = Literal["pad", "resize", "crop"]  # see `scaled`
Range = tuple[float, float]  # the values of black and of white
Ranges = Mapping[str, Range]  # the range of images of a dtype, such as uint16

BLOCK = 1 << 18  # values that are converted at once

FULL: Ranges = {}  # images use the full range of their dtype


def prepare_image(
    image: np.ndarray,
    *,
    shape: tuple[int, int, int],
    fit: Fit,
    background: int,
    ranges: Ranges = FULL,
) -> np.ndarray:
    """Convert a raw image to uint8 of `shape`, [H, W, C].

    `ranges` says which values are black and white. The aspect ratio is kept. `background`, a grey
    from 0 to 255, fills the margins and shows through transparent pixels.
    """
    frame = shape[:2]
    image = with_channels(over_background(to_uint8(image, ranges), background), shape[2])
    image = scaled(image, frame, fit)
    height, width, _ = image.shape
    if (height, width) == frame:
        return image
    top, left = (frame[0] - height) // 2, (frame[1] - width) // 2
    canvas = np.full(shape, background, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas


def to_uint8(image: np.ndarray, ranges: Ranges = FULL) -> np.ndarray:
    """Convert a raw image to uint8 by round(255 (x - black) / (white - black)), clipped to 0..255.

    Alpha keeps the full range of its dtype. Without a range, bool and integers of up to 16 bits use
    the full range of their dtype, and floats 0 to 1.
    """
    dtype = image.dtype.name
    if dtype not in ranges:
        return scaled_values(image, full_range(dtype))
    pixels = scaled_values(image, ranges[dtype])
    if image.shape[2] % 2 == 0 and dtype in ("uint8", "uint16"):
        pixels[..., -1:] = scaled_values(image[..., -1:], full_range(dtype))
    return pixels


def full_range(dtype: str) -> Range:
    """The full range of a dtype: 0 to 65535 of uint16. Floats have 0 to 1."""
    if np.dtype(dtype).kind not in "iu":
        return 0, 1
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def scaled_values(image: np.ndarray, between: Range) -> np.ndarray:
    """Map a range of values to 0..255, uint8; values beyond it become 0 or 255."""
    low, high = between
    if image.dtype == np.uint8 and (low, high) == (0, 255):
        return image
    if image.dtype == np.uint16 and (low, high) == (0, 65535):
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    pixels = np.empty(image.shape, np.uint8)
    rows = max(1, BLOCK // max(1, image[0].size))
    for start in range(0, len(image), rows):  # float32 of all pixels would be four times as large
        values = image[start : start + rows].astype(np.float32)
        values -= np.float32(low)
        values *= np.float32(255 / (high - low))
        pixels[start : start + rows] = np.rint(np.clip(values, 0, 255))
    return pixels


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


def scaled(image: np.ndarray, frame: tuple[int, int], fit: Fit) -> np.ndarray:
    """Resize a uint8 image for a frame of (height, width): uint8 [h, w, C].

    "resize" gives the largest image that fits into the frame; so does "pad", which never enlarges
    an image. "crop" gives the centre of the smallest image that fills the frame.
    """
    if fit == "crop":
        return cropped(image, frame)
    height, width, _ = image.shape
    scale = min(frame[0] / height, frame[1] / width)
    if scale == 1 or (fit == "pad" and scale > 1):
        return image
    return resized(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def cropped(image: np.ndarray, frame: tuple[int, int]) -> np.ndarray:
    """Cut the largest part in the shape of a frame from the middle, and resize it to the frame."""
    height, width, _ = image.shape
    scale = max(frame[0] / height, frame[1] / width)
    if scale == 1:  # whole pixels, which stay as they are
        rows, columns = (height - frame[0]) // 2, (width - frame[1]) // 2
        return image[rows : rows + frame[0], columns : columns + frame[1]]
    kept = min(height, frame[0] / scale), min(width, frame[1] / scale)
    top, left = (height - kept[0]) / 2, (width - kept[1]) / 2
    return resized(image, frame, (left, top, left + kept[1], top + kept[0]))


def resized(
    image: np.ndarray,
    target: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resize a uint8 image, or a box of it (left, top, right, bottom), to (height, width).

    Bicubic with antialiasing, by Pillow: other libraries alias when they shrink an image
    (Parmar et al. 2022).
    """
    channels = image.shape[2]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    pixels = np.asarray(picture.resize(target[::-1], Image.Resampling.BICUBIC, box))
    return pixels.reshape(*target, channels)


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Round float32 images in [0, 1] to uint8, 0 to 255."""
    return np.asarray(np.rint(np.clip(images, 0.0, 1.0) * 255.0), dtype=np.uint8)
