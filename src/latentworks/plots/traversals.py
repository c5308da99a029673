"""Latent traversals: images decoded while one latent moves and the others stay."""

import numpy as np
from matplotlib.figure import Figure

from latentworks.plots.page import FAINT, HEADER, MARGIN, WIDTH, blank_page, place, write
from latentworks.plots.tiles import GAP, Decode, columns_for, fitted, tile

SIDE = 112  # of an image, at most
MAX_ROWS = 10  # latents that are drawn
MAX_STEPS = 15
MAX_POINTS = 20_000  # for the percentiles; with 1000 latents, more points would take gigabytes
AT_ONCE = 32  # latents whose images are in memory at once
NAME = 106  # for the name of a latent, left of its row
HEADINGS = 24
MIN_WIDTH = 1120  # of the page, for the line under its title


def traversals(decode: Decode, z: np.ndarray, class_name: str | None = None) -> Figure:
    """Draw a row for each latent, which moves from its 1st to its 99th percentile.

    `z` is float32 [N, D], the latents of training images. The other latents stay as in the
    `typical` image. If there are many latents, those with the largest effect are drawn: the
    variance of the pixels along the row. `class_name` is the class for which a conditional model
    decodes.
    """
    start = z[typical(z)]
    z = z[:: _step(z)]
    height, width = fitted(decode(start[None]), SIDE).shape[1:3]
    num_steps = min(columns_for(width, WIDTH - 2 * MARGIN - NAME), MAX_STEPS)
    low, high = np.percentile(z, [1, 99], axis=0)
    steps = np.linspace(low, high, num_steps, axis=1)  # [D, S]
    chosen = np.argsort(-_effects(decode, start, steps), kind="stable")[:MAX_ROWS]
    figure = blank_page(
        max(2 * MARGIN + NAME + num_steps * (width + GAP) - GAP, MIN_WIDTH),
        HEADER + HEADINGS + len(chosen) * (height + GAP) - GAP + MARGIN,
        *_title(len(chosen), len(steps), class_name),
    )
    left, right = MARGIN + NAME, MARGIN + NAME + num_steps * (width + GAP) - GAP
    write(figure, left, HEADER + 14, "1st percentile", color=FAINT)
    write(figure, right, HEADER + 14, "99th percentile", ha="right", color=FAINT)
    for row, images in enumerate(_moved(decode, start, chosen, steps)):
        top = HEADER + HEADINGS + row * (height + GAP)
        place(figure, tile(fitted(images, SIDE), num_steps), left, top)
        write(figure, MARGIN, top + height / 2 - 2, f"z{chosen[row]}", size=10)
        span = f"{_short(low[chosen[row]])} to {_short(high[chosen[row]])}"
        write(figure, MARGIN, top + height / 2 + 14, span, NAME - 8, size=8, color=FAINT)
    return figure


def typical(z: np.ndarray) -> int:
    """Return the row of the latents, float32 [N, D], that is nearest to their median."""
    step = _step(z)
    few = z[::step]
    return step * int(np.linalg.norm(few - np.median(few, axis=0), axis=1).argmin())


def _step(z: np.ndarray) -> int:
    return -(-len(z) // MAX_POINTS)


def _short(number: float) -> str:
    """Format a number by two digits, or all before the point, with a typographic minus sign."""
    text = f"{number:.0f}" if abs(number) >= 100 else f"{number:.2g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _title(num_rows: int, latent_dim: int, class_name: str | None) -> tuple[str, str]:
    """The title of the page, and the line under it."""
    image = f"an image of {class_name}" if class_name else "an image"
    if latent_dim == 1:
        return f"Effect of the only latent on {image}", "It moves in equal steps."
    title = f"Effect of each of the {latent_dim} latents on {image}"
    if num_rows < latent_dim:
        title = f"The {num_rows} of {latent_dim:,} latents that change {image} most"
    return title, (
        "Each row moves one latent in equal steps; the others stay as in a typical training image. "
        "First those whose pixels vary most."
    )


def _effects(decode: Decode, start: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Measure how much each latent changes the image: float [D].

    The measure is the variance over the two ends and the middle of a row, averaged over pixels.
    """
    few = steps[:, [0, steps.shape[1] // 2, -1]]
    parts = np.split(np.arange(len(steps)), range(AT_ONCE, len(steps), AT_ONCE))
    images = (_moved(decode, start, latents, few) for latents in parts)
    return np.concatenate([each.var(axis=1).mean(axis=(1, 2, 3)) for each in images])


def _moved(decode: Decode, start: np.ndarray, latents: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Decode each of `latents`, int64 [L], at its steps: images [L, S, H, W, C].

    `start`, [D], has the values of the other latents; `steps`, [D, S], the steps of every latent.
    """
    points = np.tile(start, (len(latents), steps.shape[1], 1))  # [L, S, D]
    points[np.arange(len(latents)), :, latents] = steps[latents]
    images = decode(points.reshape(-1, len(start)).astype(np.float32))
    return images.reshape(*points.shape[:2], *images.shape[1:])
