"""Recipes: sets of params in `recipes/`, written into params.yaml by name.

A recipe holds the whole sections that differ from the committed params.yaml. It also holds scores:
under `goal` the scores to reach, and under `expected` the measured scores.
"""

import difflib
import io
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from latentworks import params
from latentworks.errors import ParamsError

GOAL, EXPECTED = "goal", "expected"  # scores to reach, and measured scores


def names(root: Path) -> list[str]:
    """List the recipes of the checkout `root`."""
    return sorted(path.stem for path in (root / "recipes").glob("*.yaml"))


def sections(root: Path, name: str) -> params.RawSections:
    """Read the sections that a recipe replaces. Raises ParamsError for an unknown name."""
    known = names(root)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ParamsError(f"Unknown recipe {name!r}. Expected one of: {', '.join(known)}.{hint}")
    recipe = params.read(root / "recipes" / f"{name}.yaml")
    return {section: value for section, value in recipe.items() if section not in (GOAL, EXPECTED)}


@dataclass(frozen=True)
class Described:
    """A recipe in a list."""

    name: str
    minutes: float | None  # of the stages from `train` on, when it was measured
    text: str  # the comment on its first line


def described(root: Path) -> list[Described]:
    """Describe the recipes of the checkout `root`, the quickest first."""
    found = []
    for name in names(root):
        path = root / "recipes" / f"{name}.yaml"
        try:
            measured = params.read(path).get(EXPECTED, {}).get("minutes")
        except ParamsError as error:
            found.append(Described(name, None, f"cannot be read: {error}"))
            continue
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found.append(Described(name, measured, first.removeprefix("#").strip()))
    return sorted(found, key=lambda each: each.minutes or math.inf)


def with_kind(root: Path, section: str, kind: str) -> str | None:
    """Return the name of a recipe in which a section, such as `sample.sampler`, has this kind."""
    for name in names(root):
        with suppress(ParamsError):
            found: Any = sections(root, name)
            for part in section.split("."):
                found = found.get(part) if isinstance(found, dict) else None
            if isinstance(found, dict) and found.get("kind") == kind:
                return name
    return None


def write(root: Path, name: str, committed: str | None) -> None:
    """Write the sections of a recipe into params.yaml; `committed` is its text in git.

    Sections of the recipe that was written before return to the committed ones. Edits of the user
    in other sections stay. Raises ParamsError for edits in a section of the recipe: those that are
    neither committed nor of any recipe.
    """
    path = root / params.PARAMS
    now = params.read(path)  # raises if it is not valid YAML
    current = path.read_text(encoding="utf-8")
    if committed is None:
        raise ParamsError(
            f"{path.name} is not in git, so uncommitted edits of yours cannot be detected. "
            f"Commit it, then write recipe {name!r}."
        )
    wanted = sections(root, name)
    before = YAML(typ="safe", pure=True).load(committed)
    known = [before, *_sections_of_all(root)]
    own = [
        section
        for section in now
        if not any(section in each and _same(now[section], each[section]) for each in known)
    ]
    if edited := [section for section in own if section in wanted]:
        raise ParamsError(
            f"{path.name} has uncommitted edits in {', '.join(edited)}, which recipe {name!r} "
            f"would replace. Commit them, or discard them with `git checkout {path.name}`."
        )
    is_as_written = current == committed or current in _written(root, committed)
    former = {
        section: before[section] for section in now if section in before and section not in own
    }
    text = committed if is_as_written else current
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(merge(text, {**former, **wanted}), encoding="utf-8")
    temporary.replace(path)


def _sections_of_all(root: Path) -> Iterator[params.RawSections]:
    """Yield the sections of each recipe. Unreadable recipes are skipped."""
    for name in names(root):
        with suppress(ParamsError):
            yield sections(root, name)


def _written(root: Path, committed: str) -> Iterator[str]:
    """Yield params.yaml as each recipe would write it."""
    for replacement in _sections_of_all(root):
        with suppress(ParamsError):
            yield merge(committed, replacement)


def merge(text: str, replacement: params.RawSections) -> str:
    """Replace whole sections of the YAML `text`. Comments of the remaining keys are kept.

    Raises ParamsError if the new text does not parse to the wanted values: ruamel writes some
    nested values near comments wrongly.
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


def overridden(text: str, overrides: Mapping[str, object]) -> str:
    """Replace single params of the YAML `text`, such as {"train.epochs": 12}.

    Raises ParamsError if a name leads through a value instead of a section. Other checks of the
    names are left to `parse`.
    """
    document = YAML(typ="safe", pure=True).load(text)
    for name, value in overrides.items():
        *parents, key = name.split(".")
        section = document
        for part in parents:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ParamsError(
                f"{name} cannot be set: {'.'.join(parents)} is not a section of {params.PARAMS}. "
                "Expected a name such as train.epochs."
            )
        section[key] = value
    return merge(text, document) if overrides else text


def _replace(section: dict[str, Any], wanted: params.RawSections) -> None:
    for key in [key for key in section if key not in wanted]:
        del section[key]
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(section.get(key), dict):
            _replace(section[key], value)
        elif key not in section or not _same(section[key], value):
            section[key] = value


def _same(one: object, other: object) -> bool:
    """True if two values are equal and of one type. In Python, True equals 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return json.dumps(one, default=str) == json.dumps(other, default=str)


def _reads_as(text: str, wanted: params.RawSections) -> bool:
    try:
        return _same(YAML(typ="safe", pure=True).load(text), wanted)
    except YAMLError:
        return False
