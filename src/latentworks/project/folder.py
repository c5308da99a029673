"""A project of one's own: a folder with the template, and params that fit the images."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentworks import params
from latentworks.errors import LatentworksError
from latentworks.project import fitting, template
from latentworks.project.choices import Size
from latentworks.project.fitting import Fitted
from latentworks.repository import git

AUTHOR = {"user.name": "latentworks", "user.email": "latentworks@localhost"}  # where git has none


def create(
    clone: Path,
    folder: Path,
    images: Path,
    *,
    source: str | None = None,
    size: Size | None = None,
    is_map: bool = False,
    keep: bool = True,
) -> Fitted:
    """Make a project in a new folder, with a first commit; it appears whole or not at all.

    `source` is the address of the repository that the project follows, by default the path of the
    clone. Without `keep`, nothing is left but the params that are returned.
    """
    folder = Path(os.path.abspath(folder.expanduser()))
    _check(clone, folder)
    source = template.check_address(source or str(clone))
    commit, committed = git.object_id(clone, "HEAD"), git.committed(clone, str(params.PARAMS))
    if not commit or committed is None:
        raise LatentworksError(f"{clone} has no commit of {params.PARAMS}. Commit the files first.")
    with _appearing(folder, keep) as partial:
        try:
            template.render(source, commit, partial, folder.name)
        except LatentworksError as error:
            cure = f" If {source} lacks commit {commit[:10]} of this clone, push it there first."
            raise LatentworksError(f"{error}{cure}") from None
        (partial / params.PARAMS).write_text(committed, encoding="utf-8")
        fitted = fitting.fit(partial, images, size=size, is_map=is_map, committed=committed)
        fitting.write(partial, fitted.text)
        git.run(partial, "init", "--quiet")
        git.run(partial, "add", "--all")
        known = git.run(partial, "config", "user.email", no=git.NO)
        message = f"A project of latentworks at {commit[:10]}"
        settings = {} if known else AUTHOR
        git.run(partial, "commit", "--quiet", "-m", message, settings=settings)
    return fitted


def _check(clone: Path, folder: Path) -> None:
    if (source := template.source_of(clone)) is not None:
        raise LatentworksError(
            f"{clone} is a project itself. Make another one from a clone of latentworks: its own "
            f"comes from {source}."
        )
    if not (clone / template.CONFIG).is_file():
        raise LatentworksError(
            f"{clone} has no {template.CONFIG}, which describes the template. Run this command in "
            "a clone of latentworks."
        )
    if folder.is_relative_to(clone):
        raise LatentworksError(f"{folder} lies in the clone. Name a folder outside of {clone}.")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise LatentworksError(f"{folder} exists, and is no empty folder. Choose another name.")


@contextmanager
def _appearing(folder: Path, keep: bool) -> Iterator[Path]:
    """Yield a folder beside `folder`, which takes its name at the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed call
    try:
        yield partial
        if keep:
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
