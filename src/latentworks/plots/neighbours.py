"""Samples and the training images nearest to them."""

import numpy as np
from matplotlib.figure import Figure

from latentworks.plots.page import FAINT, HEADER, MARGIN, WIDTH, blank_page, place, write
from latentworks.plots.tiles import GAP, columns_for, fitted, tile

NAME = 70  # left of the images
LINE = 24  # for the distance below an image
SIDES = 96, 160  # of an image, at least and at most
MAX_BANDS = 2
SPACE = 16  # between bands
MIN_WIDTH = 880  # of the page, for the line under its title


def nearest_neighbours(
    samples: np.ndarray, found: np.ndarray, distances: np.ndarray, typical: float | None = None
) -> Figure:
    """Draw below each sample its nearest training images, with their distances.

    `samples` are uint8 [Q, H, W, C], `found`, the nearest images, uint8 [Q, K, H, W, C], and
    `distances` L2 [Q, K]. `typical` is the median distance of test images to their nearest training
    image, for comparison.
    """
    room = WIDTH - 2 * MARGIN - NAME
    side = int(np.clip(room // len(samples) - GAP, *SIDES))
    height, width = fitted(samples[:1], side).shape[1:3]
    num_columns = min(columns_for(width, room), len(samples))
    num = min(MAX_BANDS * num_columns, len(samples))
    band = (1 + found.shape[1]) * (height + LINE) + SPACE
    figure = blank_page(
        max(2 * MARGIN + NAME + num_columns * (width + GAP) - GAP, MIN_WIDTH),
        HEADER + -(-num // num_columns) * band - SPACE + MARGIN,
        f"Training images most like {num} sample{'s' if num > 1 else ''}",
        _facts(distances[:num, 0], typical),
    )
    for line, start in enumerate(range(0, num, num_columns)):
        shown = slice(start, min(start + num_columns, num))
        _band(figure, HEADER + line * band, side, samples[shown], found[shown], distances[shown])
    return figure


def _facts(nearest: np.ndarray, typical: float | None) -> str:
    known = "" if typical is None else f" (of test images {typical:.2f})"
    return (
        f"L2 distance to the nearest: {nearest.min():.2f} to {nearest.max():.2f}, "
        f"median {np.median(nearest):.2f}{known}. 0 is a copy."
    )


def _band(
    figure: Figure,
    top: int,
    side: int,
    samples: np.ndarray,
    found: np.ndarray,
    distances: np.ndarray,
) -> None:
    """Draw samples side by side, and the nearest images below each."""
    left = MARGIN + NAME
    for line, images in enumerate([samples, *found.swapaxes(0, 1)]):
        picture = tile(fitted(images, side), len(images))
        height, pitch = len(picture), (picture.shape[1] + GAP) / len(images)
        place(figure, picture, left, top)
        if line < 2:
            name = ("sample", "nearest")[line]
            write(figure, MARGIN, top + height / 2 + 4, name, color=FAINT)
        for column, distance in enumerate(distances[:, line - 1] if line else ()):
            centre = left + column * pitch + (pitch - GAP) / 2
            text = f"{distance:.2f}"
            write(figure, centre, top + height + 14, text, ha="center", size=8, color=FAINT)
        top += height + LINE
