"""A page with a title, and text, axes and pictures at positions from its top left, in pixels."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI = 120
WIDTH = 1200
MARGIN = 24
HEADER = 72  # the title and the line under it
NUMBERS = 68  # left of an axis, for numbers of eight characters
MAX_NAMED = 24  # classes with a line of their own; of the rest, the number is given

INK, FAINT, RULE = "#1f2430", "#667085", "#d5d9e0"


def blank_page(width: int, height: int, title: str, subtitle: str) -> Figure:
    """Make an empty figure with a title and a fainter line under it."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    room = width - 2 * MARGIN
    write(figure, MARGIN, 34, title, room, size=14, weight="bold")
    write(figure, MARGIN, 57, subtitle, room, size=10, color=FAINT)
    return figure


def write(
    figure: Figure, x: float, y: float, text: str, room: float | None = None, **style: Any
) -> None:
    """Write one line on the baseline `y`, cut by an ellipsis if it is wider than `room`.

    Formulas are off, since the names of classes and files may hold a `$`.
    """
    style = {"size": 9, "color": INK, "va": "baseline", **style}
    width, height = figure.bbox.size
    text = " ".join(text.split())
    line = figure.text(x / width, 1 - y / height, text, parse_math=False, **style)
    if room is None:
        return
    kept = text[:300]  # wider than any page
    while kept and line.get_window_extent().width > room:
        kept = kept[:-1]
        line.set_text(kept.rstrip() + "…")


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes with thin lines in a rectangle of the page."""
    page_width, page_height = figure.bbox.size
    bottom = page_height - top - height
    axes = figure.add_axes(
        (left / page_width, bottom / page_height, width / page_width, height / page_height)
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(color=RULE, labelcolor=FAINT, labelsize=9)
    axes.ticklabel_format(scilimits=(-4, 5), useOffset=False)
    axes.xaxis.label.set(color=FAINT, size=9)
    axes.yaxis.label.set(color=FAINT, size=9)
    return axes


def name_y_axis(axes: Axes, name: str) -> None:
    """Write the name above the axis. Beside the axis, wide numbers could push it off the page.

    The power of ten of the numbers is written to the left of the name.
    """
    axes.set_ylabel(name, rotation=0, ha="left", va="bottom")
    axes.yaxis.set_label_coords(0, 1 + 6 / axes.bbox.height)
    axes.yaxis.get_offset_text().set(x=-6 / axes.bbox.width, ha="right", color=FAINT, size=9)


def place(figure: Figure, picture: np.ndarray, left: float, top: float) -> None:
    """Draw a picture pixel by pixel: uint8 [h, w, 3], or [h, w, 4] with opacity."""
    axes = add_axes(figure, left, top, picture.shape[1], picture.shape[0])
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
