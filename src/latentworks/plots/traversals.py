"""One latent moved at a time: what each of them does to an image."""

import numpy as np
from matplotlib.figure import Figure

from latentworks.plots.page import FAINT, HEADER, MARGIN, WIDTH, blank_page, place, write
from latentworks.plots.tiles import GAP, Decode, columns_for, fitted, tile

SIDE = 112  # of an image, at most
MAX_ROWS = 10  # latents that are drawn
MAX_STEPS = 15
MAX_POINTS = 20_000  # that percentiles are taken of, or 1000 dimensions would take gigabytes
AT_ONCE = 32  # latents whose images are held in memory
NAME = 106  # for the name of a latent, left of its row
HEADINGS = 24
MIN_WIDTH = 1120  # of the page, for the line under its title


def traversals(decode: Decode, z: np.ndarray, told: str | None = None) -> Figure:
    """A row for each latent, from its 1st to its 99th percentile in the training images.

    `z` is float32 [N, D]. The others stay as in the `typical` image. Of many latents those are
    drawn that change it most: by the variance of its pixels along the row. `told` is the class
    for which a conditional model decodes.
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
        *_title(len(chosen), len(steps), told),
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
    """Which of the latents, float32 [N, D], is the nearest to their median."""
    step = _step(z)
    few = z[::step]
    return step * int(np.linalg.norm(few - np.median(few, axis=0), axis=1).argmin())


def _step(z: np.ndarray) -> int:
    return -(-len(z) // MAX_POINTS)


def _short(number: float) -> str:
    """Two digits, or the whole number where it has more, with a real minus sign."""
    text = f"{number:.0f}" if abs(number) >= 100 else f"{number:.2g}"
    return text.replace("-", "\N{MINUS SIGN}")


def _title(num_rows: int, latent_dim: int, told: str | None) -> tuple[str, str]:
    """The title of the page, and the line under it."""
    image = f"an image of {told}" if told else "an image"
    if latent_dim == 1:
        return f"What the only latent does to {image}", "It moves in equal steps."
    title = f"What each of the {latent_dim} latents does to {image}"
    if num_rows < latent_dim:
        title = f"The {num_rows} of {latent_dim:,} latents that change {image} most"
    return title, (
        "Each row moves one latent in equal steps; the others stay as in a typical training image. "
        "First those whose pixels vary most."
    )


def _effects(decode: Decode, start: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """How much each latent changes the image between both ends and the middle: float [D].

    It is the variance along the row, the mean over pixels.
    """
    few = steps[:, [0, steps.shape[1] // 2, -1]]
    parts = np.split(np.arange(len(steps)), range(AT_ONCE, len(steps), AT_ONCE))
    images = (_moved(decode, start, latents, few) for latents in parts)
    return np.concatenate([each.var(axis=1).mean(axis=(1, 2, 3)) for each in images])


def _moved(decode: Decode, start: np.ndarray, latents: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """What is decoded where one of `latents`, int64 [L], is at its steps: [L, S, H, W, C].

    `start` is where all others stay, [D]; `steps` are of all latents, [D, S].
    """
    points = np.tile(start, (len(latents), steps.shape[1], 1))  # [L, S, D]
    points[np.arange(len(latents)), :, latents] = steps[latents]
    images = decode(points.reshape(-1, len(start)).astype(np.float32))
    return images.reshape(*points.shape[:2], *images.shape[1:])
