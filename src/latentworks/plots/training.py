"""The curves of training: losses and the learning rate, epoch by epoch."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from latentworks.plots.page import (
    FAINT,
    HEADER,
    INK,
    MARGIN,
    NUMBERS,
    RULE,
    WIDTH,
    add_axes,
    blank_page,
    name_y_axis,
)
from latentworks.plots.palette import BLUE, RED


def curves(epochs: list[dict[str, float]]) -> Figure:
    """Draw the losses and the learning rate.

    `epochs` has a row for each epoch: epoch, loss, learning_rate, and val_loss if there are
    validation images. Rounds of the second phase follow, with `phase`. Their training loss is not
    drawn: it has more terms.
    """
    rounds = [epoch for epoch in epochs if "phase" in epoch]
    numbers = [epoch["epoch"] for epoch in epochs]
    names = {"loss": "training", "val_loss": "validation"}
    names = {key: name for key, name in names.items() if key in epochs[0]}
    watched = list(names)[-1]
    kept = min(rounds[-1:] or epochs, key=lambda epoch: epoch.get("val_loss", -epoch["epoch"]))
    title = f"Best validation loss {kept[watched]:.4f}, in epoch {kept['epoch']:.0f}"
    last = [epoch for epoch in epochs if "phase" not in epoch][-1]
    end = "the end of the first phase" if rounds else "the end"
    subtitle = f"Training loss at {end}, epoch {last['epoch']:.0f}: {last['loss']:.4f}."
    if watched == "loss":
        title = f"Training loss {kept['loss']:.4f}, after epoch {kept['epoch']:.0f}"
        subtitle = "There are no validation images, so the last weights are kept."
    if rounds:
        reached = f"Validation loss {kept[watched]:.4f} after" if watched == "val_loss" else "After"
        title = f"{reached} {len(rounds)} rounds of the second phase"
    figure = blank_page(WIDTH, 640, title, subtitle)
    line: dict[str, Any] = {"lw": 2, "ms": 4, "marker": "o" if len(epochs) <= 40 else ""}
    left = MARGIN + NUMBERS
    losses = add_axes(figure, left, HEADER + 28, WIDTH - left - MARGIN, 310)
    rates = add_axes(figure, left, HEADER + 404, WIDTH - left - MARGIN, 104)
    for key, colour in zip(names, (BLUE, RED), strict=False):
        drawn = [math.nan if key == "loss" and "phase" in epoch else epoch[key] for epoch in epochs]
        losses.plot(numbers, drawn, color=colour, label=names[key], **line)
    if watched == "val_loss" or not rounds:
        losses.plot(kept["epoch"], kept[watched], "o", ms=12, mfc="none", mec=INK, label="kept")
    if rounds:
        for axes in (losses, rates):
            axes.axvline(rounds[0]["epoch"] - 0.5, color=RULE, lw=1)
    losses.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right")
    values = [epoch["learning_rate"] for epoch in epochs]
    rates.plot(numbers, values, color=FAINT, clip_on=False, **line)
    rates.set(xlabel="epoch", ylim=(0, 1.15 * max(values) or 1))
    _finish(losses, "loss", numbers)
    _finish(rates, "learning rate", numbers)
    return figure


def _finish(axes: Axes, name: str, numbers: list[float]) -> None:
    """Name the y axis, and label the epochs by whole numbers."""
    name_y_axis(axes, name)
    axes.grid(axis="y", color=RULE, lw=0.6)
    beside = max(0.02 * (numbers[-1] - numbers[0]), 0.1)
    axes.set_xlim(numbers[0] - beside, numbers[-1] + beside)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
