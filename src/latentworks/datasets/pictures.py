"""Decoding of picture files. The content tells the format, whatever the name of the file is.

Read are PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF, and, with the package pillow-heif, HEIC. Of a GIF or
TIFF with several frames or pages the first is read; other animated pictures are rejected.
"""

import re
import warnings
import zlib
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from latentworks.datasets.source import MAX_PIXELS, FirstFrame, Reject

WEB = ("PNG", "JPEG", "WEBP")  # formats that the server reads
FORMATS = (*WEB, "BMP", "TIFF", "GIF", "AVIF", "HEIF")
MAX_BYTES = 16 * MAX_PIXELS  # above the size of MAX_PIXELS pixels without compression
BLOCK_BYTES = 1 << 20
START_BYTES = 512  # of a file, which tell its format

# A format of FORMATS, or the code of a reject, by the first bytes.
STARTS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"version https://git-lfs": "lfs_pointer",
    b"PK\3\4": "archive",
    b"\x1f\x8b": "archive",
    b"Rar!": "archive",
    b"7z\xbc\xaf": "archive",
}
AVIF_BRANDS = {b"avif", b"avis"}
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
HTML = re.compile(rb"\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)\b", re.I | re.S)
PNG_CHUNK = re.compile(rb"\w{4}")


class Picture(NamedTuple):
    """A decoded picture, upright."""

    image: np.ndarray  # uint8 or uint16 [h, w, c]: c is 1 to 4, and even with alpha
    is_first: bool  # True if the file has more frames or pages


def decode_image(stream: IO[bytes], num_bytes: int, formats: tuple[str, ...] = FORMATS) -> Picture:
    """Decode a file of `num_bytes` bytes. Raises Reject with a code of `rejects.REASONS`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow raises the faults that matter
            return _decode(stream, num_bytes, formats)
    except Image.DecompressionBombError:
        raise Reject("too_large") from None
    except (Reject, MemoryError):
        raise
    except Exception as error:  # a damaged file can make Pillow raise almost any error
        truncated = "truncated" in str(error).lower()
        raise Reject("truncated" if truncated else "unreadable") from None


def read_picture(stream: IO[bytes], num_bytes: int) -> np.ndarray | FirstFrame:
    """Decode a file of `num_bytes` bytes, in any of FORMATS. Raises Reject as `decode_image`."""
    image, is_first = decode_image(stream, num_bytes)
    return FirstFrame(image) if is_first else image


def _decode(stream: IO[bytes], num_bytes: int, formats: tuple[str, ...]) -> Picture:
    if num_bytes == 0:
        raise Reject("empty")
    if num_bytes > MAX_BYTES:
        raise Reject("too_large")
    start = stream.read(START_BYTES)
    kind = kind_of(start)
    if kind not in formats:
        raise Reject("unsupported_format" if kind in FORMATS else kind)
    if kind == "WEBP" and int.from_bytes(start[4:8], "little") + 8 > num_bytes:
        raise Reject("truncated")  # Pillow reports this like any other damage
    if kind == "HEIF":
        _learn_heif()
    stream.seek(0)
    with Image.open(stream, formats=(kind,)) as picture:
        if picture.width * picture.height > MAX_PIXELS:  # by the header, before decoding
            raise Reject("too_large")
        # Not for JPEG: many cameras put a preview image after the photograph (MPO).
        is_animated = getattr(picture, "is_animated", False)
        if is_animated and kind in ("PNG", "WEBP", "AVIF"):
            raise Reject("animated")
        if kind == "PNG":
            _compare_checksums(stream)  # Pillow then seeks the pixels
        return Picture(to_array(_upright(picture)), is_animated and kind in ("GIF", "TIFF"))


def kind_of(start: bytes) -> str:
    """Return the format, or the code of a reject, of a file by its first START_BYTES bytes."""
    for signature, kind in STARTS.items():
        if start.startswith(signature):
            return kind
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":  # then the brand, a version, and brands that are compatible
        box = start[: int.from_bytes(start[:4], "big")]
        brands = {box[8:12], *(box[place : place + 4] for place in range(16, len(box), 4))}
        if brands & AVIF_BRANDS:
            return "AVIF"
        return "HEIF" if brands & HEIF_BRANDS else "unsupported_format"
    if start[128:132] == b"DICM":
        return "dicom"
    if start[257:262] == b"ustar":
        return "archive"
    return "html" if HTML.match(start) else "unsupported_format"


def _learn_heif() -> None:
    """Let Pillow open HEIC pictures. Raises Reject if the package for this is not installed."""
    try:
        import pillow_heif
    except ImportError:
        raise Reject("heic") from None
    pillow_heif.register_heif_opener()


def _compare_checksums(stream: IO[bytes]) -> None:
    """Raise Reject if a chunk of a PNG has another checksum, or the end is missing.

    Pillow compares the checksums of pixels in `verify` alone, after which it cannot read them.
    """
    stream.seek(8)
    while (head := stream.read(8))[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        if len(head) < 8:
            raise Reject("truncated")
        if not PNG_CHUNK.fullmatch(head, 4):
            raise Reject("unreadable")
        checksum = zlib.crc32(head[4:])
        while length:
            block = stream.read(min(length, BLOCK_BYTES))
            if not block:
                raise Reject("truncated")
            checksum = zlib.crc32(block, checksum)
            length -= len(block)
        expected = stream.read(4)
        if len(expected) < 4:
            raise Reject("truncated")
        if int.from_bytes(expected, "big") != checksum:
            raise Reject("unreadable")


def _upright(picture: Image.Image) -> Image.Image:
    """Return a picture turned as its EXIF data says, without a copy if it is upright."""
    picture.load()  # EXIF data can follow the pixels; a TIFF is turned here
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return ImageOps.exif_transpose(picture) if orientation != 1 else picture


def to_array(picture: Image.Image) -> np.ndarray:
    """Convert a picture in any of Pillow's modes to uint8 or uint16 [h, w, c].

    Raises Reject for 32 bits per pixel and channel: their range is unknown.
    """
    if picture.mode in ("I", "F"):
        raise Reject("too_deep")
    if picture.mode.startswith("I"):  # convert("L") would clip most 16-bit values to 255
        pixels = np.asarray(picture).astype(np.uint16)
    else:
        mode = _plain_mode(picture)
        pixels = np.asarray(picture if mode == picture.mode else picture.convert(mode))
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
