"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747), published under MIT."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from latentworks.datasets import idx
from latentworks.datasets.debian_mirror import DebianMirror
from latentworks.datasets.fetching import fetch
from latentworks.datasets.http_mirror import HTTPMirror
from latentworks.datasets.pinned import Mirror, PinnedFile
from latentworks.datasets.source import Source
from latentworks.errors import DataError

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# Sizes and digests of the decompressed files: the gzipped files differ between mirrors.
FILES = (
    PinnedFile(
        "train-images-idx3-ubyte",
        47_040_016,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    PinnedFile(
        "train-labels-idx1-ubyte",
        60_008,
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    PinnedFile(
        "t10k-images-idx3-ubyte",
        7_840_016,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    PinnedFile(
        "t10k-labels-idx1-ubyte",
        10_008,
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)

MIRRORS: tuple[Mirror, ...] = (
    HTTPMirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
    DebianMirror("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
)


def load(path: Path) -> Source:
    """Open a folder with the four decompressed files. Raises DataError if a file differs."""
    for pinned in FILES:
        file = path / pinned.name
        if not file.is_file():
            raise DataError(f"{file}: no such file. Correct dataset.path in params.yaml.")
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != pinned.sha256:
            raise DataError(
                f"{file}: not the file of Fashion-MNIST. Expected SHA-256 {pinned.sha256}. "
                f"Received: {digest}. Set dataset.kind to idx to read other data."
            )
    return replace(idx.load(path), class_names=CLASS_NAMES)


def download(folder: Path, downloads: Path, mirrors: Sequence[Mirror] = MIRRORS) -> list[str]:
    """Download the four files into `folder`: see `fetch`."""
    return fetch(FILES, mirrors, downloads, folder)
