"""Images of one size side by side in one picture."""

import numpy as np


def grid(images: np.ndarray, num_columns: int, gap: int = 0) -> np.ndarray:
    """Lay out images uint8 [N, H, W, C], row by row with `gap` white pixels between them.

    Returns uint8 [h, w, C]. Empty places are white.
    """
    missing = -len(images) % num_columns
    cells = np.pad(images, ((0, missing), (0, gap), (0, gap), (0, 0)), constant_values=255)
    height, width, channels = cells.shape[1:]
    rows = cells.reshape(-1, num_columns, height, width, channels).swapaxes(1, 2)
    picture = rows.reshape(-1, num_columns * width, channels)
    return picture[: len(picture) - gap, : num_columns * width - gap]
