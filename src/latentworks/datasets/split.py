"""Assignment of images to splits by their content: stable when a dataset grows."""

import hashlib

import numpy as np

from latentworks.datasets.source import Split


def content_id(image: np.ndarray) -> str:
    """Hash a prepared image: 32 hexadecimal digits of the SHA-256 of its shape and bytes."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def split_of(content_id: str, val_fraction: float, test_fraction: float) -> Split:
    """Choose the split of an image by its id alone, so that other images never change it.

    `test_fraction` of all images are test; `val_fraction` of the remaining images are val.
    """
    position = int(content_id[:13], 16) / 16**13  # uniform in [0, 1); 52 bits, exact as a float
    if position < test_fraction:
        return "test"
    if position < test_fraction + (1 - test_fraction) * val_fraction:
        return "val"
    return "train"


def choose_split(
    own: Split | None,
    content_id: str,
    val_fraction: float,
    test_fraction: float,
    splits: frozenset[Split],
) -> Split:
    """Choose the split of an image; `own` is that of the source, and `splits` are all it has.

    Images of the source's val and test stay there. The splits that the source lacks are chosen by
    id from its train.
    """
    if own is None:
        return split_of(content_id, val_fraction, test_fraction)
    if own != "train":
        return own
    return split_of(
        content_id,
        0 if "val" in splits else val_fraction,
        0 if "test" in splits else test_fraction,
    )
