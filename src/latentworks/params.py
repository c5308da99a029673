"""params.yaml, read once and checked before anything heavy is imported.

A stage names the sections it uses as the fields of a `Config`; `load` reads these and no others,
so that an edit in one section cannot trouble a stage that does not declare it.
"""

import difflib
import json
import re
import reprlib
from collections.abc import Iterator, Sequence
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
MAX_EVENTS = 3000  # keys, values and ends of lists; a hundred thousand take half a minute
MAX_INTEGER = 2**63 - 1
MAX_SHOWN = 200  # characters of what stands in the file


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
    faults = list(_foreign(sections))
    if not faults:
        try:
            # Through JSON, where strict means "no '3' for 3" but a list may still fill a tuple.
            accepted = schema.model_validate_json(json.dumps(sections))
        except ValidationError as error:
            found = error.errors(include_url=False)
            faults = [_fault(schema, dict(fault), sections) for fault in found]
        except ValueError as error:  # an integer of thousands of digits
            faults = [f"{_line(str(error))}."]
        else:
            faults = list(_oversized(sections))
    if faults:
        raise ParamsError("\n".join(f"{source}: {fault}" for fault in faults))
    return accepted


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
        fault = f"{type(error).__name__} {_line(str(error))}"
        raise ParamsError(f"{path.name}: not valid YAML: {fault}.") from None
    if not isinstance(sections, dict):
        raise ParamsError(
            f"{path.name}: expected sections such as `model:`. Received: {_short(sections)}"
        )
    return dict(_with_text_keys(sections))


def _with_text_keys(value: Any) -> Any:
    """YAML allows any key, `? [1, 2]` for one; as text it is like any other unknown key."""
    if isinstance(value, dict):
        return {_encodable(str(key)): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    return value


def _refuse_bombs(text: str, source: str) -> None:
    """A few hundred bytes of nested aliases unfold into gigabytes, so look before they unfold."""
    depth = 0
    for number, event in enumerate(YAML(typ="safe", pure=True).parse(text)):
        if number > MAX_EVENTS:
            raise ParamsError(f"{source}: too many values. Expected less than {MAX_EVENTS}.")
        if isinstance(event, AliasEvent):
            line = event.start_mark.line + 1
            raise ParamsError(
                f"{source}: line {line}: alias *{_line(event.anchor)}. Write the value out instead."
            )
        if isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ParamsError(f"{source}: nested deeper than {MAX_DEPTH} levels.")
        elif type(event).__name__ in ("MappingEndEvent", "SequenceEndEvent"):
            depth -= 1


def _yaml_fault(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = _line(getattr(error, "problem", None) or str(error))
    where = f"line {mark.line + 1}: " if mark is not None else ""
    return f"{where}{problem}."


def _foreign(sections: dict[str, Any]) -> Iterator[str]:
    """What YAML has and JSON has not: it would have to be taken for something else."""
    for path, value in _leaves(sections):
        if isinstance(value, str):
            if value != _encodable(value):
                yield f"{_dotted(path)} holds half a character. Received: {_short(value)}."
        elif not isinstance(value, int | float | None):
            kind = type(value).__name__
            yield f"{_dotted(path)} is a {kind}. Put a text in quotes. Received: {_short(value)}."


def _oversized(sections: dict[str, Any]) -> Iterator[str]:
    """Integers that no library takes, where a section sets no limit of its own."""
    for path, value in _leaves(sections):
        if isinstance(value, int) and value > MAX_INTEGER:
            yield f"{_dotted(path)} should be at most {MAX_INTEGER}. Received: {_short(value)}."


def _leaves(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, *path, key)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, *path, str(number))
    else:
        yield path, value


def _encodable(text: str) -> str:
    """Without lone surrogates, which YAML can write and UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()


def _fault(schema: type[BaseModel], fault: dict[str, Any], sections: dict[str, Any]) -> str:
    """One line for one fault: the path of the key, what was expected, what was received."""
    loc: tuple[str | int, ...] = fault["loc"]
    names, path = _walk(schema, loc)
    where = _dotted(path) or "the file"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Expected one of: {', '.join(names)}."
        return f"{where} is not a known key. {hint}"
    if fault["type"] == "missing":
        return f"{where} is missing."
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
    text = repr(value) if isinstance(value, float) else reprlib.repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _dotted(path: Sequence[str]) -> str:
    """The path of a key; one that no section has can be anything, also long or unprintable."""
    return ".".join(key if re.fullmatch(r"\w{1,60}", key) else _short(key) for key in path)


def _line(text: str) -> str:
    """The first line, where what it cites from the file can be anything."""
    first = (text.splitlines() or [""])[0][:MAX_SHOWN].removesuffix(".")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in first)
