"""Requests and answers in the format of `mlflow models serve`, for its clients."""

from collections.abc import Mapping

import numpy as np
from pydantic import JsonValue

from latentworks.errors import InputError
from latentworks.server import encoding
from latentworks.serving.servable import Outputs

DEFAULT = "reconstruct"
FORMATS = ("inputs", "instances")
OTHERS = ("dataframe_split", "dataframe_records")
TYPES = ("application/json", "application/x-www-form-urlencoded", "")  # the second: curl's default


def read(
    body: bytes, headers: Mapping[str, str], claim: encoding.Claim
) -> tuple[JsonValue, object, dict[str, JsonValue]]:
    """Return verb, inputs and params of a request. Raises InputError. See `encoding.read`."""
    encoding.refuse_other_formats(body, headers)
    content_type = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() not in TYPES:
        raise InputError(
            f"Content-Type is not supported. Expected application/json. "
            f"Received: {content_type[:50]}."
        )
    given = encoding.read_json(body, claim)
    found = [name for name in (*FORMATS, *OTHERS) if name in given]
    if len(found) != 1 or found[0] in OTHERS:
        raise InputError(
            f"The body needs one of the fields {', '.join(FORMATS)}, with arrays. "
            f"Received: {', '.join(found) or 'none'}."
        )
    for name in given:
        if name not in (*found, "params"):
            raise InputError(f"Unknown field {name[:50]!r}. Expected: {found[0]}, params.")
    params = given.get("params")
    params = {} if params is None else params
    if not isinstance(params, dict):
        raise InputError(f"params is an object. Received: {type(params).__name__}.")
    params = {name: encoding.whole(value) for name, value in params.items() if value is not None}
    verb = params.pop("verb", DEFAULT)
    return verb, encoding.read_inputs(given[found[0]], body, claim), params


def write(outputs: Outputs) -> bytes:
    """Write an answer as MLflow does: a table becomes one object for each row."""
    predictions: object = outputs
    if isinstance(outputs, dict):
        columns = {name: np.asarray(values).tolist() for name, values in outputs.items()}
        rows = zip(*columns.values(), strict=True)
        predictions = [dict(zip(columns, row, strict=True)) for row in rows]
    return encoding.dump({"predictions": predictions})
