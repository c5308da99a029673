"""params.yaml, read once and checked before anything heavy is imported.

A stage names the sections it uses as the fields of a `Config`; `load` reads these and no others,
so that an edit in one section cannot trouble a stage that does not declare it.
"""

import difflib
import json
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionStartEvent

from latentworks.errors import ParamsError

PARAMS = Path("params.yaml")
MAX_BYTES = 100_000
MAX_DEPTH = 20


Schema = TypeVar("Schema", bound=BaseModel)


def load(schema: type[Schema], path: Path = PARAMS, *, whole: bool = False) -> Schema:
    """Read the sections that `schema` names from a YAML file.

    With `whole`, a section that `schema` does not name is an error as well.
    Raises ParamsError with one line for every fault found.
    """
    sections = read(path)
    if not whole:
        sections = {name: sections[name] for name in schema.model_fields if name in sections}
    return parse(schema, sections, path.name)


def parse(schema: type[Schema], sections: dict[str, Any], source: str) -> Schema:
    """Check `sections`, as read from the file called `source`. Raises ParamsError."""
    try:
        # Through JSON, where strict means "no '3' for 3" but a list may still fill a tuple.
        return schema.model_validate_json(json.dumps(sections, default=str))
    except ValidationError as error:
        faults = [
            _fault(schema, dict(fault), sections) for fault in error.errors(include_url=False)
        ]
        raise ParamsError("\n".join(f"{source}: {fault}" for fault in faults)) from None
    except ValueError as error:  # an integer of thousands of digits
        raise ParamsError(f"{source}: {error}.") from None


def read(path: Path) -> dict[str, Any]:
    """The sections of a YAML 1.2 file: a mapping without aliases or duplicate keys."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ParamsError(f"{path.name}: too large. Expected at most {MAX_BYTES} bytes.")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ParamsError(f"{path.name}: not UTF-8 text.") from None
    try:
        _refuse_bombs(text, path.name)
        sections = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ParamsError(f"{path.name}: {_yaml_fault(error)}") from None
    except ParamsError:
        raise
    except Exception as error:  # ruamel passes on what its constructors raise: `!!bool maybe`
        raise ParamsError(f"{path.name}: not valid YAML: {type(error).__name__} {error}.") from None
    if not isinstance(sections, dict):
        raise ParamsError(
            f"{path.name}: expected sections such as `model:`. Received: {reprlib.repr(sections)}"
        )
    return dict(_with_text_keys(sections))


def _with_text_keys(value: Any) -> Any:
    """YAML allows any key, `? [1, 2]` for one; as text it is like any other unknown key."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    return value


def _refuse_bombs(text: str, source: str) -> None:
    """A few hundred bytes of nested aliases unfold into gigabytes, so look before they unfold."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent):
            line = event.start_mark.line + 1
            raise ParamsError(
                f"{source}: line {line}: alias *{event.anchor}. Write the value out instead."
            )
        if isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ParamsError(f"{source}: nested deeper than {MAX_DEPTH} levels.")
        elif type(event).__name__ in ("MappingEndEvent", "SequenceEndEvent"):
            depth -= 1


def _yaml_fault(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = (getattr(error, "problem", None) or str(error)).splitlines()[0]
    where = f"line {mark.line + 1}: " if mark is not None else ""
    return f"{where}{problem.removesuffix('.')}."


def _fault(schema: type[BaseModel], fault: dict[str, Any], sections: dict[str, Any]) -> str:
    """One line for one fault: the path of the key, what was expected, what was received."""
    loc: tuple[str | int, ...] = fault["loc"]
    names, path = _walk(schema, loc)
    where = ".".join(path) or "the file"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Expected one of: {', '.join(names)}."
        return f"{where} is not a known key. {hint}"
    if fault["type"] == "missing":
        return f"{where} is missing."
    if fault["type"] == "union_tag_not_found":
        return f"{where}.kind is missing."
    message = re.sub(r"^(Input|Tuple|List|String) ", "", fault["msg"])
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
        return f"{where} should be one of: {', '.join(kinds)}. Received: {_short(received)}.{hint}"
    return f"{where} {message}. Received: {_short(received)}."


def _walk(schema: Any, loc: tuple[str | int, ...]) -> tuple[list[str], list[str]]:
    """The names allowed where `loc` ends, and `loc` as a user would write it.

    Pydantic puts the `kind` that it chose into `loc`; no such key stands in the file.
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


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
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


def _value(sections: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(sections, dict):
            sections = sections.get(part)
        elif isinstance(sections, list):
            sections = sections[int(part)]
    return sections


def _short(value: Any) -> str:
    return repr(value) if isinstance(value, (int, float)) else reprlib.repr(value)
