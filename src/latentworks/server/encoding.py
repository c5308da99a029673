"""What travels over HTTP: arrays and pictures, in JSON or plain."""

import base64
import binascii
import io
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from PIL import Image

from latentworks.datasets.image_folder import decode_image
from latentworks.datasets.source import Reject
from latentworks.errors import InputError
from latentworks.serving.inputs import MAX_PIXELS

PNG = "image/png"
JSON = "application/json"
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")  # of PNG, JPEG and WebP
IN_BASE64 = (b"iVBOR", b"/9j/", b"UklGR")  # the same
LARGE = 100_000  # bytes or numbers: what takes longer than others should wait
FIELDS = ("inputs", "images", "num", "seed", "label")
DATA_URL = "data:"


@dataclass(frozen=True)
class Call:
    """What somebody asks for."""

    inputs: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    as_png: bool = False  # the answer is one picture, and not JSON
    base64: bool = False  # images in JSON are PNG files in base64, and not arrays


class NotJSON(InputError):
    """The body is neither JSON nor a picture."""


def read(body: bytes, accept: str) -> Call:
    """A call from the body of a POST. Raises InputError.

    The body is a picture, or JSON: `inputs`, arrays or PNG files in base64; params beside it; and
    `images`, how those of the answer are written, "arrays" or "base64".
    """
    if body.startswith(SIGNATURES):
        return Call([picture(body, MAX_PIXELS)], as_png=JSON not in accept)
    given = read_json(body)
    for name in given:
        if name not in FIELDS:
            raise InputError(f"unknown field {name[:50]!r}. Expected: {', '.join(FIELDS)}.")
    images = given.pop("images", "arrays")
    if images not in ("arrays", "base64"):
        raise InputError(f'images is "arrays" or "base64". Received: {str(images)[:50]!r}.')
    inputs = read_inputs(given.pop("inputs", None), body)
    if None in given.values():
        raise InputError("a param has a value or is left out. Received: null.")
    params = {name: whole(value) for name, value in given.items()}
    return Call(inputs, params, PNG in accept and JSON not in accept, images == "base64")


def is_large(body: bytes) -> bool:
    """Whether to read it may take long: a small file can be a large picture."""
    pictures = body.startswith(SIGNATURES) or any(each in body for each in IN_BASE64)
    return pictures or len(body) >= LARGE


def whole(value: Any) -> Any:
    """A number of JSON as Python has it: 2.0 is a whole number there, too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_json(body: bytes) -> dict[str, Any]:
    """The fields of an object. Raises NotJSON."""
    if not body:
        raise NotJSON("the body is empty. Expected JSON or a picture.")
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotJSON(f"the body is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise InputError(f"expected a JSON object. Received: {type(given).__name__}.")
    return given


def read_inputs(inputs: Any, body: bytes) -> Any:
    """Arrays as they are, pictures in base64 as arrays. Raises InputError."""
    if isinstance(inputs, str):
        inputs = [inputs]
    if not (isinstance(inputs, list) and inputs and isinstance(inputs[0], str)):
        if inputs is not None and _has_bools(body) and _has_bools(orjson.dumps(inputs)):
            raise InputError("inputs are numbers. Received: true or false.")
        return inputs
    images: list[np.ndarray] = []
    left = MAX_PIXELS
    for text in inputs:
        if not isinstance(text, str):
            raise InputError("inputs are arrays or pictures in base64. Received: both.")
        if text.startswith(DATA_URL):
            text = text.partition(",")[2]
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise InputError("a text in inputs is not base64.") from None
        images.append(picture(content, left))
        left -= images[-1].size
    return images


def _has_bools(text: bytes) -> bool:
    """Whether true or false may be in it, which an array would take for 1 and 0."""
    return b"true" in text or b"false" in text


def picture(content: bytes, most: int) -> np.ndarray:
    """The pixels of a PNG, JPEG or WebP, uint8 or uint16 [h, w, c], at most so many numbers.

    Raises InputError.
    """
    with suppress(OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # told below
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as header:
            num = header.width * header.height * len(header.getbands())
        if num > most:
            raise InputError(f"too many pixels. Expected at most {MAX_PIXELS} in a call.")
    try:
        return decode_image(io.BytesIO(content), len(content))
    except Reject as reject:
        reason = reject.code.replace("_", " ")
        raise InputError(
            f"the picture cannot be used: {reason}. Expected PNG, JPEG or WebP."
        ) from None


# --- answers -------------------------------------------------------------------------------------


def write(call: Call, model: str, outputs: Any) -> tuple[bytes, str]:
    """The body of an answer, and its media type."""
    are_images = isinstance(outputs, np.ndarray) and outputs.dtype == np.uint8
    if call.as_png and are_images:
        return png(sheet(outputs)), PNG
    if call.base64 and are_images:
        outputs = [base64.b64encode(png(image)).decode() for image in outputs]
    return dump({"model": model, "outputs": outputs}), JSON


def dump(value: Any) -> bytes:
    """JSON; arrays as lists of lists, and what is not finite as null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=_contiguous)


def _contiguous(array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array.tolist()
    raise TypeError


def png(image: np.ndarray) -> bytes:
    """A file of one image, uint8 [h, w, c] with c 1 or 3."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(
        file, "PNG", compress_level=1
    )
    return file.getvalue()


def sheet(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, h, w, c] side by side, row after row, as nearly square as it goes."""
    num, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    tiles = np.full((rows * columns, height, width, channels), 255, dtype=np.uint8)
    tiles[:num] = images
    tiles = tiles.reshape(rows, columns, height, width, channels)
    return tiles.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
