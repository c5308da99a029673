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
from functools import reduce
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tokens import CommentToken

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
    replace_text(root, with_sections(root, sections(root, name), committed, f"recipe {name!r}"))


def with_sections(
    root: Path,
    wanted: params.RawSections,
    committed: str | None,
    source: str,
    comments: Mapping[str, str] | None = None,
    former: str | None = None,
) -> str:
    """Return the text of params.yaml with the sections `wanted`, under the rules of `write`.

    `source` names their source in errors. `comments` are those of `merge`. Sections of the text
    `former`, which was written before, are no edits of the user. Raises ParamsError.
    """
    path = root / params.PARAMS
    now = params.read(path)  # raises if it is not valid YAML
    current = path.read_text(encoding="utf-8")
    if committed is None:
        raise ParamsError(
            f"{path.name} is not in git, so uncommitted edits of yours cannot be detected. "
            "Commit it, then run the same command again."
        )
    before = sections_of(committed)
    known = [before, *_sections_of_all(root)] + ([sections_of(former)] if former else [])
    own = [
        section
        for section in now
        if not any(section in each and _same(now[section], each[section]) for each in known)
    ]
    if edited := [section for section in own if section in wanted]:
        raise ParamsError(
            f"{path.name} has uncommitted edits in {', '.join(edited)}, which {source} "
            f"would replace. Commit them, or discard them with `git checkout {path.name}`."
        )
    is_as_written = current in (committed, former) or current in _texts_of_all(root, committed)
    returning = {
        section: before[section] for section in now if section in before and section not in own
    }
    text = committed if is_as_written else current
    return merge(text, {**returning, **wanted}, comments)


def replace_text(root: Path, text: str) -> None:
    """Replace params.yaml as a whole, or not at all."""
    path = root / params.PARAMS
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _sections_of_all(root: Path) -> Iterator[params.RawSections]:
    """Yield the sections of each recipe. Unreadable recipes are skipped."""
    for name in names(root):
        with suppress(ParamsError):
            yield sections(root, name)


def _texts_of_all(root: Path, committed: str) -> Iterator[str]:
    """Yield params.yaml as each recipe would write it."""
    for replacement in _sections_of_all(root):
        with suppress(ParamsError):
            yield merge(committed, replacement)


def merge(
    text: str, replacement: params.RawSections, comments: Mapping[str, str] | None = None
) -> str:
    """Replace whole sections of the YAML `text`. Comments of the remaining keys are kept.

    `comments` replaces comments that the new values would make untrue, by the key, such as
    {"train.epochs": "about 4,000 steps"}; keys without a comment get none. Raises ParamsError if
    the new text does not parse to the wanted values: ruamel writes some nested values near comments
    wrongly.
    """
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    document = yaml.load(text)
    _replace(document, {**document, **replacement})
    for name, comment in (comments or {}).items():
        *parents, key = name.split(".")
        section = reduce(lambda found, parent: found.get(parent, {}), parents, document)
        if token := _comment(section, key):
            _, end, blank_lines = token.value.partition("\n")
            token.value = f"# {comment}{end}{blank_lines}"
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
        section, known = document, list[str]()
        for part in parents:
            known = list(section) if isinstance(section, dict) else []
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            near = difflib.get_close_matches(parents[-1], known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "Expected a name such as train.epochs."
            raise ParamsError(
                f"{name} cannot be set: {'.'.join(parents)} is not a section of {params.PARAMS}. "
                f"{hint}"
            )
        section[key] = value
    return merge(text, document) if overrides else text


def listed(name: str, text: str) -> list[Any]:
    """Read the values that a command line gives to a param: `8,16`, or `[32, 64],[64, 128]`.

    Raises ParamsError.
    """
    try:
        values = YAML(typ="safe", pure=True).load(f"[{text}]")
    except Exception as error:  # ruamel's constructors raise errors of many kinds
        values, fault = None, type(error).__name__
    else:
        fault = "no list"
    if not isinstance(values, list) or not values:
        raise ParamsError(
            f"{name}: expected values as in {params.PARAMS}, with commas between them ({fault}). "
            f"Received: {text!r}."
        )
    return values


def text_of(recipe: params.RawSections, *comments: str) -> str:
    """Return the text of a recipe with these sections, below lines of comment."""
    yaml = YAML()
    yaml.width = 200
    stream = io.StringIO()
    for name, section in recipe.items():
        stream.write("\n")
        yaml.dump(CommentedMap({name: _written(section)}), stream)
    return "".join(f"# {line}\n" for line in comments) + stream.getvalue()


def _replace(section: dict[str, Any], wanted: params.RawSections) -> None:
    for key in [key for key in section if key not in wanted]:
        del section[key]
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(section.get(key), dict):
            _replace(section[key], value)
        elif key not in section:
            _append(section, key, _written(value))
        elif not _same(section[key], value):
            token = _comment(section, key)
            if token and not isinstance(value, dict):  # two spaces after a value of another length
                token.start_mark.column += len(str(value)) - len(str(section[key]))
            section[key] = _written(value)


def _append(section: Any, key: str, value: Any) -> None:
    """Add a key. Blank lines after the section, which ruamel counts to its last key, move along."""
    last = _comment(section, next(reversed(section), ""))
    section[key] = value
    if last is None or not last.value.endswith("\n\n"):
        return
    last.value = last.value.rstrip("\n") + "\n"
    while isinstance(value, CommentedMap) and value:
        section, key = value, next(reversed(value))
        value = section[key]
    section.ca.items[key] = [None, None, CommentToken("\n\n", last.start_mark, None), None]


def _comment(section: dict[str, Any], key: str) -> CommentToken | None:
    """Return the comment on the line of a key, with the blank lines after it."""
    if not isinstance(section, CommentedMap):
        return None
    token = (section.ca.items.get(key) or [None] * 3)[2]
    return token if isinstance(token, CommentToken) else None


def _written(value: object) -> object:
    """Let ruamel write a list of numbers or texts as [1, 2], and not on a line each."""
    if isinstance(value, dict):
        return CommentedMap({key: _written(item) for key, item in value.items()})
    if not isinstance(value, list) or any(isinstance(each, dict | list) for each in value):
        return value
    on_a_line = CommentedSeq(value)
    on_a_line.fa.set_flow_style()
    return on_a_line


def _same(one: object, other: object) -> bool:
    """True if two values are equal and of one type. In Python, True equals 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return json.dumps(one, default=str) == json.dumps(other, default=str)


def sections_of(text: str) -> params.RawSections:
    """Read the sections of the text of params.yaml."""
    return dict(YAML(typ="safe", pure=True).load(text))


def _reads_as(text: str, wanted: params.RawSections) -> bool:
    try:
        return _same(YAML(typ="safe", pure=True).load(text), wanted)
    except YAMLError:
        return False
