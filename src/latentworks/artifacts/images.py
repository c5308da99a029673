"""Prepared images: the folder that the stage `prepare` writes."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib import format as npy_format

from latentworks.errors import DataError
from latentworks.system import disk

NPY_HEADER_BYTES = 128  # of a version 1.0 header whose shape has up to four axes


class ImageWriter:
    """Writes images one by one to a `.npy` file. Their number may be unknown until the end."""

    def __init__(self, path: Path, image_shape: tuple[int, int, int]) -> None:
        self.image_shape = image_shape
        self.num_images = 0
        self._file = path.open("wb")
        self._file.write(bytes(NPY_HEADER_BYTES))

    def __enter__(self) -> "ImageWriter":
        return self

    def append(self, images: np.ndarray) -> None:
        """Add images: uint8 [N, H, W, C], or a single one [H, W, C]."""
        images = images.reshape(-1, *self.image_shape)
        self._file.write(np.ascontiguousarray(images, dtype=np.uint8).data)
        self.num_images += len(images)

    def __exit__(self, *_: object) -> None:
        shape = (self.num_images, *self.image_shape)
        header = io.BytesIO()
        npy_format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        assert len(header.getvalue()) == NPY_HEADER_BYTES
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.close()


@dataclass(frozen=True)
class Prepared:
    """The content of the folder that `prepare` writes."""

    images: np.ndarray  # uint8 [N, H, W, C], a memory map, which is read on access
    index: pd.DataFrame  # a row for each image: id, split, label, name, height, width
    profile: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; empty if the images have no labels."""
        return list(self.profile["class_names"])

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split in `images`: int64 [n], ascending."""
        return np.flatnonzero((self.index["split"] == split).to_numpy())

    def labels(self, rows: np.ndarray) -> np.ndarray | None:
        """Labels int64 [n], -1 for an image without one; None if the data has no classes."""
        if not self.class_names:
            return None
        return self.index["label"].iloc[rows].fillna(-1).to_numpy(dtype=np.int64)


def write_index(path: Path, index: pd.DataFrame) -> None:
    index.to_parquet(path, index=False)


def read_prepared(folder: Path) -> Prepared:
    """Open the folder that `prepare` wrote. Raises DataError if its files do not fit together."""
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    index = pd.read_parquet(folder / "index.parquet")
    if len(images) != len(index):
        raise DataError(
            f"{folder}: images and index differ in length. Received: {len(images)} images, "
            f"{len(index)} rows. Run `dvc repro --force prepare`."
        )
    return Prepared(images, index, disk.read_json(folder / "profile.json"))
