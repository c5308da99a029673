"""The images of a worktree: those that git or DVC tracks, or a link to the user's own files."""

import os
import shutil
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from latentworks import params
from latentworks.datasets.config import SourcePath
from latentworks.errors import LatentworksError
from latentworks.repository import dag, git
from latentworks.runner.worktree import Worktree


def link_images(worktree: Worktree) -> None:
    """Make a relative dataset.path lead to the same images as in the source.

    Images that git or DVC tracks are checked out; to the user's own files a link is made. Nothing
    is done if dataset.path is no path: `latentworks validate` names the fault.
    Raises LatentworksError if the images are missing, or if git tracks some of them only.
    """
    try:
        section = params.read(worktree.path / params.PARAMS)["dataset"]
        given = Path(TypeAdapter(SourcePath).validate_python(section["path"]))
    except (ValidationError, KeyError, TypeError):
        return
    target = Path(os.path.normpath(worktree.source / given))
    if given.is_absolute() or dag.is_made(worktree.path, given):
        return
    place = worktree.tree / target.relative_to(target.anchor)
    if worktree.repository.tracked(str(place)):
        _refuse_partly_in_git(worktree.source, given)
        return
    _clear_links(worktree.tree, place)
    for path in (place, *place.parents):
        pointer = Path(f"{path}.dvc")
        if worktree.path in path.parents and pointer.is_file():
            worktree.restore(str(pointer.relative_to(worktree.path)))
            return
    if not target.exists():
        raise LatentworksError(
            f"{target}: no such file or folder. Correct dataset.path in {params.PARAMS}."
        )
    if worktree.path.is_relative_to(place):
        raise LatentworksError(
            f"{target} contains the project itself. Correct dataset.path in {params.PARAMS}."
        )
    if place.is_dir():
        shutil.rmtree(place)  # from an earlier use: links, or files from DVC's cache
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def _clear_links(tree: Path, place: Path) -> None:
    """Remove links of an earlier use: a write through them would change the user's files."""
    for path in reversed((place, *place.parents)):
        if tree in path.parents and path.is_symlink():
            path.unlink()


def _refuse_partly_in_git(source: Path, given: Path) -> None:
    names = git.run(source, "ls-files", "-z", "--others", "--", str(given), no=git.ANY).split("\0")
    parts = {name: set(Path(name).parts) - {os.pardir} for name in filter(None, names)}
    untracked = [name for name in parts if not any(part[0] == "." for part in parts[name])]
    if untracked:
        raise LatentworksError(
            f"Some files of {given} are in git and others are not, such as {untracked[0]}. "
            f"Expected all or none: commit the others, or run `git rm -r --cached {given}`."
        )
