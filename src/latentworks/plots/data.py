"""The profile of the data, as `prepare` wrote it."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from latentworks.plots.page import (
    FAINT,
    HEADER,
    MARGIN,
    MAX_NAMED,
    WIDTH,
    add_axes,
    blank_page,
    place,
    write,
)
from latentworks.plots.palette import BLUE, RED
from latentworks.plots.tiles import GAP, SIDE, columns_for, fitted, tile

PANEL = 880  # where the right part begins
TOP = HEADER + 32  # top of the examples, below the names of the splits
RIGHT = WIDTH - MARGIN


def data_profile(images: np.ndarray, index: pd.DataFrame, profile: dict[str, Any]) -> Figure:
    """Draw examples of each class with counts, the brightness, and the rejected images.

    `images` is uint8 [N, H, W, C], `index` has a row for each image. Without classes, only examples
    are drawn.
    """
    height, width, channels = profile["image_shape"]
    class_names = profile["class_names"]
    num_rejected = sum(reject["images"] for reject in profile["rejects"].values())
    splits = ", ".join(f"{split['images']:,} {name}" for name, split in profile["splits"].items())
    classes = f"in {len(class_names):,} classes" if class_names else "without labels"
    num_lines = min(len(class_names), MAX_NAMED) or 10
    figure = blank_page(
        WIDTH,
        max(TOP + num_lines * (SIDE + GAP) + MARGIN, 720),
        f"{profile['num_images']:,} images {classes}",
        f"{splits}. {height} x {width} pixels, {'RGB' if channels == 3 else 'grey'}. "
        f"Left out: {profile['duplicates']:,} duplicates, {num_rejected:,} rejected.",
    )
    if class_names:
        _class_rows(figure, images, index, profile)
    else:
        rows = _some(np.arange(len(images)), 120)
        place(figure, tile(fitted(images[rows], SIDE), 12), MARGIN, TOP)
    _brightness(figure, profile["brightness"])
    _rejects(figure, profile["rejects"], _sizes(figure, profile["sizes"], HEADER + 276))
    return figure


def _class_rows(
    figure: Figure, images: np.ndarray, index: pd.DataFrame, profile: dict[str, Any]
) -> None:
    """Draw a line for each class: its name, its number of images in each split, and examples."""
    splits = {name: MARGIN + 204 + 70 * i for i, name in enumerate(profile["splits"])}
    for split, x in splits.items():
        write(figure, x, HEADER + 16, split, ha="right", color=FAINT)
    left = MARGIN + 358
    width = fitted(images[:1], SIDE).shape[2]
    num_columns = columns_for(width, PANEL - MARGIN - left)
    labels = index["label"].fillna(-1).to_numpy(dtype=np.int64)
    for line, name in enumerate(profile["class_names"][:MAX_NAMED]):
        top = TOP + line * (SIDE + GAP)
        middle = top + SIDE / 2 + 4
        write(figure, MARGIN, middle, name, room=130)
        for split, x in splits.items():
            count = f"{profile['splits'][split]['classes'][name]:,}"
            write(figure, x, middle, count, ha="right", color=FAINT)
        rows = _some(np.flatnonzero(labels == line), num_columns)
        if len(rows):
            picture = tile(fitted(images[rows], SIDE), num_columns)
            place(figure, picture, left, top + (SIDE - len(picture)) // 2)
    if (unnamed := len(profile["class_names"]) - MAX_NAMED) > 0:
        write(figure, MARGIN, figure.bbox.height - 10, f"and {unnamed:,} more", color=FAINT)


def _some(rows: np.ndarray, num: int) -> np.ndarray:
    """Choose at most `num` of the rows, in order: a random choice, always the same."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:num])


def _brightness(figure: Figure, brightness: dict[str, Any]) -> None:
    """Draw the histogram of pixel values."""
    mean, std = brightness["mean"], brightness["std"]
    write(figure, PANEL, HEADER + 16, "Brightness of the pixels", size=11, weight="bold")
    text = f"mean {mean:.0f}, standard deviation {std:.0f}"
    write(figure, PANEL, HEADER + 40, text, color=FAINT)
    left = PANEL + 48  # beside the numbers on the axis
    axes = add_axes(figure, left, HEADER + 56, RIGHT - left - 8, 130)
    counts = np.array(brightness["histogram"])
    edges = np.linspace(0, 256, len(counts) + 1)
    axes.bar(edges[:-1], counts / counts.sum(), np.diff(edges) - 1.5, align="edge", color=BLUE)
    axes.axvline(mean, color=RED, lw=1.5)
    axes.set(
        xlim=(0, 256), xticks=[0, 64, 128, 192, 255], xlabel="pixel value; the line is the mean"
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _sizes(figure: Figure, sizes: list[dict[str, int]], y: float) -> float:
    """List the commonest original sizes. Return the y at which the next part begins."""
    write(figure, PANEL, y, "Original sizes", size=11, weight="bold")
    for size in sizes[:4]:
        y += 24
        write(figure, PANEL, y, f"{size['height']} x {size['width']}")
        write(figure, RIGHT, y, f"{size['images']:,}", ha="right", color=FAINT)
    if len(sizes) > 4:
        y += 24
        write(figure, PANEL, y, "and other sizes", color=FAINT)
    return y + 48


def _rejects(figure: Figure, rejects: dict[str, Any], y: float) -> None:
    """List the reasons of rejection, with the number of images and a few names."""
    write(figure, PANEL, y, "Rejected", size=11, weight="bold")
    if not rejects:
        write(figure, PANEL, y + 24, "Nothing: every image can be used.", color=FAINT)
    for code, reject in list(rejects.items())[:4]:
        y += 24
        write(figure, PANEL, y, code, RIGHT - PANEL - 68)
        write(figure, RIGHT, y, f"{reject['images']:,}", ha="right", color=FAINT)
        y += 17
        write(figure, PANEL, y, ", ".join(reject["examples"]), RIGHT - PANEL, size=8, color=FAINT)
    if len(rejects) > 4:
        write(figure, PANEL, y + 24, f"and for {len(rejects) - 4} other reasons", color=FAINT)
