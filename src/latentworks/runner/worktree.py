"""A worktree: a second checkout of the project, for work that must not disturb the user's checkout.

It has its own files, git index, DVC locks and checkpoints, which stay between uses. It shares DVC's
cache and MLflow's store with the user's checkout, which is called the source here.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from latentworks import errors, params
from latentworks.errors import LatentworksError
from latentworks.repository import dag, dvc, git
from latentworks.runner import repair
from latentworks.system import disk, locks, processes
from latentworks.system.state import STATE
from latentworks.tracking.uri import absolute, tracking_uri

SETTINGS = {  # of git, in place of the user's: no signature, no hooks
    "user.name": "latentworks",
    "user.email": "latentworks@localhost",
    "commit.gpgSign": "false",
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",  # no escapes in file names
}
RETRAINING = "retraining"  # name of the worktree of the flow `retrain`


class Worktree:
    """The worktree called `name` of the checkout `source`; `uri` names MLflow's store."""

    def __init__(self, source: Path, name: str, uri: str | None = None) -> None:
        self.source = source.resolve()
        # The worktree has the path of the source, below a folder of its own. So a relative path
        # that leaves the source, such as `../photos`, ends in that folder, where a link can be put.
        self.tree = self.source / STATE / "workspaces" / name
        self.path = self.tree / self.source.relative_to(self.source.anchor)
        self.uri = absolute(uri or tracking_uri(self.source))

    @cached_property
    def top(self) -> Path:
        """Top folder of the worktree's git repository: `path`, or a folder above, as in the source.

        Raises GitError if git does not find or refuses the repository of the source.
        """
        up = git.run(self.source, "rev-parse", "--show-cdup").strip()
        return Path(os.path.normpath(self.path / up))

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for a process in the worktree, while this one holds it."""
        return {
            locks.OF_PARENT: self.lock,  # this process holds it: see `held`
            "DVC_SITE_CACHE_DIR": str(self.path / ".dvc/site_cache"),
            **self._ceiling,
            "MLFLOW_TRACKING_URI": self.uri,
            "PYTHONPATH": str(self.path / "src"),  # the code of the worktree
        }

    @contextmanager
    def held(self, purpose: str) -> Iterator[None]:
        """Hold the lock of the worktree. Raises Busy at once if another process holds it."""
        with locks.exclusive(self.lock, purpose, wait=False):
            yield

    @property
    def is_held(self) -> bool:
        return locks.holder(self.lock) is not None

    @property
    def lock(self) -> str:
        """Name of the lock of the worktree."""
        return locks.of(self.path)

    # --- files -----------------------------------------------------------------------------------

    def check_out(self, revision: str) -> str:
        """Check out a revision of the source in the worktree, and return its commit.

        dvc.lock, and the outs that git tracks, stay those of the last use of the worktree.
        """
        commit = self.resolve(revision)
        self._make()
        current = self._git("rev-parse", "--verify", "--quiet", "HEAD", check=False)
        if current != commit:
            self._git("fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head",
                      f"--upload-pack={self._served_by('upload-pack')}", self._git_folder,
                      commit)  # fmt: skip
        kept = self._results()
        if current != commit or kept is None or git.differences(self.path):
            self._git("checkout", "--quiet", "--force", "--detach", commit)
            for path, content in (kept or {}).items():
                self._replace(path, content)
        self._git("clean", "--quiet", "--force", "-d", "--", "src")
        self._share_dvc()
        return commit

    def resolve(self, revision: str) -> str:
        """Return the commit of the source that a branch, a tag or a commit hash names."""
        commit = git.object_id(self.source, f"{revision}^{{commit}}")
        if commit:
            return commit
        cure = "Expected a branch, a tag or a commit."
        if git.run(self.source, "rev-parse", "--is-shallow-repository").strip() == "true":
            cure += " The clone is shallow, and lacks older commits: run `git fetch --unshallow`."
        raise LatentworksError(f"{self.source} has no commit {revision!r}. {cure}")

    def write(self, name: str, text: str) -> None:
        """Write a file of the worktree."""
        self._replace(self.path / name, text.encode())

    def link_images(self) -> None:
        """Make a relative dataset.path lead to the same images as in the source.

        Images that git or DVC tracks are checked out; to the user's own files a link is made.
        Raises LatentworksError if the images are missing, or if git tracks some of them only.
        """
        given = Path(params.read(self.path / params.PARAMS)["dataset"]["path"])
        target = Path(os.path.normpath(self.source / given))
        if given.is_absolute() or dag.is_made(self.path, given):
            return
        place = self.tree / target.relative_to(target.anchor)
        if self._git("ls-files", "--", str(place), check=False):
            self._refuse_partly_in_git(given)
            return
        self._clear_links(place)
        for path in (place, *place.parents):
            pointer = Path(f"{path}.dvc")
            if self.path in path.parents and pointer.is_file():
                self.restore(str(pointer.relative_to(self.path)))
                return
        if not target.exists():
            raise LatentworksError(
                f"{target}: no such file or folder. Correct dataset.path in {params.PARAMS}."
            )
        if self.path.is_relative_to(place):
            raise LatentworksError(
                f"{target} contains the project itself. Correct dataset.path in {params.PARAMS}."
            )
        if place.is_dir():
            shutil.rmtree(place)  # from an earlier use: links, or files from DVC's cache
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def _clear_links(self, place: Path) -> None:
        """Remove links of an earlier use: a write through them would change the user's files."""
        for path in reversed((place, *place.parents)):
            if self.tree in path.parents and path.is_symlink():
                path.unlink()

    def _refuse_partly_in_git(self, given: Path) -> None:
        names = self._git("ls-files", "--others", "--", str(given), cwd=self.source, check=False)
        parts = {name: set(Path(name).parts) - {os.pardir} for name in names.splitlines()}
        untracked = [name for name in parts if not any(part[0] == "." for part in parts[name])]
        if untracked:
            raise LatentworksError(
                f"Some files of {given} are in git and others are not, such as {untracked[0]}. "
                f"Expected all or none: commit the others, or run `git rm -r --cached {given}`."
            )

    def _make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        git = self.top / ".git"
        for lock in (*git.glob("*.lock"), *(git / "refs").rglob("*.lock")):
            lock.unlink(missing_ok=True)  # of a git command that was killed
        if self._git("rev-parse", "--show-toplevel", check=False) != os.path.realpath(self.top):
            # Left by a `git init` that was killed, or from before the source's top was another one.
            for folder in (self.path, *self.path.parents):
                if self.tree in folder.parents:
                    shutil.rmtree(folder / ".git", ignore_errors=True)
            self._git("init", "--quiet", str(self.top))
        repair.repair_checkout(self.path)

    def _results(self) -> dict[Path, bytes] | None:
        """Return the bytes of dvc.lock and of the outs in git, by path; None without a dvc.lock."""
        if not (self.path / dag.LOCK).is_file():
            return None
        try:
            outs = self._outs()
        except LatentworksError:  # dvc.yaml of the current commit is invalid
            outs = []
        names = self._git("ls-files", "--", dag.LOCK, *outs, check=False)
        paths = [self.path / name for name in names.splitlines()]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    def _outs(self) -> list[str]:
        return [out for stage in dag.stages(self.path).values() for out in dag.outs_of(stage)]

    def _replace(self, path: Path, content: bytes) -> None:
        if not path.is_file() or path.read_bytes() != content:
            with disk.replacing(path) as temporary:
                temporary.write_bytes(content)

    def _git(self, *call: str, cwd: Path | None = None, check: bool = True) -> str:
        settings = SETTINGS if cwd else {**SETTINGS, "lfs.storage": f"{self._git_folder}/lfs"}
        no = () if check else git.ANY
        env = {} if cwd else self._ceiling
        return git.run(cwd or self.path, *call, no=no, settings=settings, env=env).strip()

    @property
    def _ceiling(self) -> dict[str, str]:
        """Hides the source, which is above, from git if the worktree has no repository."""
        return {"GIT_CEILING_DIRECTORIES": str(self.top.parent)}

    @cached_property
    def _git_folder(self) -> str:
        """The source's git folder, with its objects and those of git-lfs."""
        call = ("rev-parse", "--path-format=absolute", "--git-common-dir")
        return git.run(self.source, *call).strip()

    def _served_by(self, program: str) -> str:
        """Return the command with which git reads or writes the source for the worktree.

        The settings allow a fetch of a commit that is on no branch any more, such as that of a
        version, and a source of another owner that git has accepted: the user's exception for it
        names the source's top, and this command asks for its git folder.
        """
        settings = {"uploadpack.allowAnySHA1InWant": "true", "safe.directory": self._git_folder}
        return shlex.join(["git", *git.options(settings), program])

    # --- DVC and latentworks commands ------------------------------------------------------------

    def dvc(self, *arguments: str) -> str:
        """Return the output of a DVC command in the worktree. Raises as `dvc.run` does."""
        return dvc.run(self.path, *arguments, env=self.environment)

    def command(self, report: Callable[[str], None], *arguments: str) -> dict[str, Any]:
        """Run a latentworks command with the code of the worktree; return the JSON that it prints.

        `report` gets the other lines. A command that fails and prints no JSON raises the error of
        its exit code, with its last line.
        """
        lines: list[str] = []
        answers: list[str] = []

        def sort(line: str) -> None:
            (answers if line.startswith("{") else lines).append(line)
            if not line.startswith("{"):
                report(line)

        call = [sys.executable, "-m", "latentworks.cli", *arguments]
        environment = {**os.environ, **self.environment}
        exit_code = processes.stream(call, self.path, sort, environment, locks.handles())
        if answers:
            return dict(json.loads(answers[-1]))
        if exit_code != 0:
            fault = next((line for line in reversed(lines) if line), "no reason given")
            raise errors.by_exit_code(exit_code)(fault)
        return {}

    def restore(self, *stages: str) -> None:
        """Restore the outs of stages from DVC's cache, or else from DVC's remote.

        Raises LatentworksError if neither has them.
        """
        try:
            self.dvc("checkout", "--quiet", "--force", *stages)  # no file here is the user's
        except LatentworksError:
            if not self.remote:
                raise
            self.dvc("pull", "--quiet", "--force", *stages)

    @cached_property
    def remote(self) -> str:
        """Name of DVC's default remote; empty if there is none."""
        return self._settings.get("core.remote", "")

    @cached_property
    def _settings(self) -> dict[str, str]:
        return dvc.settings(self.source)

    def _share_dvc(self) -> None:
        """Give the worktree the source's settings of DVC, with its cache and remotes."""
        content = dvc.config_file(self._settings)
        path = self.path / ".dvc/config.local"
        if not path.is_file() or path.read_bytes() != content:
            with disk.replacing(path) as temporary:
                temporary.touch(mode=0o600)  # the settings may hold the password of a remote
                temporary.write_bytes(content)

    # --- branches --------------------------------------------------------------------------------

    def push_branch(self, branch: str, message: str) -> bool:
        """Commit params.yaml, dvc.lock and the outs outside .gitignore as a branch of the source.

        Return False if the source has a branch of this name, which is left alone: it may be in use.
        """
        known = ("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")
        if self._git(*known, cwd=self.source, check=False):
            return False
        names = [str(params.PARAMS), dag.LOCK, *self._outs()]
        existing = [name for name in names if (self.path / name).exists()]
        ignored = self._git("check-ignore", "--", *existing, check=False).splitlines()
        self._git("add", "--", *(name for name in existing if name not in ignored))
        self._git("commit", "--quiet", "--allow-empty", "-m", message)
        self._git("push", "--quiet", f"--receive-pack={self._served_by('receive-pack')}",
                  self._git_folder, f"HEAD:refs/heads/{branch}")  # fmt: skip
        return True
