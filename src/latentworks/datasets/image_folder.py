"""Folders of PNG, JPEG and WebP files. The first level of sub-folders names the classes.

Files directly in the folder have no label. Hidden files and folders are ignored; every other file
is counted, with the reason if it is rejected.
"""

import os
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from latentworks.datasets.source import MAX_PIXELS, Item, Reject, Source
from latentworks.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
MAX_BYTES = 16 * MAX_PIXELS  # above the size of MAX_PIXELS pixels without compression


def load(path: Path) -> Source:
    """List a folder, without opening its files. Raises DataError if it has no files."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. Correct dataset.path, or put the images there.")
    root = os.path.realpath(path)
    try:
        files = sorted(_files(root), key=PurePath)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}.") from None
    if not files:
        raise DataError(f"{path}: the folder is empty. Expected PNG, JPEG or WebP files.")
    classes = sorted({file.split(os.sep)[0] for file in files if os.sep in file})
    label_of = {name: label for label, name in enumerate(classes)}
    items = [
        Item(
            name=_printable(file),
            read=partial(read_image, root, file),
            label=label_of.get(file.split(os.sep)[0]),
        )
        for file in files
    ]
    return Source(items, len(items), tuple(map(_printable, classes)), decodes=True)


def _files(root: str, folder: str = "") -> Iterator[str]:
    """Yield the relative paths of all files. A link to a folder counts as a file."""
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(root, path)
            else:
                yield path


def _printable(path: str) -> str:
    """Escape the bytes of a file name that are not UTF-8, so that reports can show it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_image(root: str, file: str) -> np.ndarray:
    """Decode a file, upright, to uint8 or uint16 [h, w, c]: c is 1 to 4, and even with alpha.

    Raises Reject: link_outside, unsupported_format, unreadable, empty, too_large, truncated,
    animated.
    """
    path = os.path.realpath(os.path.join(root, file))
    if os.path.commonpath([root, path]) != root:
        raise Reject("link_outside")
    if not file.lower().endswith(EXTENSIONS):
        raise Reject("unsupported_format")
    if not os.path.isfile(path):  # a folder, a broken link, or a pipe, which would block forever
        raise Reject("unreadable")
    with open(path, "rb") as stream:
        return decode_image(stream, os.fstat(stream.fileno()).st_size)


def decode_image(stream: IO[bytes], num_bytes: int) -> np.ndarray:
    """Decode an image of `num_bytes` bytes: see `read_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow raises the faults that matter
            return _decode(stream, num_bytes)
    except Image.DecompressionBombError:
        raise Reject("too_large") from None
    except (Reject, MemoryError):
        raise
    except Exception as error:  # a damaged file can make Pillow raise almost any error
        truncated = "truncated" in str(error).lower()
        raise Reject("truncated" if truncated else "unreadable") from None


def _decode(stream: IO[bytes], num_bytes: int) -> np.ndarray:
    if num_bytes == 0:
        raise Reject("empty")
    if num_bytes > MAX_BYTES:
        raise Reject("too_large")
    header = stream.read(8)
    if header[:4] == b"RIFF" and int.from_bytes(header[4:], "little") + 8 > num_bytes:
        raise Reject("truncated")  # Pillow reports this like any other damage
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:  # by the header, before decoding
            raise Reject("too_large")
        # MPO: the JPEG of many cameras, with a preview image after the photograph.
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            raise Reject("animated")
        if picture.format == "PNG":  # Pillow checks PNG checksums in verify() only
            picture.verify()  # the picture cannot be used afterwards
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as picture:
        return to_array(ImageOps.exif_transpose(picture))


def to_array(picture: Image.Image) -> np.ndarray:
    """Convert a picture in any of Pillow's modes to uint8 or uint16 [h, w, c]."""
    if picture.mode.startswith("I"):  # convert("L") would clip most 16-bit values to 255
        pixels = np.asarray(picture).clip(0, 65535).astype(np.uint16)
    else:
        pixels = np.asarray(picture.convert(_plain_mode(picture)))
    return pixels.reshape(picture.height, picture.width, -1)


def _plain_mode(picture: Image.Image) -> str:
    transparent = "transparency" in picture.info
    if picture.mode in ("1", "L"):
        return "LA" if transparent else "L"
    if picture.mode in ("LA", "RGBA"):
        return picture.mode
    if picture.mode == "La":
        return "LA"
    return "RGBA" if transparent or picture.mode in ("PA", "RGBa") else "RGB"
