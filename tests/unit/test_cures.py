"""A client that does what an error says, to the letter, gets the answer that it wanted.

The calls are wrong in one or two ways. `obey` reads the message and changes the call, and knows
nothing else about the fault.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from checkouts import Checkout
from latentworks.errors import InputError
from latentworks.server import encoding
from latentworks.serving.inputs import prepare, to_images
from latentworks.serving.servable import DEFAULT_NUM, VERBS, Servable, load

SHAPE = (8, 8, 1)  # of the model's images

# The forms in which clients send images, instead of uint8 [N, h, w, c].
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "right": lambda x: x,
    "floats from 0 to 1": lambda x: x / 255,
    "floats from -1 to 1": lambda x: x / 127.5 - 1,
    "floats from 0 to 255": lambda x: x.astype(np.float32),
    "true and false": lambda x: x > 127,
    "pixels in a row": lambda x: x.reshape(len(x), -1),
    "pixels in a column": lambda x: x.reshape(len(x), -1, 1),
    "floats in a row": lambda x: (x / 255).reshape(len(x), -1),
    "lists": lambda x: x.tolist(),
}
# Floats are read by the range of training images that were floats, and clipped as these.
CLIPPED = ("floats from -1 to 1", "floats from 0 to 255")
WRONG_PARAMS = (
    {},
    {"lable": 1},
    {"label": 1},
    {"labels": 1, "seed": 3},
)
WRONG_PARAMS_OF_SAMPLE = (
    {"num": 0},
    {"num": 10**6},
    {"num": 2.5},
    {"number": 4},
    {"num": 2, "seed": -1},
    {"num": 2, "seeds": 7},
    {"num": 2, "guidance": 3.0},
    {"num": 2, "temperature": 0.5, "guidance": 3.0},
    {"num": 2, "label": "Bag"},
)
MOST_STEPS = 6


@pytest.fixture(scope="module", params=[{}, {"float32": (0, 1)}], ids=["full", "floats"])
def servable(request: pytest.FixtureRequest, finished: Checkout) -> Servable:
    """A model of images that are read in full, and one of images that were floats."""
    loaded = load(finished.path / "models/servable")
    loaded.interface = replace(loaded.interface, value_range=request.param)
    return loaded


def obey(message: str, inputs: Any, params: dict[str, Any], num: int) -> tuple[Any, dict[str, Any]]:
    """Return the call as the message wants it. `num`: the images that the client has."""
    params = dict(params)
    if found := re.search(r"If their range is .+? to .+?: (.+), rounded to uint8\.", message):
        inputs = np.rint(eval(found[1], {"x": np.asarray(inputs)})).astype(np.uint8)
    elif "Multiply them by 255, as uint8." in message:
        inputs = (np.asarray(inputs) * 255).astype(np.uint8)
    elif "add the param prepared, true" in message:
        params["prepared"] = True
    elif "send 255 for true and 0 for false" in message:
        inputs = np.where(np.asarray(inputs), 255, 0).astype(np.uint8)
    elif "Send images as [N, h, w, c]" in message:
        inputs = np.asarray(inputs).reshape(num, *SHAPE)
    elif found := re.search(r"(?:param|field) '(\w+)'\. .+ Did you mean (\w+)\?", message):
        params[found[2]] = params.pop(found[1])
    elif found := re.search(r"(?:param|field) '(\w+)'\. (?:It takes|Expected)", message):
        del params[found[1]]
    elif found := re.search(r"(\w+) is a whole number from (\d+) to (\d+)\.", message):
        low, high = int(found[2]), int(found[3])
        params[found[1]] = int(min(max(params[found[1]], low), high))
    elif found := re.search(r"cannot be used: .+ Leave (\w+) out\.", message):
        del params[found[1]]
    else:
        pytest.fail(f"does not say what to do: {message}")
    return inputs, params


def in_python(_: str, inputs: Any, params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return inputs, params


def over_http(_: str, inputs: Any, params: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    given = {} if inputs is None else {"inputs": np.asarray(inputs).tolist()}
    call = encoding.read(json.dumps(given | params).encode(), {}, lambda _: None)
    return call.inputs, call.params


DOORS = pytest.mark.parametrize("door", [in_python, over_http])
shared = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@DOORS
@shared
@given(
    pixels=st.integers(1, 3).flatmap(lambda num: arrays(np.uint8, (num, *SHAPE))),
    form=st.sampled_from([*FORMS]),
    params=st.sampled_from(WRONG_PARAMS),
)
def test_images_that_are_sent_as_the_error_says_have_the_pixels_that_were_meant(
    servable: Servable, door: Any, pixels: np.ndarray, form: str, params: dict[str, Any]
) -> None:
    pixels[0, 0, :3, 0] = 0, 1, 255  # the whole range, which tells the forms apart
    if form == "true and false":
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    ranges = servable.interface.value_range
    if ranges and form in CLIPPED:
        return
    inputs: Any = FORMS[form](pixels)
    for _ in range(MOST_STEPS):
        try:
            read, read_params = door("reconstruct", inputs, params)
            answers = servable.call("reconstruct", read, read_params)
            break
        except InputError as error:
            inputs, params = obey(str(error), inputs, params, len(pixels))
    else:
        pytest.fail("the advice does not lead to a call that is accepted")
    assert len(answers) == len(pixels)
    are_prepared = read_params.get("prepared", False)
    images = to_images(read, SHAPE, ranges, are_prepared)
    prepared = images if are_prepared else prepare(images, SHAPE, "pad", 0, ranges)
    np.testing.assert_array_equal(prepared, pixels)


@DOORS
@pytest.mark.parametrize("params", WRONG_PARAMS_OF_SAMPLE, ids=str)
def test_params_that_are_sent_as_the_error_says_are_accepted(
    servable: Servable, door: Any, params: dict[str, Any]
) -> None:
    asked = params
    for _ in range(MOST_STEPS):
        try:
            _, read = door("sample", None, params)
            answers = servable.call("sample", None, read)
            break
        except InputError as error:
            _, params = obey(str(error), None, params, 0)
    else:
        pytest.fail("the advice does not lead to a call that is accepted")
    assert params != asked
    assert set(read) <= set(VERBS["sample"])
    assert len(answers) == read.get("num", DEFAULT_NUM["sample"])
