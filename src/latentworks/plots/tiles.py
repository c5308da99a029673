"""Tiling of images to one picture. All lengths are pixels."""

from collections.abc import Callable

import numpy as np
from skimage.measure import block_reduce

from latentworks.grid import grid
from latentworks.plots.page import MARGIN, WIDTH

Decode = Callable[[np.ndarray], np.ndarray]  # float32 [M, D] -> float32 [M, H, W, C] in [0, 1]

GAP = 4  # between images
SIDE = 64  # of an image in a grid; larger if the images are few
MAX_SIDE = 256
PICTURE_HEIGHT = 10 * (SIDE + GAP)  # of a grid that fills a page


def tile(images: np.ndarray, num_columns: int) -> np.ndarray:
    """Tile images, row by row with white between them, to one picture: uint8 [h, w, 3].

    `images` is [N, H, W, C] with N >= 1, grey or RGB, uint8 or float in [0, 1]. Fewer images than
    `num_columns` make a narrower picture.
    """
    return grid(fitted(images, max(images.shape[1:3])), min(num_columns, len(images)), GAP)


def fitted(images: np.ndarray, side: int) -> np.ndarray:
    """Resize images so that the larger side is at most `side`: uint8 [N, h, w, 3].

    `images` is [N, H, W, C], grey or RGB, uint8 or float in [0, 1]. The factor is a whole number:
    images are enlarged by repeating pixels, and shrunk by averaging squares of pixels. A side that
    is shorter than a square becomes one pixel.
    """
    if images.dtype == np.uint8:
        images = images / np.float32(255)
    larger = max(images.shape[1:3])
    if larger > side:
        block = -(-larger // side)
        height, width = (
            max(min(block, length), length // block * block) for length in images.shape[1:3]
        )
        square = min(block, height), min(block, width)
        images = block_reduce(images[:, :height, :width], (1, *square, 1), np.mean)
    images = np.round(images.clip(0, 1) * 255).astype(np.uint8)
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    zoom = max(1, side // larger)
    return images.repeat(zoom, axis=1).repeat(zoom, axis=2)


def side_to_fill_page(
    num_cells: int, shape: tuple[int, ...] = (1, 1), images_per_cell: int = 1
) -> int:
    """Return the largest longer side of images with which `num_cells` cells fit on a page.

    `shape` begins with the height and width of the images. A cell has `images_per_cell` images, one
    above the other.
    """

    def fits(side: int) -> bool:
        height, width = (side * length // max(shape[:2]) for length in shape[:2])
        num_rows = -(-num_cells // columns_for(width))
        return num_rows * images_per_cell * (height + GAP) <= PICTURE_HEIGHT

    return max(filter(fits, range(SIDE, MAX_SIDE + 1)), default=SIDE)


def columns_for(width: int, room: int = WIDTH - 2 * MARGIN) -> int:
    """Return how many images of this width fit side by side."""
    return max(1, (room + GAP) // (width + GAP))
