"""Comparison of two or more models on the same images."""

import numpy as np
from matplotlib.figure import Figure

from latentworks.plots.images import MIN_WIDTH
from latentworks.plots.page import HEADER, INK, MARGIN, WIDTH, blank_page, place, write
from latentworks.plots.tiles import GAP, SIDE, columns_for, fitted, tile

LINE = 26  # for the name above a row
SPACE = 14  # between rows


def comparison(title: str, subtitle: str, rows: dict[str, np.ndarray]) -> Figure:
    """Draw rows of images, each under its name.

    Images are [N, H, W, C], uint8 or float in [0, 1]. A row has as many of them as fit.
    """
    num_columns = min(columns_for(SIDE + SIDE // 2), max(len(images) for images in rows.values()))
    side = (WIDTH - 2 * MARGIN + GAP) // num_columns - GAP
    pictures = {
        name: tile(fitted(images[:num_columns], side), num_columns) for name, images in rows.items()
    }
    height = HEADER + sum(LINE + len(picture) + SPACE for picture in pictures.values())
    width = max(picture.shape[1] for picture in pictures.values()) + 2 * MARGIN
    figure = blank_page(max(width, MIN_WIDTH), height + MARGIN - SPACE, title, subtitle)
    top = HEADER
    for name, picture in pictures.items():
        write(figure, MARGIN, top + LINE - 8, name, size=10, color=INK)
        place(figure, picture, MARGIN, top + LINE)
        top += LINE + len(picture) + SPACE
    return figure
