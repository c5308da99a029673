"""Pictures of images, latents and numbers. Each function returns a figure and saves nothing.

A figure is laid out in pixels from its top left, and images are enlarged by whole factors, so that
their pixels stay crisp. Nothing global is touched: no pyplot, no rcParams.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from skimage.measure import block_reduce

Decode = Callable[[np.ndarray], np.ndarray]  # float32 [M, D] -> float32 [M, H, W, C] in [0, 1]

DPI = 120
WIDTH = 1200  # pixels, as are all lengths below
MIN_WIDTH = 720  # of a page with few images, for its title
MARGIN = 24
HEADER = 72  # the title and the line under it
GAP = 4  # between images
SPACE = 20  # between groups of images
SIDE = 64  # of an image in a grid; larger where there are few
MAX_SIDE = 256
PICTURE_HEIGHT = 10 * (SIDE + GAP)
PLOT = 900  # side of a square plot
LEFT = 40  # of it, for the numbers on its axis
PANEL = 850  # where the right part of the data profile begins

INK, FAINT, RULE, UNLABELLED = "#1f2430", "#667085", "#d5d9e0", "#c3c9d2"
# Petroff 2021, *Accessible Color Sequences for Data Visualization*: ten that colour-blind eyes,
# too, can tell apart.
PALETTE = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"]
PALETTE += ["#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"]
MAX_NAMED = 24  # classes with a line of their own; the others are counted


# --- a page in pixels ----------------------------------------------------------------------------


def _page(width: int, height: int, title: str, subtitle: str) -> Figure:
    """An empty figure with a title and a fainter line under it."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    _write(figure, MARGIN, 34, title, size=14, weight="bold")
    _write(figure, MARGIN, 57, subtitle, size=10, color=FAINT)
    return figure


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Text on the baseline `y`. Names of classes and files may hold a `$`, which is no formula."""
    style = {"size": 9, "color": INK, "va": "baseline", **style}
    width, height = figure.bbox.size
    figure.text(x / width, 1 - y / height, text, parse_math=False, **style)


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Quiet axes in a rectangle of the page."""
    page_width, page_height = figure.bbox.size
    bottom = page_height - top - height
    axes = figure.add_axes(
        (left / page_width, bottom / page_height, width / page_width, height / page_height)
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(color=RULE, labelcolor=FAINT, labelsize=9)
    axes.xaxis.label.set(color=FAINT, size=9)
    axes.yaxis.label.set(color=FAINT, size=9)
    return axes


def _place(figure: Figure, picture: np.ndarray, left: float, top: float) -> None:
    """Draw uint8 [h, w, 3], or 4 with opacity, pixel by pixel."""
    axes = _axes(figure, left, top, picture.shape[1], picture.shape[0])
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_axis_off()


def _fitted(images: np.ndarray, side: int) -> np.ndarray:
    """Images whose larger side is at most `side`: uint8 [N, h, w, 3].

    `images` is [N, H, W, C], grey or RGB, uint8 or float in [0, 1]. A pixel becomes a square of
    pixels, or a square of pixels becomes their mean.
    """
    if images.dtype == np.uint8:
        images = images / np.float32(255)
    larger = max(images.shape[1:3])
    if larger > side:
        block = -(-larger // side)
        height, width = (length // block * block for length in images.shape[1:3])
        images = block_reduce(images[:, :height, :width], (1, block, block, 1), np.mean)
    images = np.round(images.clip(0, 1) * 255).astype(np.uint8)
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    zoom = max(1, side // larger)
    return images.repeat(zoom, axis=1).repeat(zoom, axis=2)


def tile(images: np.ndarray, num_columns: int) -> np.ndarray:
    """One picture of many, row by row with white between them: uint8 [h, w, 3].

    `images` is [N, H, W, C] with N >= 1, grey or RGB, uint8 or float in [0, 1]. Fewer than
    `num_columns` make a narrower picture.
    """
    images = _fitted(images, max(images.shape[1:3]))
    num_columns = min(num_columns, len(images))
    num_rows = -(-len(images) // num_columns)
    missing = num_rows * num_columns - len(images)
    cells = np.pad(images, ((0, missing), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    height, width = cells.shape[1:3]
    rows = cells.reshape(num_rows, num_columns, height, width, 3).swapaxes(1, 2)
    return rows.reshape(num_rows * height, num_columns * width, 3)[:-GAP, :-GAP]


def _picture_page(picture: np.ndarray, title: str, subtitle: str) -> Figure:
    """A page that a picture fills."""
    width = max(picture.shape[1] + 2 * MARGIN, MIN_WIDTH)
    figure = _page(width, HEADER + len(picture) + MARGIN, title, subtitle)
    _place(figure, picture, MARGIN, HEADER)
    return figure


def _side(num_cells: int, images_per_cell: int = 1) -> int:
    """How large the images may be when cells of one or two, one above the other, fill the page."""
    fitting = [
        side
        for side in range(SIDE, MAX_SIDE + 1)
        if -(-num_cells // _num_columns(side)) * images_per_cell * (side + GAP) <= PICTURE_HEIGHT
    ]
    return max(fitting, default=SIDE)


def _num_columns(width: int, room: int = WIDTH - 2 * MARGIN) -> int:
    return max(1, (room + GAP) // (width + GAP))


# --- images --------------------------------------------------------------------------------------


def samples(images: np.ndarray, title: str) -> Figure:
    """The first images, as many as fit: [N, H, W, C], uint8 or float in [0, 1]."""
    shown = _fitted(images[:200], _side(len(images)))
    num_columns = _num_columns(shown.shape[2])
    shown = shown[: max(1, PICTURE_HEIGHT // (shown.shape[1] + GAP)) * num_columns]
    subtitle = f"{len(shown)} of {len(images):,}, not hand-picked."
    return _picture_page(tile(shown, num_columns), title, subtitle)


def reconstructions(originals: np.ndarray, reconstructed: np.ndarray) -> Figure:
    """Pairs, the original above: uint8 and float32 in [0, 1], both [N, H, W, C].

    The mean squared error in the title is that of the pairs drawn, at most five rows of them.
    """
    side = _side(len(originals), images_per_cell=2)
    num_columns = _num_columns(_fitted(originals[:1], side).shape[2])
    originals, reconstructed = originals[: 5 * num_columns], reconstructed[: 5 * num_columns]
    above, below = _fitted(originals, side), _fitted(reconstructed, side)
    white = np.full_like(above[:, : 4 * GAP], 255)
    pairs = np.concatenate([above, white[:, : GAP // 2], below, white], axis=1)
    picture = tile(pairs, num_columns)[: -4 * GAP]
    error = np.mean((originals / 255.0 - reconstructed) ** 2)
    return _picture_page(
        picture,
        f"Reconstructions: mean squared error {error:.4f}",
        f"Originals above, reconstructions below. Images shown: {len(originals)}.",
    )


def interpolations(
    decode: Decode,
    starts: np.ndarray,
    ends: np.ndarray,
    start_images: np.ndarray,
    end_images: np.ndarray,
    num_steps: int,
) -> Figure:
    """Straight lines in latent space, one a row: the original, `num_steps` decoded, the original.

    `starts` and `ends` are latents, float32 [R, D], of the images: [R, H, W, C].
    """
    shares = np.linspace(0, 1, num_steps, dtype=np.float32)
    points = starts[:, None] + shares[:, None] * (ends - starts)[:, None]  # [R, S, D]
    decoded = decode(points.reshape(-1, starts.shape[1]))
    side = min(2 * SIDE, (WIDTH - 2 * MARGIN) // (num_steps + 3) - GAP)
    pictures = [
        tile(_fitted(images, side), num_columns)
        for images, num_columns in ((start_images, 1), (decoded, num_steps), (end_images, 1))
    ]
    headings = ["original"], [f"{share:.0%}" for share in shares], ["original"]
    width = 2 * MARGIN + 2 * SPACE + sum(picture.shape[1] for picture in pictures)
    figure = _page(
        max(width, MIN_WIDTH),
        HEADER + 24 + len(pictures[0]) + MARGIN,
        f"Straight lines through {starts.shape[1]}-dimensional latent space",
        "From the image on the left to the one on the right, decoded at equal distances.",
    )
    left = MARGIN
    for picture, names in zip(pictures, headings, strict=True):
        _place(figure, picture, left, HEADER + 24)
        pitch = (picture.shape[1] + GAP) / len(names)
        for column, name in enumerate(names):
            centre = left + column * pitch + (pitch - GAP) / 2
            _write(figure, centre, HEADER + 14, name, ha="center", color=FAINT)
        left += picture.shape[1] + SPACE
    return figure


# --- latent space --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """The plane in which latents are drawn: the latents themselves where there are two.

    With more, the plane through their mean along the first two principal components; with one, the
    second axis means nothing.
    """

    origin: np.ndarray  # float64 [D]
    directions: np.ndarray  # float64 [2, D]
    names: tuple[str, str]  # of the axes
    title: str

    @classmethod
    def of(cls, z: np.ndarray) -> "Plane":
        """The plane for latents: float32 [N, D]."""
        num, latent_dim = z.shape
        if latent_dim <= 2:
            second = "z1" if latent_dim == 2 else "random heights, to tell the points apart"
            title = f"{num:,} latents of {latent_dim} dimension{'s'[: latent_dim - 1]}"
            return cls(np.zeros(latent_dim), np.eye(2, latent_dim), ("z0", second), title)
        mean = z.mean(axis=0, dtype=np.float64)
        centred = z - mean
        variances, vectors = np.linalg.eigh(centred.T @ centred)  # ascending
        directions = vectors[:, :-3:-1].T
        # An eigenvector's sign is arbitrary; this choice is the same on every machine.
        directions *= np.sign(directions[[0, 1], np.abs(directions).argmax(axis=1)])[:, None]
        shares = variances[:-3:-1] / max(variances.sum(), np.finfo(float).tiny)
        first, second = (
            f"principal component {i + 1} ({share:.0%} of the variance)"
            for i, share in enumerate(shares)
        )
        title = f"{num:,} latents of {latent_dim} dimensions, in their plane of most variance"
        return cls(mean, directions, (first, second), title)

    def project(self, z: np.ndarray) -> np.ndarray:
        """Latents [N, D] as points of the plane: float64 [N, 2]."""
        points = (z - self.origin) @ self.directions.T
        if len(self.origin) == 1:
            points[:, 1] = np.random.default_rng(0).random(len(z))
        return np.asarray(points)

    def lift(self, points: np.ndarray) -> np.ndarray:
        """Points of the plane [M, 2] as latents: float32 [M, D]."""
        return np.asarray(self.origin + points @ self.directions, dtype=np.float32)


def latent_scatter(z: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str]) -> Figure:
    """Every latent as a point: float32 [N, D], labels int64 [N] with -1 for none, or None."""
    plane = Plane.of(z)
    figure, axes = _plot_page(plane.title, _colour_meaning(labels), PLOT, labels, class_names)
    _scatter(axes, plane, z, labels, class_names)
    return figure


def _plot_page(
    title: str, subtitle: str, side: int, labels: np.ndarray | None, class_names: Sequence[str]
) -> tuple[Figure, Axes]:
    """A page with square axes, and a legend beside them where there are labels."""
    width = MARGIN + LEFT + side + MARGIN if labels is None else WIDTH
    figure = _page(width, HEADER + side + 56, title, subtitle)
    if labels is not None:
        _legend(figure, labels, class_names)
    return figure, _axes(figure, MARGIN + LEFT, HEADER, side, side)


def latent_grid(
    decode: Decode,
    z: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
    num_side: int = 20,
) -> Figure:
    """What the decoder makes of each place: images laid over the points of `latent_scatter`.

    The grid spans the middle 98% of the latents in each direction, since a few far ones would
    shrink all others. With one latent it is a single row.
    """
    plane = Plane.of(z)
    low, high = np.percentile(plane.project(z), [1, 99], axis=0)
    high = np.where(high > low, high, low + 1)
    cell = PLOT // num_side
    rows = range(num_side) if z.shape[1] > 1 else [num_side // 2]
    title = f"What the decoder draws at {len(rows) * num_side} places of latent space"
    subtitle = f"{plane.title}, the middle 98% each way. {_colour_meaning(labels)}"
    figure, axes = _plot_page(title, subtitle, num_side * cell, labels, class_names)
    _scatter(axes, plane, z, labels, class_names)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    centres = low + (np.arange(num_side)[:, None] + 0.5) / num_side * (high - low)  # [side, 2]
    overlay = np.zeros((num_side * cell, num_side * cell, 4), dtype=np.uint8)  # transparent
    for row in rows:
        places = np.column_stack([centres[:, 0], np.full(num_side, centres[row, 1])])
        images = _fitted(decode(plane.lift(places)), int(cell * 0.85))
        top = (num_side - 1 - row) * cell  # rows of pixels count downwards
        _lay_row(overlay[top : top + cell], images, cell)
    _place(figure, overlay, MARGIN + LEFT, HEADER)
    return figure


def _lay_row(band: np.ndarray, images: np.ndarray, cell: int) -> None:
    """Put each image in the middle of its square of the band: uint8 [cell, n * cell, 4]."""
    height, width = images.shape[1:3]
    top = (cell - height) // 2
    for column, image in enumerate(images):
        left = column * cell + (cell - width) // 2
        band[top : top + height, left : left + width, :3] = image
        band[top : top + height, left : left + width, 3] = 255


def _scatter(
    axes: Axes,
    plane: Plane,
    z: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
) -> None:
    """Points that stay apart where there are few, and show how dense it is where there are many."""
    colours = np.array([to_rgb(colour) for colour in [*_palette(len(class_names)), UNLABELLED]])
    chosen = np.zeros(len(z), dtype=np.int64) if labels is None else labels  # -1 is UNLABELLED
    order = np.random.default_rng(0).permutation(len(z))  # or the last class covers all others
    x, y = plane.project(z)[order].T
    axes.scatter(
        x,
        y,
        s=np.clip(60_000 / len(z), 2, 36),
        c=colours[chosen[order]],
        alpha=np.clip(20_000 / len(z), 0.5, 0.9),
        linewidths=0,
    )
    axes.set(xlabel=plane.names[0], ylabel=plane.names[1])
    if z.shape[1] == 1:
        axes.set(yticks=[])


def _palette(num_classes: int) -> list[Any]:
    if num_classes <= len(PALETTE):
        return PALETTE[: max(num_classes, 1)]
    return list(colormaps["turbo"](np.linspace(0.04, 0.96, num_classes)))


def _colour_meaning(labels: np.ndarray | None) -> str:
    meaning = "" if labels is None else ", its colour the class"
    return f"A point is an image{meaning}."


def _legend(figure: Figure, labels: np.ndarray, class_names: Sequence[str]) -> None:
    """The classes beside a square plot, with how many points each has."""
    entries = [*zip(class_names, _palette(len(class_names)), range(len(class_names)), strict=True)]
    shown = entries[:MAX_NAMED]
    if (labels < 0).any():
        shown.append(("no label", UNLABELLED, -1))
    for line, (name, colour, label) in enumerate(shown):
        y = HEADER + 24 + 26 * line
        _write(figure, 990, y, "●", color=colour, size=12)
        _write(figure, 1012, y, _short(name, 16))
        count = f"{(labels == label).sum():,}"
        _write(figure, WIDTH - MARGIN, y, count, ha="right", color=FAINT)
    if len(entries) > MAX_NAMED:
        text = f"and {len(entries) - MAX_NAMED:,} more classes"
        _write(figure, 1012, HEADER + 24 + 26 * len(shown), text, color=FAINT)


def _short(text: str, width: int) -> str:
    """On one line, with an ellipsis where it does not fit."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


# --- training and data ---------------------------------------------------------------------------


def curves(epochs: list[dict[str, float]]) -> Figure:
    """Losses and the learning rate: a row for each epoch: epoch, loss, learning_rate, val_loss.

    Without validation images there is no val_loss.
    """
    numbers = [epoch["epoch"] for epoch in epochs]
    names = {"loss": "training", "val_loss": "validation"}
    names = {key: name for key, name in names.items() if key in epochs[0]}
    watched = list(names)[-1]
    best = min(epochs, key=lambda epoch: epoch[watched])
    figure = _page(
        WIDTH,
        620,
        f"Best {names[watched]} loss {best[watched]:.4f}, in epoch {best['epoch']:.0f}",
        f"Training loss at the end, epoch {numbers[-1]:.0f}: {epochs[-1]['loss']:.4f}.",
    )
    line: dict[str, Any] = {"lw": 2, "ms": 4, "marker": "o" if len(epochs) <= 40 else ""}
    losses = _axes(figure, MARGIN + 60, HEADER + 20, WIDTH - 2 * MARGIN - 60, 310)
    rates = _axes(figure, MARGIN + 60, HEADER + 390, WIDTH - 2 * MARGIN - 60, 100)
    for key, colour in zip(names, (PALETTE[0], PALETTE[2]), strict=False):
        values = [epoch[key] for epoch in epochs]
        losses.plot(numbers, values, color=colour, label=names[key], **line)
    losses.plot(best["epoch"], best[watched], "o", ms=12, mfc="none", mec=INK, label="best")
    losses.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right")
    values = [epoch["learning_rate"] for epoch in epochs]
    rates.plot(numbers, values, color=FAINT, **line)
    rates.set(xlabel="epoch")
    for axes, name in ((losses, "loss"), (rates, "learning rate")):
        axes.set_title(name, loc="left", size=9, color=FAINT)
        axes.grid(axis="y", color=RULE, lw=0.6)
        axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter("{x:.5g}")
    return figure


def data_profile(images: np.ndarray, index: pd.DataFrame, profile: dict[str, Any]) -> Figure:
    """What the data is: examples of each class with counts, brightness, and what was rejected.

    `images` is uint8 [N, H, W, C], `index` has a row for each; without classes, just examples.
    """
    height, width, channels = profile["image_shape"]
    class_names = profile["class_names"]
    num_rejected = sum(reject["images"] for reject in profile["rejects"].values())
    splits = ", ".join(f"{split['images']:,} {name}" for name, split in profile["splits"].items())
    classes = f"in {len(class_names):,} classes" if class_names else "without labels"
    num_lines = min(len(class_names), MAX_NAMED) or 10
    figure = _page(
        WIDTH,
        max(HEADER + 32 + num_lines * (SIDE + GAP) + MARGIN, 720),
        f"{profile['num_images']:,} images {classes}",
        f"{splits}. {height} x {width} pixels, {'RGB' if channels == 3 else 'grey'}. "
        f"Left out: {profile['duplicates']:,} duplicates, {num_rejected:,} rejected.",
    )
    if class_names:
        _class_rows(figure, images, index, profile)
    else:
        rows = _some(np.arange(len(images)), 110)
        _place(figure, tile(_fitted(images[rows], SIDE), 11), MARGIN, HEADER + 32)
    _brightness(figure, profile["brightness"])
    _rejects(figure, profile["rejects"], _sizes(figure, profile["sizes"], HEADER + 270))
    return figure


def _class_rows(
    figure: Figure, images: np.ndarray, index: pd.DataFrame, profile: dict[str, Any]
) -> None:
    """A line for each class: its name, how many images each split has, and some of them."""
    splits = {name: MARGIN + 190 + 60 * i for i, name in enumerate(profile["splits"])}
    for split, x in splits.items():
        _write(figure, x, HEADER + 16, split, ha="right", color=FAINT)
    left = MARGIN + 330
    num_columns = _num_columns(SIDE, PANEL - MARGIN - left)
    labels = index["label"].fillna(-1).to_numpy(dtype=np.int64)
    for line, name in enumerate(profile["class_names"][:MAX_NAMED]):
        top = HEADER + 32 + line * (SIDE + GAP)
        middle = top + SIDE / 2 + 4
        _write(figure, MARGIN, middle, _short(name, 14))
        for split, x in splits.items():
            count = f"{profile['splits'][split]['classes'][name]:,}"
            _write(figure, x, middle, count, ha="right", color=FAINT)
        rows = _some(np.flatnonzero(labels == line), num_columns)
        if len(rows):
            _place(figure, tile(_fitted(images[rows], SIDE), num_columns), left, top)
    if (unnamed := len(profile["class_names"]) - MAX_NAMED) > 0:
        _write(figure, MARGIN, figure.bbox.height - 10, f"and {unnamed:,} more", color=FAINT)


def _some(rows: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of the rows, in their order: a random choice, always the same."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:num])


def _brightness(figure: Figure, brightness: dict[str, Any]) -> None:
    """How many pixels are dark and how many bright."""
    mean, std = brightness["mean"], brightness["std"]
    _write(figure, PANEL, HEADER + 16, "Brightness of the pixels", size=11, weight="bold")
    text = f"mean {mean:.0f}, standard deviation {std:.0f}"
    _write(figure, PANEL, HEADER + 40, text, color=FAINT)
    axes = _axes(figure, PANEL + 40, HEADER + 52, WIDTH - MARGIN - PANEL - 40, 130)
    counts = np.array(brightness["histogram"])
    edges = np.linspace(0, 256, len(counts) + 1)
    axes.bar(
        edges[:-1], counts / counts.sum(), np.diff(edges) - 1.5, align="edge", color=PALETTE[0]
    )
    axes.axvline(mean, color=PALETTE[2], lw=1.5)
    axes.set(
        xlim=(0, 256), xticks=[0, 64, 128, 192, 255], xlabel="pixel value; the line is the mean"
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _sizes(figure: Figure, sizes: list[dict[str, int]], y: float) -> float:
    """The commonest sizes before they were made one. Returns where the next part begins."""
    _write(figure, PANEL, y, "Original sizes", size=11, weight="bold")
    for size in sizes[:4]:
        y += 24
        _write(figure, PANEL, y, f"{size['height']} x {size['width']}")
        _write(figure, WIDTH - MARGIN, y, f"{size['images']:,}", ha="right", color=FAINT)
    if len(sizes) > 4:
        y += 24
        _write(figure, PANEL, y, "and other sizes", color=FAINT)
    return y + 48


def _rejects(figure: Figure, rejects: dict[str, Any], y: float) -> None:
    """Why images were left out, how often, and a few of their names."""
    _write(figure, PANEL, y, "Rejected", size=11, weight="bold")
    if not rejects:
        _write(figure, PANEL, y + 24, "Nothing: every image can be used.", color=FAINT)
    for code, reject in list(rejects.items())[:4]:
        y += 24
        _write(figure, PANEL, y, _short(code, 30))
        _write(figure, WIDTH - MARGIN, y, f"{reject['images']:,}", ha="right", color=FAINT)
        y += 17
        _write(figure, PANEL, y, _short(", ".join(reject["examples"]), 46), size=8, color=FAINT)
    if len(rejects) > 4:
        _write(figure, PANEL, y + 24, f"and for {len(rejects) - 4} other reasons", color=FAINT)
