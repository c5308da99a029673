"""Drift: incoming images against the test images of the champion."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from latentworks.plots.page import (
    FAINT,
    HEADER,
    MARGIN,
    NUMBERS,
    RULE,
    WIDTH,
    add_axes,
    blank_page,
    name_y_axis,
    place,
    write,
)
from latentworks.plots.palette import RED
from latentworks.plots.tiles import GAP, SIDE, columns_for, fitted, tile

OLD, NEW = FAINT, RED  # test images and incoming ones
PLOT = 300  # height
MAX_POINTS = 4000  # of each kind
NUM_BINS = 40


def drift(
    title: str,
    subtitle: str,
    test: tuple[np.ndarray, np.ndarray],
    incoming: tuple[np.ndarray, np.ndarray],
    worst: tuple[np.ndarray, np.ndarray],
) -> Figure:
    """Draw errors and latents of test and incoming images, and the worst reconstructions.

    `test` and `incoming` are errors float32 [N] and latents float32 [N, D]. `worst` are the
    incoming images with the largest errors and their reconstructions, uint8 [M, H, W, C], M >= 1.
    Of more than two latents, the two whose means moved farthest are drawn.
    """
    num_columns = columns_for(SIDE + SIDE // 2)
    side = (WIDTH - 2 * MARGIN + GAP) // num_columns - GAP
    pictures = [tile(fitted(images[:num_columns], side), num_columns) for images in worst]
    top = HEADER + 44 + PLOT + 100
    height = top + 2 * len(pictures[0]) + GAP + MARGIN
    figure = blank_page(WIDTH, height, title, subtitle)
    half = (WIDTH - MARGIN) // 2
    _errors(figure, test[0], incoming[0], half)
    _latents(figure, test[1], incoming[1], half)
    text = "New images that are reconstructed worst, and what the champion makes of them"
    write(figure, MARGIN, top - 14, text, size=11, weight="bold")
    for row, picture in enumerate(pictures):
        place(figure, picture, MARGIN, top + row * (len(picture) + GAP))
    return figure


def _errors(figure: Figure, test: np.ndarray, incoming: np.ndarray, half: int) -> None:
    write(figure, MARGIN, HEADER + 16, "Reconstruction errors", size=11, weight="bold")
    axes = add_axes(figure, MARGIN + NUMBERS, HEADER + 44, half - NUMBERS - MARGIN - 24, PLOT)
    finite = [errors[np.isfinite(errors)] for errors in (test, incoming)]
    highest = max(float(np.quantile(errors, 0.995)) for errors in finite if len(errors))
    edges = np.linspace(0, highest or 1, NUM_BINS + 1)
    for errors, colour, name in zip(finite, (OLD, NEW), ("test images", "new"), strict=True):
        shares = np.histogram(errors.clip(0, highest), edges)[0] / max(1, len(errors))
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.25)
        axes.stairs(shares, edges, color=colour, lw=1.8, label=f"{name} ({len(errors):,})")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))  # whole per cents
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_axisbelow(True)
    axes.set(xlabel="mean squared error of an image", xlim=(0, edges[-1]))
    name_y_axis(axes, "share of the images")
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.legend(frameon=False, fontsize=9, loc="upper right")


def _latents(figure: Figure, test: np.ndarray, incoming: np.ndarray, half: int) -> None:
    write(figure, half + 24, HEADER + 16, "Latents", size=11, weight="bold")
    left = half + 24 + NUMBERS
    axes = add_axes(figure, left, HEADER + 44, WIDTH - left - MARGIN, PLOT)
    old, new = (latents[np.isfinite(latents).all(axis=1)] for latents in (test, incoming))
    moved = np.abs(new.mean(axis=0) - old.mean(axis=0)) / (old.std(axis=0) + 1e-9)
    x, y = np.sort(np.argsort(-moved)[:2]) if len(moved) > 1 else (0, 0)
    for latents, colour in ((old, OLD), (new, NEW)):
        shown = latents[:MAX_POINTS]
        axes.scatter(shown[:, x], shown[:, y], s=5, color=colour, alpha=0.5, lw=0)
    axes.set(xlabel=f"z{x}")
    axes.set_axisbelow(True)
    name_y_axis(axes, f"z{y}")
    axes.grid(color=RULE, lw=0.6)
