"""Checks of the images, latents and params of a call, which come from Python or from JSON."""

import difflib
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from latentworks.errors import InputError
from latentworks.preprocess import FULL, Fit, Ranges, prepare_image

MAX_PIXELS = 50_000_000  # in one call, before images are resized
MAX_NUM = 10_000  # images or latents in one call, sent or returned
MAX_SEED = 2**32 - 1
MAX_SETTING = 100.0  # guidance and temperature
MAX_LATENT = 1e6  # far above any real latent, and far below the largest float32
UNTYPED = ("int64", "float64")  # NumPy's types for the numbers of Python and JSON
NUMBER = int | float | np.integer | np.floating


def to_images(
    inputs: object,
    image_shape: tuple[int, int, int],
    ranges: Ranges = FULL,
    prepared: bool = False,
) -> np.ndarray:
    """Return images, all of the same size, as [N, h, w, c] with N >= 1.

    They are uint8, uint16, or of a dtype of the training images, which `ranges` names. A single
    image may lack the axis N, and a grey image the axis c. If they are `prepared`, they are uint8
    [N, H, W, C], as the model returns them. Raises InputError, also for what may be N images with
    all pixels in a row: `image_shape` is the shape of the model's images, [H, W, C].
    """
    array = _to_array(inputs, "images")
    array = _of_known_dtype(array, FULL if prepared else ranges)
    sent = list(array.shape)
    check_pixels(array.size)
    if _may_be_rows(array.shape, image_shape):
        raise InputError(
            f"This may be one image, or {len(array)} images with all pixels in a row. Send images "
            "as [N, h, w, c], and a single image as [1, h, w, c]. "
            f"Received: {list(array.shape)}."
        )
    if array.ndim == 2:
        array = array[None, ..., None]
    elif array.ndim == 3:
        array = array[None] if array.shape[2] <= 4 else array[..., None]
    if array.ndim != 4 or array.shape[3] > 4:
        raise InputError(
            "Images have the shape [N, h, w, c] with c from 1 to 4, [N, h, w], [h, w, c] or "
            f"[h, w]. Received: {sent}."
        )
    if prepared and (array.dtype != np.uint8 or array.shape[1:] != image_shape):
        shape = ", ".join(map(str, ("N", *image_shape)))
        raise InputError(
            "prepared is for images as the model returns them: whole numbers from 0 to 255, "
            f"[{shape}]. Received: {array.dtype}, {sent}. Leave prepared out."
        )
    return _few(array)


def prepare(
    images: Iterable[np.ndarray],
    image_shape: tuple[int, int, int],
    fit: Fit,
    background: int,
    ranges: Ranges = FULL,
) -> np.ndarray:
    """Prepare images [h, w, c] as the training images were: uint8 [N, H, W, C].

    Images of the model's size stay as they are if they are uint8, and uint8 is read in full.
    """
    return np.stack(
        [
            prepare_image(image, shape=image_shape, fit=fit, background=background, ranges=ranges)
            for image in images
        ]
    )


def _of_known_dtype(array: np.ndarray, ranges: Ranges) -> np.ndarray:
    """Return an array as uint8, uint16 or a dtype of `ranges`. Raises InputError.

    Numbers of JSON and Python have no dtype: NumPy makes them int64 or float64. They, and dtypes
    that the training images did not have, are read by the range of these, if there is one.
    """
    dtype = array.dtype.name
    if dtype in ("uint8", "uint16") or (dtype in ranges and dtype not in UNTYPED):
        _check_finite(array)
        return array
    if len(set(map(tuple, ranges.values()))) == 1 and array.dtype.kind in "iuf":
        return _in_the_range(array, ranges)
    if array.dtype.kind not in "iu":
        raise InputError(
            f"Images are whole numbers from 0 to 255. Received: {array.dtype}{_cure(array)}"
        )
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        cure = " Send 16-bit images as PNG, or as uint16." if low >= 0 and high <= 65535 else ""
        raise InputError(
            "Images are whole numbers from 0 to 255. "
            f"Received: {low} to {high}, as {array.dtype}.{cure}"
        )
    return array.astype(np.uint8)


def _in_the_range(array: np.ndarray, ranges: Ranges) -> np.ndarray:
    """Return numbers without a dtype as the first of `ranges`, which are equal.

    Raises InputError for what may be 8 bits: whole numbers up to 255 beyond a range of other types.
    """
    _check_finite(array)
    dtype, (low, high) = next(iter(ranges.items()))
    least, most = array.min(), array.max()
    are_whole = array.dtype.kind != "f" or bool((array == np.rint(array)).all())
    expected = f"Images have values from {low:g} to {high:g}, as the training images"
    received = f"Received: {least:g} to {most:g}, as {array.dtype}"
    if not are_whole and np.dtype(dtype).kind != "f":
        raise InputError(f"{expected}: whole numbers. {received}. Scale and round them.")
    is_beyond = least < low or most > high
    if is_beyond and are_whole and least >= 0 and most <= 255 and "uint8" not in ranges:
        raise InputError(
            f"{expected}. {received}. If the model returned these images, add the param prepared, "
            f"true. Send other images of 8 bits as PNG, or as uint8. Else clip them to {high:g}."
        )
    bounds = math.floor(low), math.ceil(high)
    if dtype in ("uint8", "uint16"):  # alpha uses their full range
        bounds = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    clipped: np.ndarray = np.clip(array, *bounds).astype(dtype)
    return clipped


def _check_finite(array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError("Images have NaN or infinity among their values. Replace these values.")


def _cure(array: np.ndarray) -> str:
    """Say how images of another type become whole numbers from 0 to 255, if the range tells."""
    if array.dtype.kind == "b":
        return ". Multiply them by 255, as uint8."
    if array.dtype.kind != "f":
        return "."
    low, high = float(array.min()), float(array.max())
    for bottom, top, formula in ((0, 1, "x * 255"), (-1, 1, "(x + 1) * 127.5"), (0, 255, "x")):
        if low >= bottom and high <= top:
            cure = f"If their range is {bottom} to {top}: {formula}, rounded to uint8."
            return f" from {low:g} to {high:g}. {cure}"
    return f" from {low:g} to {high:g}."


def _may_be_rows(shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> bool:
    """True if an array may be [N, h * w * c] or [N, h * w, c].

    The model has images of `image_shape`; rows of square images of other sizes are known, too.
    """
    if shape == image_shape[:2]:
        return False
    if math.prod(shape[1:]) == math.prod(image_shape) and (
        len(shape) == 2 or (len(shape) == 3 and shape[2] <= 4)
    ):
        return True
    if len(shape) != 2:
        return False
    height, width = shape
    sides = [math.isqrt(width // c) for c in (1, 3) if width % c == 0]
    rows = [side for side in sides if side >= 8 and width in (side**2, 3 * side**2)]
    return height != width and any(side >= 16 or width >= 4 * height for side in rows)


def check_pixels(num: int) -> None:
    """Raise InputError if one call has more than MAX_PIXELS pixels."""
    if num > MAX_PIXELS:
        raise InputError(
            f"Too many pixels in one call. Expected at most {MAX_PIXELS}. Received: {num}. "
            "Use fewer or smaller images."
        )


def _few(array: np.ndarray) -> np.ndarray:
    if len(array) > MAX_NUM:
        raise InputError(
            "Too many images or latents in one call. "
            f"Expected at most {MAX_NUM}. Received: {len(array)}."
        )
    return array


def to_latents(inputs: object, latent_dim: int, hint: str = "") -> np.ndarray:
    """Return latents as finite float32 [N, D] with N >= 1, where D is `latent_dim`.

    A single latent may come as [D]. Raises InputError; `hint` ends the message on other shapes.
    """
    array = _to_array(inputs, f"latents, {latent_dim} numbers for each image")
    sent = list(array.shape)
    if array.dtype.kind not in "iuf":
        raise InputError(f"Latents are numbers. Received: {array.dtype}.")
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != latent_dim:
        raise InputError(f"Latents have the shape [N, {latent_dim}]. Received: {sent}.{hint}")
    if not (np.abs(array.astype(np.float64)) <= MAX_LATENT).all():  # this way round, NaN fails
        raise InputError(f"Latents are finite numbers from -{MAX_LATENT:g} to {MAX_LATENT:g}.")
    return _few(array.astype(np.float32))


def are_latents(
    inputs: object, latent_dim: int, image_shape: tuple[int, int, int], ranges: Ranges = FULL
) -> bool:
    """Return True if the inputs of a verb that takes both are latents, and not images.

    Latents are [N, D] or [D]; a grey image is [h, w]. Floats [h, w] are an image if the training
    images had a range of their own, and h and w are those of `image_shape`.
    """
    array = _to_array(inputs, "latents or images")
    if array.ndim != 2 or array.dtype == np.uint8:
        return array.ndim == 1
    is_image = bool(ranges) and array.shape == image_shape[:2]
    return array.shape[1] == latent_dim or (array.dtype.kind == "f" and not is_image)


def to_flag(value: object, name: str) -> bool:
    """Return a param that is true or false. Raises InputError."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is true or false. Received: {value!r:.50}.")
    return bool(value)


def check_empty(inputs: object, verb: str) -> None:
    """Raise InputError if a verb without inputs receives some."""
    if isinstance(inputs, np.ndarray) and inputs.shape == () and inputs.item() is None:
        return  # MLflow's server turns null into this array
    empty = inputs is None or (isinstance(inputs, np.ndarray | Sequence) and len(inputs) == 0)
    if not empty:
        raise InputError(
            f"{verb} takes no inputs. Expected None or []. Received: {type(inputs).__name__}."
        )


def _to_array(inputs: object, expected: str) -> np.ndarray:
    if inputs is None:
        raise InputError(f"inputs are missing. Expected {expected}.")
    if not isinstance(inputs, np.ndarray | Sequence) or isinstance(inputs, str | bytes):
        raise InputError(
            f"inputs are not an array. Expected {expected}. Received: {type(inputs).__name__}."
        )
    try:
        if not isinstance(inputs, np.ndarray):
            # From mixed values, NumPy would make every number a text as long as the longest text.
            kinds = set(map(type, np.asarray(inputs, dtype=object).ravel().tolist()))
            if not all(issubclass(kind, int | float | np.generic) for kind in kinds):
                raise TypeError
        array = np.asarray(inputs)
    except (ValueError, OverflowError, TypeError):  # rows of unequal lengths, huge integers
        array = np.empty(0, dtype=object)
    if array.dtype == object or array.dtype.kind in "US":
        raise InputError(
            f"inputs are not one array of numbers. Expected {expected}, all of the same shape."
        )
    if array.size == 0:
        raise InputError(f"inputs are empty. Expected {expected}, at least one.")
    return array


def check_params(params: Mapping[str, object], known: Sequence[str], verb: str) -> None:
    """Raise InputError if `params` has one that `verb` does not take."""
    for name in params:
        if name not in known:
            shown = repr(name)[:50]
            near = difflib.get_close_matches(str(name)[:50], known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            takes = ", ".join(known)
            raise InputError(f"{verb} has no param {shown}. It takes {takes}.{hint}")


def to_label(value: object, names: Sequence[str]) -> int:
    """Return the number of a class, given by its name or number. Raises InputError."""
    if not names:
        raise InputError("label cannot be used: this model has no classes. Leave label out.")
    if isinstance(value, str):
        if value in names:
            return names.index(value)
        near = difflib.get_close_matches(value[:50], names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r:.50}?" if near else f" One of them: {names[0]!r:.50}."
        raise InputError(f"label is the name of a class. Received: {value[:50]!r}.{hint}")
    return to_whole_number(value, "label", 0, len(names) - 1)


def to_whole_number(value: Any, name: str, low: int, high: int) -> int:
    """Return a param that is a whole number in [low, high]. Raises InputError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_) or not low <= number <= high:
        raise InputError(f"{name} is a whole number from {low} to {high}. Received: {value!r:.50}.")
    return number


def to_number(value: object, name: str, low: float, high: float) -> float:
    """Return a param that is a number in [low, high]. Raises InputError."""
    if isinstance(value, bool) or not isinstance(value, NUMBER) or not low <= value <= high:
        raise InputError(f"{name} is a number from {low} to {high}. Received: {value!r:.50}.")
    return float(value)
