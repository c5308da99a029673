"""One-line descriptions of the faults that pydantic finds in params.yaml."""

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

MAX_SHOWN = 200  # characters quoted from the file


def as_line(schema: type[BaseModel], fault: ErrorDetails, sections: Mapping[str, object]) -> str:
    """Describe a fault: the path of the key, the expected value, and the received value."""
    names, path = _walk(schema, fault["loc"])
    where = dotted(path) or "the file"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Expected one of: {', '.join(names)}."
        return f"{where} is not a known key. {hint}"
    if fault["type"] == "missing":
        section = schema.model_fields.get(where)
        cure = section and section.description  # of a section that older files lack
        return f"{where} is missing." + (f" {cure}." if cure else "")
    if fault["type"] == "union_tag_not_found":
        return f"{where}.kind is missing."
    message = re.sub(r"^(Input|Tuple|List|String|Value error,) ", "", fault["msg"])
    message = message.removesuffix(", not 0").removesuffix(" after validation").rstrip(".")
    received = _value(sections, path)
    if fault["type"] in ("union_tag_invalid", "literal_error"):
        if fault["type"] == "union_tag_invalid":
            where, received = f"{where}.kind", received.get("kind")
            kinds = fault["ctx"]["expected_tags"].replace("'", "").split(", ")
        else:
            kinds = fault["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        near = difflib.get_close_matches(str(received), kinds, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"{where} should be one of: {', '.join(kinds)}. Received: {short(received)}.{hint}"
    return f"{where} {message}. Received: {short(received)}."


def _walk(schema: object, loc: tuple[str | int, ...]) -> tuple[list[str], list[str]]:
    """Return the key names allowed at the end of `loc`, and `loc` as a path in the file.

    Pydantic inserts the chosen `kind` into `loc`; the file has no such key.
    """
    names: list[str] = []
    path: list[str] = []
    for part in loc:
        members = {_kind(member): member for member in _models(schema)}
        if len(members) > 1 and part in members:
            schema = members[str(part)]
            continue
        path.append(str(part))
        model = next(iter(members.values()), None)
        names = list(model.model_fields) if model else []
        field = model.model_fields.get(str(part)) if model else None
        schema = field.annotation if field else None
    return names, path


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, Annotated) or get_args(annotation):
        for argument in get_args(annotation):
            yield from _models(argument)


def _kind(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    if field is None or get_origin(field.annotation) is not Literal:
        return model.__name__
    return str(get_args(field.annotation)[0])


def _value(sections: object, path: list[str]) -> Any:
    for part in path:
        if isinstance(sections, dict):
            sections = sections.get(part)
        elif isinstance(sections, list):
            sections = sections[int(part)]
    return sections


def short(value: object) -> str:
    """Show a value in at most MAX_SHOWN characters."""
    text = repr(value) if isinstance(value, float) else reprlib.repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def dotted(path: Sequence[str]) -> str:
    """Join the path of a key. Unknown keys may be long or unprintable, and are shortened."""
    return ".".join(key if re.fullmatch(r"\w{1,60}", key) else short(key) for key in path)


def printable(text: str) -> str:
    """Return the first line, shortened and escaped: it may quote any bytes of the file."""
    return escaped((text.splitlines() or [""])[0][:MAX_SHOWN].removesuffix("."))


def escaped(text: str) -> str:
    """Escape unprintable characters."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
