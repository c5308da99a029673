"""Latent space: a scatter plot of the training images, and a grid of decoded points."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from latentworks.plots.page import (
    FAINT,
    HEADER,
    MARGIN,
    MAX_NAMED,
    NUMBERS,
    add_axes,
    blank_page,
    name_y_axis,
    place,
    write,
)
from latentworks.plots.palette import UNLABELLED, class_colours
from latentworks.plots.plane import Plane
from latentworks.plots.tiles import Decode, fitted

PLOT = 900  # side of the square plot, in pixels, as all lengths here
LEFT = MARGIN + NUMBERS
TOP = HEADER + 28  # for the name of the second axis
LEGEND = 270


def latent_scatter(z: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str]) -> Figure:
    """Draw training images as points: latents float32 [N, D], labels int64 [N] with -1 for none."""
    title = _count(z) + (", in their plane of most variance" if z.shape[1] > 2 else "")
    figure, axes = _plot_page(title, _meaning(labels), PLOT, labels, class_names)
    _scatter(axes, Plane.of(z), z, labels, class_names)
    return figure


def latent_grid(
    decode: Decode,
    z: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
    num_side: int = 20,
    class_name: str | None = None,
) -> Figure:
    """Draw a grid of decoded points over the points of `latent_scatter`.

    The grid spans the middle 98% of the latents in each direction, since a few outliers would
    shrink the rest. With one latent, the grid is a single row. `class_name` is the class for which
    a conditional model decodes.
    """
    plane = Plane.of(z)
    low, high = np.percentile(plane.project(z), [1, 99], axis=0)
    high = np.where(high > low, high, low + 1)
    cell = PLOT // num_side
    rows = range(num_side) if z.shape[1] > 1 else [num_side // 2]
    title = f"Decoder output at {len(rows) * num_side} places of latent space"
    title += f" for {class_name}" if class_name else ""
    subtitle = f"The middle 98% each way of {_count(z)}. {_meaning(labels)}"
    figure, axes = _plot_page(title, subtitle, num_side * cell, labels, class_names)
    _scatter(axes, plane, z, labels, class_names)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    centres = low + (np.arange(num_side)[:, None] + 0.5) / num_side * (high - low)  # [side, 2]
    overlay = np.zeros((num_side * cell, num_side * cell, 4), dtype=np.uint8)  # transparent
    for row in rows:
        places = np.column_stack([centres[:, 0], np.full(num_side, centres[row, 1])])
        images = fitted(decode(plane.lift(places)), int(cell * 0.85))
        top = (num_side - 1 - row) * cell  # rows of pixels count downwards
        _lay_row(overlay[top : top + cell], images, cell)
    place(figure, overlay, LEFT, TOP)
    return figure


def _lay_row(band: np.ndarray, images: np.ndarray, cell: int) -> None:
    """Draw each image in the middle of its cell of the band: uint8 [cell, n * cell, 4]."""
    height, width = images.shape[1:3]
    top = (cell - height) // 2
    for column, image in enumerate(images):
        left = column * cell + (cell - width) // 2
        band[top : top + height, left : left + width, :3] = image
        band[top : top + height, left : left + width, 3] = 255


def _plot_page(
    title: str, subtitle: str, side: int, labels: np.ndarray | None, class_names: Sequence[str]
) -> tuple[Figure, Axes]:
    """Make a page with square axes, and with a legend if there are labels."""
    legend = 0 if labels is None else LEGEND
    figure = blank_page(LEFT + side + legend + MARGIN, TOP + side + 56, title, subtitle)
    if labels is not None:
        _legend(figure, LEFT + side + MARGIN, labels, class_names)
    return figure, add_axes(figure, LEFT, TOP, side, side)


def _scatter(
    axes: Axes,
    plane: Plane,
    z: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
) -> None:
    """Draw points: large and opaque if few, small and transparent if many, to show the density."""
    names = [*class_colours(len(class_names)), UNLABELLED]
    colours = np.array([to_rgb(name) for name in names])
    chosen = np.zeros(len(z), dtype=np.int64) if labels is None else labels  # -1 is UNLABELLED
    order = np.random.default_rng(0).permutation(
        len(z)
    )  # else the last class would cover the others
    x, y = plane.project(z)[order].T
    axes.scatter(
        x,
        y,
        s=np.clip(1000 / np.sqrt(len(z)), 2, 36),
        c=colours[chosen[order]],
        alpha=np.clip(150 / np.sqrt(len(z)), 0.4, 0.9),
        linewidths=0,
    )
    axes.set(xlabel=plane.names[0])
    name_y_axis(axes, plane.names[1])
    if z.shape[1] == 1:
        axes.set(yticks=[])


def _count(z: np.ndarray) -> str:
    num, latent_dim = z.shape
    return f"{num:,} latents of {latent_dim} dimension{'s' if latent_dim > 1 else ''}"


def _meaning(labels: np.ndarray | None) -> str:
    colour = "" if labels is None else ", its colour the class"
    return f"Each point is a training image{colour}."


def _legend(figure: Figure, left: int, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """List the classes and their numbers of points beside a square plot."""
    num = len(class_names)
    entries = [*zip(class_names, class_colours(num), range(num), strict=True)]
    shown = entries[:MAX_NAMED]
    if (labels < 0).any():
        shown.append(("no label", UNLABELLED, -1))
    right = figure.bbox.width - MARGIN
    for line, (name, colour, label) in enumerate(shown):
        y = TOP + 12 + 26 * line
        write(figure, left, y, "●", color=colour, size=12)
        write(figure, left + 22, y, name, right - left - 22 - 68)
        write(figure, right, y, f"{(labels == label).sum():,}", ha="right", color=FAINT)
    if num > MAX_NAMED:
        text = f"and {num - MAX_NAMED:,} more classes"
        write(figure, left + 22, TOP + 12 + 26 * len(shown), text, color=FAINT)
