"""Reading of params.yaml, and its checks, which run before any slow import.

A stage declares the sections that it uses as the fields of a `Config`. `load` checks only these,
so that an error in another section does not stop the stage.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionStartEvent

from latentworks.errors import ParamsError
from latentworks.params.faults import as_line, dotted, printable, short

PARAMS = Path("params.yaml")
MAX_BYTES = 100_000
MAX_DEPTH = 20
MAX_EVENTS = 3000  # keys, values and ends of lists; 100 000 take half a minute to parse
MAX_INTEGER = 2**63 - 1
RawSections = dict[str, Any]  # the values that YAML has, nested: numbers, texts, lists, mappings
Schema = TypeVar("Schema", bound=BaseModel)


def load(schema: type[Schema], path: Path = PARAMS, *, whole: bool = False) -> Schema:
    """Read the sections that `schema` names from a YAML file.

    With `whole`, a section that `schema` does not name is an error.
    Raises ParamsError with one line per fault.
    """
    sections = read(path)
    if not whole:
        sections = {name: sections[name] for name in schema.model_fields if name in sections}
    return parse(schema, sections, path.name)


def parse(schema: type[Schema], sections: RawSections, source: str) -> Schema:
    """Check `sections`, read from the file named `source`. Raises ParamsError."""
    faults = list(_foreign(sections))
    if not faults:
        try:
            # Strict validation of JSON refuses "3" for 3, and accepts a list for a tuple.
            accepted = schema.model_validate_json(json.dumps(sections))
        except ValidationError as error:
            errors = error.errors(include_url=False)
            faults = [as_line(schema, fault, sections) for fault in errors]
        except ValueError as error:  # an integer of thousands of digits
            faults = [f"{printable(str(error))}."]
        else:
            faults = list(_oversized(sections))
    if faults:
        raise ParamsError("\n".join(f"{source}: {fault}" for fault in faults))
    return accepted


def read(path: Path) -> RawSections:
    """Read the sections of a YAML 1.2 file: a mapping without aliases or duplicate keys.

    Raises ParamsError.
    """
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
    except Exception as error:  # ruamel's constructors raise other errors, too: `!!bool maybe`
        fault = f"{type(error).__name__} {printable(str(error))}"
        raise ParamsError(f"{path.name}: not valid YAML: {fault}.") from None
    if not isinstance(sections, dict):
        raise ParamsError(
            f"{path.name}: expected sections such as `model:`. Received: {short(sections)}"
        )
    return dict(_with_text_keys(sections))


def _with_text_keys(value: object) -> Any:
    """Convert keys to text: YAML allows keys of any type, such as `? [1, 2]`."""
    if isinstance(value, dict):
        return {_encodable(str(key)): _with_text_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    return value


def _refuse_bombs(text: str, source: str) -> None:
    """Raise ParamsError for aliases, too many values or deep nesting, before values are built.

    A few hundred bytes of nested aliases would expand into gigabytes.
    """
    depth = 0
    for number, event in enumerate(YAML(typ="safe", pure=True).parse(text)):
        if number > MAX_EVENTS:
            raise ParamsError(f"{source}: too many values. Expected less than {MAX_EVENTS}.")
        if isinstance(event, AliasEvent):
            line = event.start_mark.line + 1
            raise ParamsError(
                f"{source}: line {line}: alias *{printable(event.anchor)}. "
                "Write the value out instead."
            )
        if isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ParamsError(f"{source}: nested deeper than {MAX_DEPTH} levels.")
        elif type(event).__name__ in ("MappingEndEvent", "SequenceEndEvent"):
            depth -= 1


def _yaml_fault(error: YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = printable(getattr(error, "problem", None) or str(error))
    where = f"line {mark.line + 1}: " if mark is not None else ""
    return f"{where}{problem}."


def _foreign(sections: RawSections) -> Iterator[str]:
    """Yield a fault for each value that YAML has and JSON has not, such as a date."""
    for path, value in _leaves(sections):
        if isinstance(value, str):
            if value != _encodable(value):
                yield f"{dotted(path)} holds an incomplete character. Received: {short(value)}."
        elif not isinstance(value, int | float | None):
            kind = type(value).__name__
            yield f"{dotted(path)} is a {kind}. Put a text in quotes. Received: {short(value)}."


def _oversized(sections: RawSections) -> Iterator[str]:
    """Yield a fault for each integer above MAX_INTEGER, for sections that set no limit."""
    for path, value in _leaves(sections):
        if isinstance(value, int) and value > MAX_INTEGER:
            yield f"{dotted(path)} should be at most {MAX_INTEGER}. Received: {short(value)}."


def _leaves(value: object, *path: str) -> Iterator[tuple[tuple[str, ...], object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, *path, key)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, *path, str(number))
    else:
        yield path, value


def _encodable(text: str) -> str:
    """Escape lone surrogates, which YAML can express and UTF-8 cannot."""
    return text.encode("utf-8", "backslashreplace").decode()
