"""Pages of images: samples, reconstructions, interpolations."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from latentworks.plots.page import (
    FAINT,
    HEADER,
    MARGIN,
    MAX_NAMED,
    WIDTH,
    blank_page,
    place,
    write,
)
from latentworks.plots.tiles import (
    GAP,
    PICTURE_HEIGHT,
    SIDE,
    Decode,
    columns_for,
    fitted,
    side_to_fill_page,
    tile,
)

MIN_WIDTH = 720  # of a page with few images, for its title
SPACE = 20  # between groups of images
NAME = 150  # for the name of a class, left of its row


def samples(images: np.ndarray, title: str) -> Figure:
    """Draw the first images, as many as fit: [N, H, W, C], uint8 or float in [0, 1]."""
    shown = fitted(images[:200], side_to_fill_page(len(images), images.shape[1:]))
    num_columns = columns_for(shown.shape[2])
    shown = shown[: max(1, PICTURE_HEIGHT // (shown.shape[1] + GAP)) * num_columns]
    subtitle = f"{len(shown)} of {len(images):,}, not hand-picked."
    return _picture_page(tile(shown, num_columns), title, subtitle)


def class_samples(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw a row of the first samples of each class.

    Images are uint8 [N, H, W, C], labels int64 [N], the classes that the samples were drawn for.
    """
    classes = np.unique(labels)[:MAX_NAMED]
    side = int(np.clip(PICTURE_HEIGHT // len(classes) - GAP, SIDE, 2 * SIDE))
    height, width = fitted(images[:1], side).shape[1:3]
    num_columns = columns_for(width, WIDTH - 2 * MARGIN - NAME)
    rows = [np.flatnonzero(labels == label)[:num_columns] for label in classes]
    most = max(map(len, rows))
    title, subtitle = (
        "Samples of each class",
        f"Up to {most} of each, the first ones, not hand-picked.",
    )
    if left_out := len(class_names) - len(classes):
        title = f"Samples of {len(classes)} of {len(class_names):,} classes"
        subtitle += f" Classes left out: {left_out:,}."
    figure = blank_page(
        max(2 * MARGIN + NAME + most * (width + GAP) - GAP, MIN_WIDTH),
        HEADER + len(classes) * (height + GAP) - GAP + MARGIN,
        title,
        subtitle,
    )
    for line, (label, row) in enumerate(zip(classes, rows, strict=True)):
        top = HEADER + line * (height + GAP)
        write(figure, MARGIN, top + height / 2 + 4, class_names[label], NAME - SPACE)
        place(figure, tile(fitted(images[row], side), most), MARGIN + NAME, top)
    return figure


def reconstructions(originals: np.ndarray, reconstructed: np.ndarray) -> Figure:
    """Draw originals, uint8, above their reconstructions, float32 in [0, 1]: both [N, H, W, C].

    At most five rows are drawn. The title has the mean squared error of these pairs.
    """
    side = side_to_fill_page(len(originals), originals.shape[1:], images_per_cell=2)
    num_columns = columns_for(fitted(originals[:1], side).shape[2])
    originals, reconstructed = originals[: 5 * num_columns], reconstructed[: 5 * num_columns]
    above, below = fitted(originals, side), fitted(reconstructed, side)
    white = np.full_like(above[:, : 4 * GAP], 255)
    pairs = np.concatenate([above, white[:, : GAP // 2], below, white], axis=1)
    picture = tile(pairs, num_columns)[: -4 * GAP]
    error = np.mean((originals / 255.0 - reconstructed) ** 2)
    return _picture_page(
        picture,
        f"Reconstructions: mean squared error {error:.4f}",
        f"Originals above, reconstructions below. Images shown: {len(originals)}.",
    )


def _picture_page(picture: np.ndarray, title: str, subtitle: str) -> Figure:
    """Make a page that one picture fills."""
    width = max(picture.shape[1] + 2 * MARGIN, MIN_WIDTH)
    figure = blank_page(width, HEADER + len(picture) + MARGIN, title, subtitle)
    place(figure, picture, MARGIN, HEADER)
    return figure


def interpolations(
    decode: Decode,
    starts: np.ndarray,
    ends: np.ndarray,
    start_images: np.ndarray,
    end_images: np.ndarray,
    num_steps: int,
    remark: str = "",
) -> Figure:
    """Draw lines in latent space, one per row: an image, `num_steps` decoded points, an image.

    `starts` and `ends` are latents, float32 [R, D], of `start_images` and `end_images`,
    [R, H, W, C]. `remark` is added to the line under the title.
    """
    shares = np.linspace(0, 1, num_steps, dtype=np.float32)
    points = starts[:, None] + shares[:, None] * (ends - starts)[:, None]  # [R, S, D]
    decoded = decode(points.reshape(-1, starts.shape[1]))
    side = min(2 * SIDE, (WIDTH - 2 * MARGIN) // (num_steps + 3) - GAP)
    pictures = [
        tile(fitted(images, side), num_columns)
        for images, num_columns in ((start_images, 1), (decoded, num_steps), (end_images, 1))
    ]
    headings = ["original"], [f"{share:.0%}" for share in shares], ["original"]
    width = 2 * MARGIN + 2 * SPACE + sum(picture.shape[1] for picture in pictures)
    figure = blank_page(
        max(width, MIN_WIDTH),
        HEADER + 24 + len(pictures[0]) + MARGIN,
        f"Straight lines through {starts.shape[1]}-dimensional latent space",
        f"From the image on the left to the one on the right, decoded at equal distances.{remark}",
    )
    left = MARGIN
    for picture, names in zip(pictures, headings, strict=True):
        place(figure, picture, left, HEADER + 24)
        pitch = (picture.shape[1] + GAP) / len(names)
        for column, name in enumerate(names):
            centre = left + column * pitch + (pitch - GAP) / 2
            write(figure, centre, HEADER + 14, name, ha="center", color=FAINT)
        left += picture.shape[1] + SPACE
    return figure
