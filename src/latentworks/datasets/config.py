"""The sections `dataset` and `prepare`: the image source, and the conversion of its images."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeGuard

from pydantic import AfterValidator, Field, PlainValidator

from latentworks.config import Config
from latentworks.params.faults import escaped

if TYPE_CHECKING:
    from latentworks.datasets.source import Source

MAX_SHOWN = 100  # characters of a path in a message


def _local(path: str) -> str:
    """Return a path that DVC can open as a dep. Raises ValueError for an address, and for ~."""
    shown = escaped(path[:MAX_SHOWN])
    if re.match(r"[A-Za-z][\w+.-]*://", path):
        raise ValueError(
            "should be a path on this machine. Download the images first, such as by "
            f"`dvc import-url {shown} photos`"
        )
    if path.startswith("~"):
        home = escaped(os.path.expanduser(path)[:MAX_SHOWN])
        raise ValueError(f"should be a path without ~, which DVC does not expand: {home}")
    return path


SourcePath = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$"), AfterValidator(_local)]


class FashionMNISTConfig(Config):
    """Fashion-MNIST (Xiao et al. 2017, MIT licence): 70 000 grey images in 10 classes."""

    kind: Literal["fashion_mnist"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.fashion_mnist import load

        return load(Path(self.path))

    def fetch(self, folder: Path, downloads: Path) -> list[str]:
        """Download the files into `folder`, and return the outcomes. Raises DataError."""
        from latentworks.datasets.fashion_mnist import download

        return download(folder, downloads)


class EmojiConfig(Config):
    """3,786 emoji of 64x64 pixels in 10 categories: drawings of Twemoji, CC BY 4.0."""

    kind: Literal["emoji"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.emoji import load

        return load(Path(self.path))

    def fetch(self, folder: Path, downloads: Path) -> list[str]:
        """Download the images into `folder`, and return the outcome. Raises DataError."""
        from latentworks.datasets.emoji import download

        return download(folder, downloads)


class ImageFolderConfig(Config):
    """A folder of pictures. Sub-folders, or a file of labels, name classes and splits."""

    kind: Literal["image_folder"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.image_folder import load

        return load(Path(self.path))


class IDXConfig(Config):
    """A folder of IDX files, the format of MNIST, gzipped or not."""

    kind: Literal["idx"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.idx import load

        return load(Path(self.path))


class NPZConfig(Config):
    """A NumPy archive with `x_train` and, optionally, `y_train`, `x_test` and others; or `.npy`."""

    kind: Literal["npz"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.npz import load

        return load(Path(self.path))


class HDF5Config(Config):
    """An HDF5 file with datasets named as the arrays of `npz`."""

    kind: Literal["hdf5"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.hdf5 import load

        return load(Path(self.path))


class ParquetConfig(Config):
    """Parquet files with a column of pictures, as Hugging Face's datasets store them."""

    kind: Literal["parquet"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.parquet import load

        return load(Path(self.path))


class TarConfig(Config):
    """Tar files of pictures and labels, as WebDataset stores them."""

    kind: Literal["tar"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.tar import load

        return load(Path(self.path))


class CSVConfig(Config):
    """CSV files with a label and the pixels of an image in each row."""

    kind: Literal["csv"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.csv_file import load

        return load(Path(self.path))


DatasetConfig = Annotated[
    FashionMNISTConfig
    | EmojiConfig
    | ImageFolderConfig
    | IDXConfig
    | NPZConfig
    | HDF5Config
    | ParquetConfig
    | TarConfig
    | CSVConfig,
    Field(discriminator="kind"),
]
BUILT_IN = (FashionMNISTConfig, EmojiConfig)  # stage fetch downloads them


def _value_range(value: object) -> Literal["auto", "full"] | tuple[float, float]:
    if value == "auto" or value == "full":
        return value
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) == 2 and all(type(number) in (int, float) for number in numbers):
        low, high = numbers
        if -1e9 <= low < high <= 1e9:
            return low, high
    raise ValueError("should be auto, full, or two numbers: [value of black, value of white]")


ValueRange = Annotated[Literal["auto", "full"] | tuple[float, float], PlainValidator(_value_range)]


MIN_SIDE, MAX_SIDE = 8, 1024  # pixels


def _is_side(value: object) -> TypeGuard[int]:
    return type(value) is int and MIN_SIDE <= value <= MAX_SIDE


def _image_size(value: object) -> int | tuple[int, int]:
    if _is_side(value):
        return value
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_side, value)):
        return value[0], value[1]
    raise ValueError(
        f"should be pixels from {MIN_SIDE} to {MAX_SIDE}: a number for square images, or "
        "[height, width]"
    )


ImageSize = Annotated[int | tuple[int, int], PlainValidator(_image_size)]


class PrepareConfig(Config):
    """The shape that images are converted to, and the fractions kept for validation and test."""

    image_size: ImageSize
    channels: Literal[1, 3]
    fit: Literal["pad", "resize", "crop"]
    background: Annotated[int, Field(ge=0, le=255)]
    value_range: ValueRange = "auto"  # files from before this key lack it
    val_fraction: Annotated[float, Field(ge=0, le=0.5)]
    test_fraction: Annotated[float, Field(gt=0, le=0.5)]
    min_images: Annotated[int, Field(ge=2)]
    max_rejects: Annotated[float, Field(ge=0, le=1)] | None = None  # older files lack it: no limit

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of prepared images: height, width, channels."""
        size = self.image_size
        return (*((size, size) if isinstance(size, int) else size), self.channels)
