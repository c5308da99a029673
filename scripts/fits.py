"""Draw what each value of `prepare.fit` makes of a photograph and of a small picture.

`python scripts/fits.py` writes PICTURE. The photograph comes with scikit-image: a cat, CC0, by
Stefan van der Walt.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from skimage.data import chelsea

from latentworks.artifacts.figures import write_figure
from latentworks.plots.page import FAINT, HEADER, MARGIN, blank_page, place, write
from latentworks.preprocess import Fit, prepare_image
from latentworks.repository import dag
from latentworks.system import disk

PICTURE = Path("docs/pictures/fits.png")
ZOOM = 2  # pixels of the picture for a pixel of a prepared image
SIZE = 96  # pixels, the longer side of a frame
SMALL = 66, 44  # width and height of the small picture
ORIGINAL, GAP, SPACE = 312, 28, 24  # the column of the originals; between columns; between rows
HEADINGS, LINE = 48, 24  # heights
OUTLINE = 231, 99, 0  # orange
FITS: dict[Fit, str] = {
    "pad": "fits; never enlarged",
    "resize": "fits; shrunk or enlarged",
    "crop": "fills; the centre is kept",
}


class Row(NamedTuple):
    """An image uint8 [h, w, 3], and the height and width of the frame for which it is prepared."""

    image: np.ndarray
    frame: tuple[int, int]
    zoom: float  # of the image in the picture

    def original(self) -> np.ndarray:
        """The image as it is drawn, with an outline of the part that `crop` keeps."""
        height, width = (round(self.zoom * side) for side in self.image.shape[:2])
        how = Image.Resampling.LANCZOS if self.zoom < 1 else Image.Resampling.NEAREST
        drawn = np.array(Image.fromarray(self.image).resize((width, height), how))
        scale = max(self.frame[0] / height, self.frame[1] / width)
        top, left = (
            round((side - frame / scale) / 2)
            for side, frame in zip((height, width), self.frame, strict=True)
        )
        outlined = drawn.copy()
        outlined[top : height - top, left : width - left] = OUTLINE
        inner = slice(top + 2, height - top - 2), slice(left + 2, width - left - 2)
        outlined[inner] = drawn[inner]
        return outlined

    def prepared(self, fit: Fit) -> np.ndarray:
        pixels = prepare_image(self.image, shape=(*self.frame, 3), fit=fit, background=0)
        return pixels.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


def rows() -> list[Row]:
    photograph = chelsea()
    small = np.asarray(Image.fromarray(photograph).resize(SMALL, Image.Resampling.BICUBIC))
    square, wide = (SIZE, SIZE), (SIZE * 2 // 3, SIZE)
    return [
        *(
            Row(photograph, frame, ZOOM * frame[0] / len(photograph))  # as high as the frame
            for frame in (square, wide)
        ),
        Row(small, square, ZOOM),
    ]


def draw() -> Figure:
    """Draw a row for each image and frame, and a column for each `fit`."""
    shown = rows()
    lefts = [MARGIN + ORIGINAL + column * (ZOOM * SIZE + GAP) for column in range(len(FITS))]
    heights = [LINE + ZOOM * row.frame[0] + SPACE for row in shown]
    figure = blank_page(
        lefts[-1] + ZOOM * SIZE + MARGIN,
        HEADER + HEADINGS + sum(heights) - SPACE + MARGIN,
        "An image in its frame: prepare.fit",
        "Prepared images are drawn at twice their size. The outline is the part that crop keeps.",
    )
    for left, (fit, effect) in zip(lefts, FITS.items(), strict=True):
        write(figure, left, HEADER + 16, fit, size=12, weight="bold")
        write(figure, left, HEADER + 36, effect, color=FAINT)
    top = HEADER + HEADINGS
    for row, height in zip(shown, heights, strict=True):
        _draw_row(figure, row, top, lefts)
        top += height
    return figure


def _draw_row(figure: Figure, row: Row, top: int, lefts: list[int]) -> None:
    height, width = row.image.shape[:2]
    write(figure, MARGIN, top + 15, f"{width} x {height} pixels", color=FAINT)
    place(figure, row.original(), MARGIN, top + LINE)
    size = row.frame[0] if row.frame[0] == row.frame[1] else [*row.frame]
    for left, fit in zip(lefts, FITS, strict=True):
        write(figure, left, top + 15, f"image_size: {size}", color=FAINT)
        place(figure, row.prepared(fit), left, top + LINE)


def main() -> None:
    path = dag.root() / PICTURE
    with disk.replacing(path) as temporary:
        write_figure(temporary, draw())
    print(f"{path}: written")


if __name__ == "__main__":
    main()
