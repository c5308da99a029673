"""Sets of parameters in `recipes/`, each written into params.yaml by name.

A recipe holds whole sections, only those that differ from the committed params.yaml, and under
`expected` what it is worth: minutes on two cores, and scores.
"""

import difflib
import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from latentworks import params, repository
from latentworks.errors import ParamsError

EXPECTED = "expected"


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
    return {section: value for section, value in recipe.items() if section != EXPECTED}


def write(root: Path, name: str) -> None:
    """Make params.yaml what is committed, with the sections of the recipe in it.

    Raises ParamsError where that would lose edits of the user: params.yaml is neither the
    committed one nor what some recipe made of it.
    """
    path = root / params.PARAMS
    params.read(path)  # is it YAML at all?
    current = path.read_text(encoding="utf-8")
    committed = repository.committed(root, path.name)
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
    """The YAML `text` with whole sections replaced; its comments stay where their key stays."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    document = yaml.load(text)
    _replace(document, {**document, **replacement})
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _replace(section: Any, wanted: dict[str, Any]) -> None:
    for key in [key for key in section if key not in wanted]:
        del section[key]
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(section.get(key), dict):
            _replace(section[key], value)
        elif key not in section or section[key] != value:
            section[key] = value
