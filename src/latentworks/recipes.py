"""Sets of parameters in `recipes/`, each written into params.yaml by name.

A recipe holds whole sections, only those that differ from the committed params.yaml, and under
`expected` what it is worth: minutes on two cores, and scores.
"""

import difflib
import io
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
    committed = repository.committed(root, path.name) or path.read_text(encoding="utf-8")
    wanted = merge(committed, sections(root, name))
    current = path.read_text(encoding="utf-8")
    if current != committed and current not in (
        merge(committed, sections(root, other)) for other in names(root)
    ):
        raise ParamsError(
            f"{path.name} has uncommitted edits, which recipe {name!r} would replace. Commit them, "
            f"or discard them with `git checkout {path.name}`."
        )
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(wanted, encoding="utf-8")
    temporary.replace(path)


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
