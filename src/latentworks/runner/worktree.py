"""A worktree: a second checkout of the project, for work that must not disturb the user's checkout.

It has its own files, git index, DVC locks and checkpoints, which stay between uses. It shares DVC's
cache and MLflow's store with the user's checkout, which is called the source here.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from latentworks import errors, params
from latentworks.errors import LatentworksError
from latentworks.repository import dag, dvc, git, package
from latentworks.runner import repair
from latentworks.runner.worktree_git import WorktreeRepository
from latentworks.system import disk, locks, processes
from latentworks.system.state import STATE
from latentworks.tracking.uri import absolute, tracking_uri

RETRAINING = "retraining"  # name of the worktree of the flow `retrain`


class Worktree:
    """The worktree called `name` of the checkout `source`; `uri` names MLflow's store."""

    def __init__(self, source: Path, name: str, uri: str | None = None) -> None:
        self.source = source.resolve()
        # The worktree has the path of the source, below a folder of its own. So a relative path
        # that leaves the source, such as `../photos`, ends in that folder, where a link can be put.
        self.tree = self.source / STATE / "workspaces" / name
        self.path = self.tree / self.source.relative_to(self.source.anchor)
        self.repository = WorktreeRepository(self.source, self.tree, self.path)
        self.uri = absolute(uri or tracking_uri(self.source))

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for a process in the worktree, while this one holds it."""
        return {
            locks.OF_PARENT: self.lock,  # this process holds it: see `held`
            "DVC_SITE_CACHE_DIR": str(self.path / ".dvc/site_cache"),
            **self.repository.ceiling,
            "MLFLOW_TRACKING_URI": self.uri,
            **self._code,
        }

    @property
    def _code(self) -> dict[str, str]:
        """The code of the worktree. A project without src/ runs the installed package in both."""
        is_clone = (self.source / package.CODE).is_dir()
        return {"PYTHONPATH": str(self.path / "src")} if is_clone else {}

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
        commit = self.repository.resolve(revision)
        self.repository.make()
        repair.repair_checkout(self.path)
        fetched, kept = self.repository.fetch(commit), self._results()
        if fetched or kept is None or git.differences(self.path):
            self.repository.run("checkout", "--quiet", "--force", "--detach", commit)
            for path, content in (kept or {}).items():
                self._replace(path, content)
        self.repository.run("clean", "--quiet", "--force", "-d", "--", "src")
        self._share_dvc()
        return commit

    def write(self, name: str, text: str) -> None:
        """Write a file of the worktree."""
        self._replace(self.path / name, text.encode())

    def push_branch(self, branch: str, message: str) -> bool:
        """Commit params.yaml, dvc.lock and the outs outside .gitignore as a branch of the source.

        Return False if the source has a branch of this name, which is left alone: it may be in use.
        """
        names = [str(params.PARAMS), dag.LOCK, *self._outs()]
        return self.repository.push_branch(branch, message, names)

    def _results(self) -> dict[Path, bytes] | None:
        """Return the bytes of dvc.lock and of the outs in git, by path; None without a dvc.lock."""
        if not (self.path / dag.LOCK).is_file():
            return None
        try:
            outs = self._outs()
        except LatentworksError:  # dvc.yaml of the current commit is invalid
            outs = []
        paths = self.repository.tracked(dag.LOCK, *outs)
        return {path: path.read_bytes() for path in paths if path.is_file()}

    def _outs(self) -> list[str]:
        return [out for stage in dag.stages(self.path).values() for out in dag.outs_of(stage)]

    def _replace(self, path: Path, content: bytes, mode: int = 0o666) -> None:
        if not path.is_file() or path.read_bytes() != content:
            with disk.replacing(path) as temporary:
                temporary.touch(mode)
                temporary.write_bytes(content)

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
        content = dvc.config_file(self._settings)  # it may hold the password of a remote
        self._replace(self.path / ".dvc/config.local", content, mode=0o600)
