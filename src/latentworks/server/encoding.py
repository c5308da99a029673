"""Bodies of requests and answers: arrays and pictures, in JSON or as files."""

import base64
import binascii
import difflib
import io
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import orjson
from PIL import Image
from pydantic import JsonValue
from starlette.responses import Response

from latentworks.datasets.pictures import WEB, decode_image
from latentworks.datasets.source import Reject
from latentworks.errors import InputError
from latentworks.grid import grid
from latentworks.serving.inputs import MAX_PIXELS
from latentworks.serving.servable import Outputs

PNG = "image/png"
JSON = "application/json"
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")  # first bytes of PNG, JPEG and WebP
OTHERS = {  # first bytes of formats that are not read
    b"GIF8": "a GIF picture",
    b"BM": "a BMP picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"PK\3\4": "a zip archive",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a NumPy array",
}
ITEM = 64  # bytes of memory for each list of JSON
OBJECT = 300  # for each object
VALUE = 64  # for each value: as an object, in its list, and in two arrays
TEXT = 4  # for each byte of JSON: as a text, and decoded from base64
PIXEL = 5  # for each number of a picture, while it is decoded
WIDE = 12  # the same with more than 8 bits, a palette or transparency
TEXTS = re.compile(rb'"[^"]{60}')  # a text that may be a picture in base64
LARGE = 100_000  # bytes or numbers; encoding more of them would delay other requests
FIELDS = ("inputs", "images", "num", "seed", "label", "prepared", "guidance", "temperature")
DATA_URL = "data:"
Claim = Callable[[int], None]  # claims bytes of memory: see `latentworks.server.budget.Share`


@dataclass(frozen=True)
class Call:
    """A request: inputs and params of a verb, and the format of the answer."""

    inputs: object = None
    params: Mapping[str, object] = field(default_factory=dict)
    as_png: bool = False  # the answer is one picture instead of JSON
    base64: bool = False  # images in JSON are PNG files in base64 instead of arrays


class NotJSON(InputError):
    """A body is neither JSON nor a picture."""


class Unsupported(InputError):
    """A body is in a known format that is not read."""


def read(body: bytes, headers: Mapping[str, str], claim: Claim) -> Call:
    """Read the call of a POST request from its body. Raises InputError.

    The body is a picture, or a JSON object with `inputs` (arrays, or pictures in base64), params,
    and `images`, the format of images in the answer: "arrays" or "base64". `claim` is called with
    the bytes of memory that the inputs take, before they are read; what it raises ends the call.
    """
    accept = headers.get("accept", "")
    if body.startswith(SIGNATURES):
        return Call([picture(body, MAX_PIXELS, claim)], as_png=JSON not in accept)
    refuse_other_formats(body, headers)
    given = read_json(body, claim)
    for name in given:
        if name not in FIELDS:
            near = difflib.get_close_matches(name[:50], FIELDS, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InputError(f"Unknown field {name[:50]!r}. Expected: {', '.join(FIELDS)}.{hint}")
    images = given.pop("images", "arrays")
    if images not in ("arrays", "base64"):
        raise InputError(f'images is "arrays" or "base64". Received: {str(images)[:50]!r}.')
    inputs = read_inputs(given.pop("inputs", None), body, claim)
    if None in given.values():
        raise InputError("A param cannot be null. Leave it out.")
    params = {name: whole(value) for name, value in given.items()}
    return Call(inputs, params, PNG in accept and JSON not in accept, images == "base64")


def is_large(body: bytes) -> bool:
    """Return True if reading the body may take long. A small file can be a large picture."""
    return len(body) >= LARGE or body.startswith(SIGNATURES) or bool(TEXTS.search(body))


def refuse_other_formats(body: bytes, headers: Mapping[str, str]) -> None:
    """Raise Unsupported, with the name of the format, if a body is in one that is not read."""
    coding = headers.get("content-encoding", "identity").lower()
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    form = media_type.startswith("multipart/")
    found = next((name for start, name in OTHERS.items() if body.startswith(start)), "")
    found = "a form (multipart)" if form else found
    found = found or (f"compressed by {coding[:20]}" if coding != "identity" else "")
    if found:
        raise Unsupported(f"The body is {found}. Expected JSON, or a picture: PNG, JPEG or WebP.")


def whole(value: JsonValue) -> JsonValue:
    """Return a float of JSON such as 2.0 as an int, and any other value unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_json(body: bytes, claim: Claim) -> dict[str, JsonValue]:
    """Return the fields of a JSON object. Raises NotJSON, or InputError for other JSON."""
    if not body:
        raise NotJSON("The body is empty. Expected JSON or a picture.")
    items = ITEM * body.count(b"[") + OBJECT * body.count(b"{")
    claim(items + VALUE * body.count(b",") + TEXT * len(body))
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotJSON(f"The body is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise InputError(f"The body is not a JSON object. Received: {type(given).__name__}.")
    return given


def read_inputs(inputs: JsonValue, body: bytes, claim: Claim) -> JsonValue | list[np.ndarray]:
    """Return arrays as they are, and pictures in base64 as arrays. Raises InputError.

    A picture is a text, or {"b64": text} as in TensorFlow Serving.
    """
    if isinstance(inputs, str | dict):
        inputs = [inputs]
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], dict):
        inputs = [
            each["b64"] if isinstance(each, dict) and set(each) == {"b64"} else each
            for each in inputs
        ]
    if not (isinstance(inputs, list) and inputs and isinstance(inputs[0], str)):
        if inputs is not None and _has_bools(body) and _has_bools(orjson.dumps(inputs)):
            raise InputError(
                "inputs are numbers. Received: true or false. For images, send 255 for true and 0 "
                "for false."
            )
        return inputs
    images: list[np.ndarray] = []
    left = MAX_PIXELS
    for text in inputs:
        if not isinstance(text, str):
            raise InputError("inputs mix arrays and pictures in base64. Send one kind in a call.")
        if text.startswith(DATA_URL):
            text = text.partition(",")[2]
        try:
            for blank in " \r\n\t":
                text = text.replace(blank, "")
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise InputError("inputs have a text that is not base64.") from None
        images.append(picture(content, left, claim))
        left -= images[-1].size
    return images


def _has_bools(text: bytes) -> bool:
    """Return True if the text may hold true or false, which NumPy would read as 1 and 0."""
    return b"true" in text or b"false" in text


def picture(content: bytes, most: int, claim: Claim) -> np.ndarray:
    """Decode a PNG, JPEG or WebP to uint8 or uint16 [h, w, c], at most `most` numbers.

    Raises InputError.
    """
    # decode_image, below, reports the faults that are ignored here.
    with suppress(OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        with Image.open(io.BytesIO(content), formats=WEB) as header:
            num = header.width * header.height * len(header.getbands())
            converted = "transparency" in header.info or header.mode in ("P", "PA", "LA")
            each = WIDE if header.mode.startswith("I") or converted else PIXEL
        if num > most:
            raise InputError(
                f"Too many pixels in one call. Expected at most {MAX_PIXELS}. "
                "Use fewer or smaller images."
            )
        claim(num * each)
    try:
        return decode_image(io.BytesIO(content), len(content), WEB).image
    except Reject as reject:
        reason = reject.code.replace("_", " ")
        raise InputError(
            f"The picture cannot be used: {reason}. Expected PNG, JPEG or WebP."
        ) from None


# --- answers -------------------------------------------------------------------------------------


def write(call: Call, model: str, outputs: Outputs) -> tuple[bytes, str]:
    """Return the body of an answer, and its media type."""
    shown: object = outputs
    if isinstance(outputs, np.ndarray) and outputs.dtype == np.uint8:  # images
        if call.as_png:
            return png(sheet(outputs)), PNG
        if call.base64:
            shown = [base64.b64encode(png(image)).decode() for image in outputs]
    return dump({"model": model, "outputs": shown}), JSON


def response(status: int, content: object, headers: Mapping[str, str] | None = None) -> Response:
    return Response(dump(content), status, headers, media_type=JSON)


def dump(value: object) -> bytes:
    """Write JSON: arrays as nested lists, NaN and infinity as null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=_contiguous)


def _contiguous(array: object) -> object:
    if isinstance(array, np.ndarray):
        return array.tolist()
    raise TypeError


def png(image: np.ndarray) -> bytes:
    """Write one image, uint8 [h, w, c] with c 1 or 3, as PNG."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(
        file, "PNG", compress_level=1
    )
    return file.getvalue()


def sheet(images: np.ndarray) -> np.ndarray:
    """Lay images uint8 [N, h, w, c] out in rows, as nearly square as possible."""
    return grid(images, math.ceil(math.sqrt(len(images))))
