"""A folder of PNG, JPEG and WebP files. The first level of sub-folders names the classes.

Files directly in the folder have no label. Hidden files and folders are passed over; every other
file is counted, with the reason if it cannot be used.
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
MAX_BYTES = 16 * MAX_PIXELS  # more than an image of MAX_PIXELS takes without any compression


def load(path: Path) -> Source:
    """List a folder; its files are opened later. Raises DataError."""
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
    """Relative paths of all files. A link to a folder is not followed, but counts as a file."""
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
    """File names are bytes; those which are not UTF-8 can still be written to a report."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_image(root: str, file: str) -> np.ndarray:
    """Decode one file, upright: uint8 or uint16 [h, w, c], c 1 to 4, even with alpha.

    Raises Reject: link_outside, unsupported_format, unreadable, empty, too_large, truncated,
    animated.
    """
    path = os.path.realpath(os.path.join(root, file))
    if os.path.commonpath([root, path]) != root:
        raise Reject("link_outside")
    if not file.lower().endswith(EXTENSIONS):
        raise Reject("unsupported_format")
    if not os.path.isfile(path):  # a folder, a broken link, a pipe that would wait for ever
        raise Reject("unreadable")
    with open(path, "rb") as stream:
        return decode_image(stream, os.fstat(stream.fileno()).st_size)


def decode_image(stream: IO[bytes], num_bytes: int) -> np.ndarray:
    """Decode an image of a known size in bytes, upright: see `read_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: what matters here is raised
            return _decode(stream, num_bytes)
    except Image.DecompressionBombError:
        raise Reject("too_large") from None
    except (Reject, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
        truncated = "truncated" in str(error).lower()
        raise Reject("truncated" if truncated else "unreadable") from None


def _decode(stream: IO[bytes], num_bytes: int) -> np.ndarray:
    if num_bytes == 0:
        raise Reject("empty")
    if num_bytes > MAX_BYTES:
        raise Reject("too_large")
    header = stream.read(8)
    if header[:4] == b"RIFF" and int.from_bytes(header[4:], "little") + 8 > num_bytes:
        raise Reject("truncated")  # Pillow does not tell this from other damage
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as picture:
        if picture.width * picture.height > MAX_PIXELS:  # by the header: nothing is decoded yet
            raise Reject("too_large")
        # An MPO is a photograph with its preview behind it, as many cameras write a JPEG.
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            raise Reject("animated")
        if picture.format == "PNG":  # whose checksums Pillow does not compare while it decodes
            picture.verify()  # which uses the picture up
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as picture:
        return to_array(ImageOps.exif_transpose(picture))


def to_array(picture: Image.Image) -> np.ndarray:
    """The pixels of a picture in any of Pillow's modes: uint8 or uint16 [h, w, c]."""
    if picture.mode.startswith("I"):  # convert("L") would clip 16 bits to two values
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
