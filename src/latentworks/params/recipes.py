"""Sets of parameters in `recipes/`, each written into params.yaml by name.

A recipe holds whole sections, only those that differ from the committed params.yaml, and what it
is worth: under `goal` the scores it is meant to reach, under `expected` those that were measured.
"""

import difflib
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from latentworks import params
from latentworks.errors import ParamsError

GOAL, EXPECTED = "goal", "expected"  # what it is meant to reach, and what was measured


def names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "recipes").glob("*.yaml"))


def sections(root: Path, name: str) -> dict[str, Any]:
    """The sections that a recipe replaces. Raises ParamsError for a name that is not there."""
    known = names(root)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ParamsError(f"no recipe {name!r}. Expected one of: {', '.join(known)}.{hint}")
    recipe = params.read(root / "recipes" / f"{name}.yaml")
    return {section: value for section, value in recipe.items() if section not in (GOAL, EXPECTED)}


def write(root: Path, name: str, committed: str | None) -> None:
    """Make params.yaml `committed`, its text in git, with the sections of the recipe in it.

    Raises ParamsError where that would lose edits of the user: params.yaml is neither the
    committed one nor what some recipe made of it.
    """
    path = root / params.PARAMS
    params.read(path)  # is it YAML at all?
    current = path.read_text(encoding="utf-8")
    if committed is None:
        raise ParamsError(
            f"{path.name} is not in git, so that your edits could not be told from what it was. "
            f"Commit it, then write recipe {name!r}."
        )
    wanted = merge(committed, sections(root, name))
    if current != committed and current not in _written(root, committed):
        raise ParamsError(
            f"{path.name} has uncommitted edits, which recipe {name!r} would replace. Commit them, "
            f"or discard them with `git checkout {path.name}`."
        )
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(wanted, encoding="utf-8")
    temporary.replace(path)


def _written(root: Path, committed: str) -> Iterator[str]:
    """What each recipe makes of the committed params.yaml; one that cannot be read made nothing."""
    for name in names(root):
        with suppress(ParamsError):
            yield merge(committed, sections(root, name))


def merge(text: str, replacement: dict[str, Any]) -> str:
    """The YAML `text` with whole sections replaced; its comments stay where their key stays.

    Raises ParamsError where the outcome would not say what was wanted: around comments, ruamel
    writes some nested values wrongly.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    document = yaml.load(text)
    _replace(document, {**document, **replacement})
    stream = io.StringIO()
    yaml.dump(document, stream)
    if not _reads_as(stream.getvalue(), {**document, **replacement}):
        raise ParamsError(
            f"{', '.join(replacement)}: cannot be written into {params.PARAMS}. "
            "Expected numbers, texts, and lists and sections of them."
        )
    return stream.getvalue()


def overridden(text: str, overrides: dict[str, Any]) -> str:
    """The YAML `text` with single parameters replaced, such as {"train.epochs": 12}.

    Raises ParamsError where the way to one leads through a value. Names are not checked here.
    """
    document = YAML(typ="safe", pure=True).load(text)
    for name, value in overrides.items():
        *way, key = name.split(".")
        section = document
        for part in way:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ParamsError(
                f"{name} cannot be set: {'.'.join(way)} is not a section of {params.PARAMS}. "
                "Expected a name such as train.epochs."
            )
        section[key] = value
    return merge(text, document) if overrides else text


def _replace(section: Any, wanted: dict[str, Any]) -> None:
    for key in [key for key in section if key not in wanted]:
        del section[key]
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(section.get(key), dict):
            _replace(section[key], value)
        elif key not in section or not _same(section[key], value):
            section[key] = value


def _same(one: Any, other: Any) -> bool:
    """Equal and of one type: to Python, `true` equals 1, which params.yaml tells apart."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return json.dumps(one, default=str) == json.dumps(other, default=str)


def _reads_as(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return _same(YAML(typ="safe", pure=True).load(text), wanted)
    except YAMLError:
        return False
