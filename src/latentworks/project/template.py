"""The template of a project: the folder template/ of this repository, as copier renders it.

copier addresses a version of the template by the repository and a commit. A project has both in
its file of answers.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import copier
from copier.errors import CopierError, ShallowCloneWarning
from plumbum import ProcessExecutionError

from latentworks import params
from latentworks.errors import LatentworksError
from latentworks.repository import git
from latentworks.system.console import first_line

CONFIG = "copier.yml"  # a repository with this file has a template
ANSWERS = ".copier-answers.yml"
COMMIT = re.compile(r"[0-9a-f]{40}")
ADDRESS = re.compile(r"/|(https?|ssh|file)://")  # starts what git and pip both read


def render(source: str, commit: str, folder: Path, name: str) -> None:
    """Render the template of a repository at a commit into a folder."""
    with _faults("make the project"):
        copier.run_copy(source, folder, {"name": name}, vcs_ref=commit, defaults=True, quiet=True)


def update(root: Path, commit: str) -> list[str]:
    """Merge the changes of the template up to a commit into a project.

    Returns the files with conflicts, which have conflict markers. git must know all files.
    """
    with _faults("upgrade"):
        copier.run_update(root, vcs_ref=commit, defaults=True, overwrite=True, quiet=True)
    return git.run(root, "diff", "--name-only", "--diff-filter=U", "--relative").splitlines()


def source_of(root: Path) -> str | None:
    """Return the address of the repository that a project follows; None if there is no project."""
    if not (root / ANSWERS).is_file():
        return None
    source = params.read(root / ANSWERS).get("_src_path")
    if not isinstance(source, str):
        raise LatentworksError(
            f"{ANSWERS} has no _src_path, the address of the repository of latentworks. "
            f"Restore it: `git checkout {ANSWERS}`."
        )
    return source


def commit_at(folder: Path, source: str, revision: str) -> str:
    """Return the commit that a branch, a tag or HEAD names in a repository, without a clone of it.

    A full hash is returned as it is. Raises LatentworksError if the repository lacks the name.
    """
    if COMMIT.fullmatch(revision):
        return revision
    try:
        found = git.run(folder, "ls-remote", "--", source, revision, f"{revision}^{{}}")
    except git.GitError as error:
        raise LatentworksError(
            f"{source} cannot be read: {error} If the repository of latentworks has moved, correct "
            f"its address in {ANSWERS} and in requirements.txt, and commit both."
        ) from None
    commits = {name: commit for commit, name in map(str.split, found.splitlines())}
    places = ("{}", "refs/tags/{}^{{}}", "refs/tags/{}", "refs/heads/{}")
    known = [commits[name] for each in places if (name := each.format(revision)) in commits]
    if not known:
        raise LatentworksError(
            f"{source} has no {revision!r}. Expected a branch, a tag, or the 40 digits of a commit."
        )
    return known[0]


def check_address(source: str) -> str:
    """Return an address that git and pip read; a folder with its whole path."""
    if Path(source).is_dir():
        source = str(Path(source).resolve())
    if not ADDRESS.match(source):
        raise LatentworksError(
            f"--source takes a folder, or an address such as https://example.org/latentworks.git. "
            f"Received: {source!r}."
        )
    return source


@contextmanager
def _faults(purpose: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ShallowCloneWarning)  # the commit is in it
            yield
    except (CopierError, ProcessExecutionError, ValueError) as error:
        said = error.stderr if isinstance(error, ProcessExecutionError) else error
        raise LatentworksError(f"Cannot {purpose}: {first_line(said)}") from None
