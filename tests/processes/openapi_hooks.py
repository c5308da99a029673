"""Hooks for schemathesis: facts about the API that /openapi.json does not hold."""

import base64
import io
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image

LATENTS = ("/decode", "/interpolate")  # paths whose arrays may be of any numbers


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """Draw real PNG files."""
    mode = draw(st.sampled_from(["L", "RGB", "RGBA"]))
    sides = st.integers(1, 40)
    file = io.BytesIO()
    Image.new(mode, (draw(sides), draw(sides)), draw(st.integers(0, 255))).save(file, "PNG")
    return file.getvalue()


schemathesis.openapi.media_type("image/png", pictures())
schemathesis.openapi.format(
    "base64-picture", pictures().map(lambda content: base64.b64encode(content).decode())
)


def shapes(value: Any) -> set[tuple[int, ...]]:
    """Return the shapes of the arrays in a list: more than one shape if the list is ragged."""
    if not isinstance(value, list):
        return {()}
    inner = set().union(*map(shapes, value)) or {(0,)}
    return {(len(value), *shape) for shape in inner}


def has_floats(value: Any) -> bool:
    return any(map(has_floats, value)) if isinstance(value, list) else isinstance(value, float)


@schemathesis.hook
def filter_body(context: schemathesis.HookContext, body: Any) -> bool:
    """Drop bodies that /openapi.json allows and the server refuses.

    JSON Schema cannot say that rows are of one length, and takes 40.0 for a whole number.
    """
    for name in ("inputs", "instances"):
        array = body.get(name) if isinstance(body, dict) else None
        ranks = {len(shape) for shape in shapes(array)}
        if len(shapes(array)) > 1:
            return False
        if context.operation.path not in LATENTS and max(ranks) > 1 and has_floats(array):
            return False
    return True
