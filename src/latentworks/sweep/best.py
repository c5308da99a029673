"""The best trial as a recipe, which belongs to the user: it has neither goals nor a measurement."""

import os
import re
from pathlib import Path

from latentworks import params
from latentworks.errors import LatentworksError
from latentworks.params import recipes
from latentworks.repository import git
from latentworks.sweep.axes import Values
from latentworks.system import disk

FIRST = "The best of "  # starts the first line of a sweep's recipe, which a sweep may replace


def path_of(root: Path, name: str) -> Path:
    """Return the file of a recipe: in recipes/, unless `name` is a path.

    Raises LatentworksError if the file exists and no sweep has written it.
    """
    if "/" in name or name.endswith(".yaml"):
        path = Path(name).expanduser()
    elif re.fullmatch(r"[\w-]+", name):
        path = root / "recipes" / f"{name}.yaml"
    else:
        raise LatentworksError(
            f"--name is a name such as sweep, or a path that ends in .yaml. Received: {name!r}."
        )
    if path.is_dir():
        raise LatentworksError(f"--name {name} is a folder. Name a file in it.")
    if path.exists() and not path.read_bytes().startswith(f"# {FIRST}".encode()):
        raise LatentworksError(
            f"{os.path.relpath(path)} exists, and is not of a sweep. Choose another --name."
        )
    return path


def write(root: Path, path: Path, base: str, values: Values, reason: str) -> None:
    """Write the sections that these values make of `base`, a text of params.yaml, as a recipe.

    A recipe holds the sections that have one of the values, or differ from the committed ones.
    """
    committed = git.committed(root, str(params.PARAMS))
    before = recipes.sections_of(committed) if committed else {}
    best = recipes.sections_of(recipes.overridden(base, values))
    changed = {name.partition(".")[0] for name in values}
    wanted = {
        name: section
        for name, section in best.items()
        if name in changed or section != before.get(name)
    }
    with disk.replacing(path) as temporary:
        temporary.write_text(recipes.text_of(wanted, f"{FIRST}{reason}."), encoding="utf-8")
