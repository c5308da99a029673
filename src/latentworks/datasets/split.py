"""The split that an image is in, by its content: it never changes sides when the data grows."""

import hashlib

import numpy as np

from latentworks.datasets.source import Split


def content_id(image: np.ndarray) -> str:
    """32 hexadecimal digits of the SHA-256 of a prepared image's shape and bytes."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def split_of(content_id: str, val_fraction: float, test_fraction: float) -> Split:
    """The split of an image, by its id alone, so that it never changes when other images come.

    Of all images `test_fraction` are test; of those that are left, `val_fraction` are val.
    """
    position = int(content_id[:13], 16) / 16**13  # uniform in [0, 1); 52 bits, exact as a float
    if position < test_fraction:
        return "test"
    if position < test_fraction + (1 - test_fraction) * val_fraction:
        return "val"
    return "train"


def choose_split(
    own: Split | None, content_id: str, val_fraction: float, test_fraction: float
) -> Split:
    """Where the source itself separates train from test, only val is left to the id."""
    if own is None:
        return split_of(content_id, val_fraction, test_fraction)
    return split_of(content_id, val_fraction, test_fraction=0) if own == "train" else own
