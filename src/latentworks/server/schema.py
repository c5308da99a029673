"""The OpenAPI description of the API, for the version that is served now."""

import math
from collections.abc import Mapping

from latentworks.server.invocations import DEFAULT, FORMATS
from latentworks.server.model import PICTURES
from latentworks.server.service import Service
from latentworks.serving.inputs import MAX_LATENT, MAX_NUM, MAX_PIXELS, MAX_SEED, MAX_SETTING
from latentworks.serving.servable import VERBS as PARAMS

Schema = Mapping[str, object]  # a part of the document: an object of JSON

VERBS = {
    "reconstruct": "Reconstruct images",
    "encode": "Encode images to latents",
    "decode": "Decode latents to images",
    "sample": "Draw new images",
    "interpolate": "Interpolate between two images or latents",
    "anomaly_score": "Measure how badly images are reconstructed",
    "log_density": "Log density of latents, or of the latents of images, in nats",
}


def describe(service: Service) -> dict[str, object]:
    """Return the document at /openapi.json."""
    model = service.model
    paths: dict[str, dict[str, Schema]] = {
        f"/{verb}": {"post": _posted(verb, title, service)} for verb, title in VERBS.items()
    }
    paths["/sample"]["get"] = _got("Draw new images, as one picture", [
        _query("num", {"type": "integer", "minimum": 1, "maximum": most_images(service)}, 16),
        _query("seed", {"type": "integer", "minimum": 0, "maximum": MAX_SEED}, 0),
        *_labels_in_address("sample", service),
        *(_query(name, schema, 1) for name, schema in _settings(service).items()),
    ])  # fmt: skip
    dim = model.interface.latent_dim if model else 2
    number = r"-?\d{1,6}(\.\d{1,9})?"
    z = {"type": "string", "pattern": f"^{number}(,{number}){{{dim - 1}}}$"}
    paths["/decode"]["get"] = _got("Decode one latent, as a picture", [
        {**_query("z", z, ",".join(["0.5"] * dim)), "required": True},
        *_labels_in_address("decode", service),
    ])  # fmt: skip
    paths["/invocations"] = {"post": _invocations(service)}
    for path, title in {
        "/live": "200 if the process runs",
        "/ready": "200 if a version can answer, and the state of the alias",
        "/version": "The version that answers, and its interface",
    }.items():  # fmt: skip
        paths[path] = {"get": {"summary": title, "responses": _responses({"type": "object"})}}
    paths["/metrics"] = {
        "get": {
            "summary": "Metrics for Prometheus",
            "responses": {"200": {"description": "Text", "content": {"text/plain": {}}}},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{service.following.model}@{service.following.alias}",
            "version": str(model.version.number) if model else "0",
            "description": "A generative autoencoder. Every answer names its version.",
        },
        "paths": paths,
    }


def most_images(service: Service) -> int:
    """Return the largest number of images in one answer."""
    if service.model is None:
        return MAX_NUM
    num_pixels: int = math.prod(service.model.interface.image_shape)
    return min(MAX_NUM, MAX_PIXELS // num_pixels)


def _posted(verb: str, title: str, service: Service) -> Schema:
    bodies: dict[str, Schema] = {"application/json": {"schema": _body(verb, service)}}
    if verb in ("reconstruct", "encode", "anomaly_score"):
        bodies["image/png"] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": title,
        "operationId": verb,
        "requestBody": {"required": True, "content": bodies},
        "responses": _responses(_ANSWER, picture=verb in PICTURES),
    }


def _body(verb: str, service: Service) -> Schema:
    fields: dict[str, Schema] = {"images": {"enum": ["arrays", "base64"], "default": "arrays"}}
    fields |= _fields(verb, service)
    return _object(fields, ["inputs"] if "inputs" in fields else [])


def _labels(verb: str, service: Service) -> list[str]:
    """Return the classes that clients can choose for a verb."""
    model = service.model
    known = model is not None and (model.conditional or verb == "sample")
    return [*model.interface.labels] if model and known else []


def _labels_in_address(verb: str, service: Service) -> list[Schema]:
    names = _labels(verb, service)
    return [_query("label", {"enum": names}, names[0])] if names else []


def _settings(service: Service) -> dict[str, Schema]:
    """Return the schemas of the params that only a learned sampler takes."""
    number = {"type": "number", "minimum": 0, "maximum": MAX_SETTING}
    return dict.fromkeys(service.model.settings, number) if service.model else {}


def _fields(verb: str, service: Service) -> dict[str, Schema]:
    """Return the schemas of inputs and params of a verb."""
    names = _labels(verb, service)
    label = {"label": {"description": "The name or number of a class", "anyOf": [
        {"enum": names}, {"type": "integer", "minimum": 0, "maximum": len(names) - 1},
    ]}}  # fmt: skip
    fields = {**_fields_of_all(verb, service), **(label if names else {})}
    if service.model and service.model.value_range and "prepared" in PARAMS[verb]:
        fields["prepared"] = {
            "description": "True for images that the model returned, which are read as 0 to 255",
            "type": "boolean",
            "default": False,
        }
    return fields


def _fields_of_all(verb: str, service: Service) -> dict[str, Schema]:
    dim = service.model.interface.latent_dim if service.model else None
    number = {"type": "number", "minimum": -MAX_LATENT, "maximum": MAX_LATENT}
    point = {**_array(number), **({"minItems": dim, "maxItems": dim} if dim else {})}
    num = {"type": "integer", "minimum": 1, "maximum": most_images(service), "default": 16}
    seed = {"type": "integer", "minimum": 0, "maximum": MAX_SEED}
    if verb == "sample":
        return {"num": num, "seed": seed, **_settings(service)}
    ranges = service.model.value_range if service.model else {}
    pixel: Schema = {"type": "number"} if ranges else _PIXEL
    grey = _array(_array(pixel))  # [h, w]
    image = _array(_array({**_array(pixel), "maxItems": 4}))  # [h, w, c]
    if verb == "interpolate":
        two = {"minItems": 2, "maxItems": 2}
        ends = [{**_array(each), **two} for each in (point, image, _PICTURE)]
        return {
            "inputs": {"description": "Two latents or images", "anyOf": ends},
            "num": {**num, "minimum": 2, "default": 10},
        }
    latents = [_array(point), point]
    images = [_array(image), _array(grey), image, grey, _array(_PICTURE), _PICTURE]
    of = {"decode": latents, "log_density": [*latents, *images]}
    text = {
        "decode": "Finite numbers, [N, D] or [D]",
        "log_density": "Latents, or images of any size",
    }
    values = "The values of the training images" if ranges else "Whole numbers from 0 to 255"
    default = f"{values}, [N, h, w, c], of any size, or pictures in base64"
    return {"inputs": {"description": text.get(verb, default), "anyOf": of.get(verb, images)}}


def _invocations(service: Service) -> Schema:
    bodies = []
    for verb in VERBS:
        fields = _fields(verb, service)
        inputs = fields.pop("inputs", {"type": "null"})
        needed = [] if verb == DEFAULT else ["verb"]
        fields = {name: _or_null(field) for name, field in fields.items()}
        named = {"const": verb}
        params = _object({"verb": named if needed else _or_null(named), **fields}, needed)
        params = params if needed else _or_null(params)
        bodies += [
            _object({name: inputs, "params": params}, [name, "params"] if needed else [name])
            for name in FORMATS
        ]
    return {
        "summary": "Any verb, in the format of `mlflow models serve`",
        "operationId": "invocations",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"anyOf": bodies}}},
        },
        "responses": _responses({"type": "object", "required": ["predictions"]}, error=_MLFLOW),
    }


def _got(title: str, parameters: list[Schema]) -> Schema:
    return {
        "summary": title,
        "parameters": parameters,
        "responses": _responses(_ANSWER, picture=True),
    }


def _query(name: str, schema: Schema, example: object) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "example": example}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _object(properties: Mapping[str, Schema], required: list[str]) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_PIXEL = {"type": "integer", "minimum": 0, "maximum": 255}
_PICTURE = {"type": "string", "format": "base64-picture"}
_ANSWER = {
    "type": "object",
    "properties": {"model": {"type": "string"}, "outputs": {}},
    "required": ["model", "outputs"],
}
_ERROR = _object({"error": {"type": "string"}}, ["error"])
_MLFLOW = _object(
    {"error_code": {"type": "string"}, "message": {"type": "string"}}, ["error_code", "message"]
)


def _responses(schema: Schema, *, picture: bool = False, error: Schema = _ERROR) -> Schema:
    content: dict[str, Schema] = {"application/json": {"schema": schema}}
    if picture:
        content["image/png"] = {"schema": {"type": "string", "format": "binary"}}
    refused = {"description": "The reason", "content": {"application/json": {"schema": error}}}
    codes = ("400", "408", "413", "415", "421", "422", "503")
    return {
        "200": {"description": "The answer", "content": content},
        **dict.fromkeys(codes, refused),
    }
