"""The sections `dataset` and `prepare`: the image source, and the conversion of its images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from latentworks.config import Config

if TYPE_CHECKING:
    from latentworks.datasets.source import Source

SourcePath = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]


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
    """A folder of PNG, JPEG or WebP files; its sub-folders, if any, are the classes."""

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
    """A NumPy archive with `x_train` and, optionally, `y_train`, `x_test` and `y_test`."""

    kind: Literal["npz"]
    path: SourcePath

    def load(self) -> Source:
        from latentworks.datasets.npz import load

        return load(Path(self.path))


DatasetConfig = Annotated[
    FashionMNISTConfig | EmojiConfig | ImageFolderConfig | IDXConfig | NPZConfig,
    Field(discriminator="kind"),
]
BUILT_IN = (FashionMNISTConfig, EmojiConfig)  # stage fetch downloads them


class PrepareConfig(Config):
    """The shape that images are converted to, and the fractions kept for validation and test."""

    image_size: Annotated[int, Field(ge=8, le=1024)]
    channels: Literal[1, 3]
    fit: Literal["pad", "resize"]
    background: Annotated[int, Field(ge=0, le=255)]
    val_fraction: Annotated[float, Field(ge=0, le=0.5)]
    test_fraction: Annotated[float, Field(gt=0, le=0.5)]
    min_images: Annotated[int, Field(ge=2)]
