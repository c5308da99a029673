"""What callers send, checked: images, latents and params, from Python or as JSON."""

import difflib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentworks.errors import InputError

MAX_PIXELS = 50_000_000  # in one call, before they are brought to the model's size
MAX_NUM = 10_000  # images or latents in one call, whether sent or asked for
MAX_SEED = 2**32 - 1
MAX_LATENT = 1e6  # far beyond any latent, and far below where float32 ends


def to_images(inputs: Any) -> np.ndarray:
    """Images of any one size: uint8 or uint16 [N, h, w, c] with N >= 1.

    A single image may come without N, and a grey one without c. Raises InputError.
    """
    array = _to_array(inputs, "images, whole numbers from 0 to 255")
    if array.dtype.kind not in "iu":
        raise InputError(
            f"images are whole numbers from 0 to 255. Received: {array.dtype}. "
            "Multiply images in [0, 1] by 255 and round them to uint8."
        )
    if array.dtype not in (np.uint8, np.uint16):  # integers of JSON, or of NumPy's default
        if array.min() < 0 or array.max() > 255:
            raise InputError(
                "images are whole numbers from 0 to 255. "
                f"Received: {array.min()} to {array.max()}, as {array.dtype}."
            )
        array = array.astype(np.uint8)
    check_pixels(array.size)
    if array.ndim == 2:
        array = array[None, ..., None]
    elif array.ndim == 3:
        array = array[None] if array.shape[2] <= 4 else array[..., None]
    if array.ndim != 4 or array.shape[3] > 4:
        raise InputError(
            "images have the shape [N, h, w, c] with c from 1 to 4, [N, h, w], [h, w, c] or "
            f"[h, w]. Received: {list(np.shape(inputs))}."
        )
    return _few(array)


def check_pixels(num: int) -> None:
    """Raise InputError where so many pixels are too many for one call."""
    if num > MAX_PIXELS:
        raise InputError(f"too many pixels. Expected at most {MAX_PIXELS}. Received: {num}.")


def _few(array: np.ndarray) -> np.ndarray:
    if len(array) > MAX_NUM:
        raise InputError(
            f"too many in one call. Expected at most {MAX_NUM}. Received: {len(array)}."
        )
    return array


def to_latents(inputs: Any, latent_dim: int) -> np.ndarray:
    """Latents: finite float32 [N, D] with N >= 1; a single one may come as [D]. Raises InputError.

    `latent_dim` is D.
    """
    array = _to_array(inputs, f"latents, {latent_dim} numbers for each image")
    if array.dtype.kind not in "iuf":
        raise InputError(f"latents are numbers. Received: {array.dtype}.")
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != latent_dim:
        raise InputError(
            f"latents have the shape [N, {latent_dim}]. Received: {list(np.shape(inputs))}."
        )
    if not (np.abs(array.astype(np.float64)) <= MAX_LATENT).all():  # NaN is not, either
        raise InputError(f"latents are finite numbers from -{MAX_LATENT:g} to {MAX_LATENT:g}.")
    return _few(array.astype(np.float32))


def are_latents(inputs: Any, latent_dim: int) -> bool:
    """Whether inputs to a verb that takes both are latents, [N, D] or [D], and not a grey image."""
    array = _to_array(inputs, "latents or images")
    fits = array.shape[-1] == latent_dim and array.dtype != np.uint8
    return array.ndim == 1 or (array.ndim == 2 and (fits or array.dtype.kind == "f"))


def check_empty(inputs: Any, verb: str) -> None:
    """Raise InputError where a verb that takes no inputs was sent some."""
    if isinstance(inputs, np.ndarray) and inputs.shape == () and inputs.item() is None:
        return  # how MLflow's server passes null on
    empty = inputs is None or (isinstance(inputs, np.ndarray | Sequence) and len(inputs) == 0)
    if not empty:
        raise InputError(f"{verb} takes no inputs. Expected None or []. Received: some.")


def _to_array(inputs: Any, expected: str) -> np.ndarray:
    if inputs is None:
        raise InputError(f"inputs are missing. Expected {expected}.")
    if not isinstance(inputs, np.ndarray | Sequence) or isinstance(inputs, str | bytes):
        raise InputError(f"expected {expected}, as an array. Received: {type(inputs).__name__}.")
    try:
        if not isinstance(inputs, np.ndarray):
            # A long text among numbers would make texts as long of all of them.
            kinds = set(map(type, np.asarray(inputs, dtype=object).ravel().tolist()))
            if not all(issubclass(kind, int | float | np.generic) for kind in kinds):
                raise TypeError
        array = np.asarray(inputs)
    except (ValueError, OverflowError, TypeError):  # rows of unlike lengths, enormous integers
        array = np.empty(0, dtype=object)
    if array.dtype == object or array.dtype.kind in "US":
        raise InputError(f"expected {expected}, all of one shape. Received: something else.")
    if array.size == 0:
        raise InputError(f"expected {expected}, at least one. Received: none.")
    return array


def check_params(params: Mapping[str, Any], known: Sequence[str], verb: str) -> None:
    """Raise InputError for a param that `verb` does not take."""
    for name in params:
        if name not in known:
            shown = repr(name)[:50]
            near = difflib.get_close_matches(str(name)[:50], known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]}?" if near else ""
            takes = ", ".join(known)
            raise InputError(f"{verb} does not know the param {shown}. It takes {takes}.{hint}")


def to_label(value: Any, names: Sequence[str]) -> int:
    """The number of a class that is told by its name or number. Raises InputError."""
    if not names:
        raise InputError("this model knows no classes, so that none can be asked for by a label.")
    if isinstance(value, str):
        if value in names:
            return names.index(value)
        near = difflib.get_close_matches(value[:50], names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r:.50}?" if near else f" One of them: {names[0]!r:.50}."
        raise InputError(f"label is the name of a class. Received: {value[:50]!r}.{hint}")
    return to_whole_number(value, "label", 0, len(names) - 1)


def to_whole_number(value: Any, name: str, low: int, high: int) -> int:
    """A param that is a whole number in [low, high]. Raises InputError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_) or not low <= number <= high:
        raise InputError(f"{name} is a whole number from {low} to {high}. Received: {value!r:.50}.")
    return number
