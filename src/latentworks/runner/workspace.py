"""A second checkout of the project, for work that must not disturb the one that people edit.

Files, git's index, DVC's locks and the checkpoints are its own, and stay between uses. DVC's cache
and MLflow's store are those of the source repository.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from configobj import ConfigObj

from latentworks import errors, params
from latentworks.errors import LatentworksError
from latentworks.repository import dag, dvc, git
from latentworks.runner import repair
from latentworks.runner.reproduce import outputs_kept
from latentworks.system import disk, locks, processes
from latentworks.system.state import STATE
from latentworks.tracking.uri import absolute, tracking_uri

# Of whatever repository this process was started in; a git hook sets them.
GIT_LOCAL = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
# It may fetch a commit that no branch has any more, such as one that a version names.
UPLOAD_PACK = "git -c uploadpack.allowAnySHA1InWant=true upload-pack"
SETTINGS = {  # no person's: a commit here is nobody's to sign, and no hook of theirs to run
    "user.name": "latentworks",
    "user.email": "latentworks@localhost",
    "commit.gpgSign": "false",
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",  # names as they are
}
FAULT = re.compile(r"(fatal|error): | ! \[")  # the line of git's that says what is wrong
RETRAINING = "retraining"  # the one that the flow works in
PATIENCE = 120  # seconds that git may take


class Workspace:
    """The checkout called `name` beside the repository `source`; `uri` is MLflow's store."""

    def __init__(self, source: Path, name: str, uri: str | None = None) -> None:
        self.source = source.resolve()
        # At the place of the source in a tree of its own, so that a relative path that leaves the
        # source, `../photos` for one, leads to a place of ours, where a link can be put.
        self.tree = self.source / STATE / "workspaces" / name
        self.path = self.tree / self.source.relative_to(self.source.anchor)
        self.uri = absolute(uri or tracking_uri(self.source))

    @property
    def environment(self) -> dict[str, str]:
        """What a process in it needs to be different from this one."""
        return {
            "DVC_SITE_CACHE_DIR": str(self.path / ".dvc/site_cache"),
            "GIT_CEILING_DIRECTORIES": str(self.path.parent),  # the source lies above
            "MLFLOW_TRACKING_URI": self.uri,
            "PYTHONPATH": str(self.path / "src"),  # the code of this checkout
        }

    @contextmanager
    def held(self, purpose: str) -> Iterator[None]:
        """Keep others out of it. Raises Busy at once where somebody is in."""
        with locks.exclusive(self.lock, purpose, wait=False):
            yield

    @property
    def is_held(self) -> bool:
        return locks.holder(self.lock) is not None

    @property
    def lock(self) -> str:
        """The name of the lock that whoever works in it holds."""
        return locks.of(self.path)

    # --- files -----------------------------------------------------------------------------------

    def check_out(self, revision: str) -> str:
        """Make it what a revision of the source is, and return the commit.

        The results on record, dvc.lock and what git keeps of the outs, stay those of its last use.
        """
        commit = self.resolve(revision)
        self._make()
        there = self._git("rev-parse", "--verify", "--quiet", "HEAD", check=False)
        if there != commit:
            self._git("fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head",
                      f"--upload-pack={UPLOAD_PACK}", str(self.source), commit)  # fmt: skip
        kept = self._results()
        if there != commit or kept is None or git.differences(self.path):
            self._git("checkout", "--quiet", "--force", "--detach", commit)
            for path, content in (kept or {}).items():
                self._replace(path, content)
        self._git("clean", "--quiet", "--force", "-d", "--", "src")
        self._share_dvc()
        return commit

    def resolve(self, revision: str) -> str:
        """The commit of the source that a branch, tag or number names."""
        found = self._git("rev-parse", "--verify", "--quiet", "--end-of-options",
                          f"{revision}^{{commit}}", cwd=self.source, check=False)  # fmt: skip
        if not found:
            raise LatentworksError(
                f"{self.source} has no commit {revision!r}. Expected a branch, a tag or a commit."
            )
        return found

    def write(self, name: str, text: str) -> None:
        """Replace a file of the checkout."""
        self._replace(self.path / name, text.encode())

    def bring_source(self) -> None:
        """Make a relative dataset.path lead to the images that it leads to in the source.

        Those that git or DVC keeps are brought by them; to those that are a user's own there is a
        link. Raises LatentworksError where they are gone, or partly git's.
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
            note = Path(f"{path}.dvc")
            if self.path in path.parents and note.is_file():
                self.restore(str(note.relative_to(self.path)))
                return
        if not target.exists():
            raise LatentworksError(f"{target}: no such file or folder. Correct dataset.path.")
        if self.path.is_relative_to(place):
            raise LatentworksError(f"{target} holds the project itself. Correct dataset.path.")
        if place.is_dir():
            shutil.rmtree(place)  # of an earlier use, with links in it or files from DVC's cache
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def _clear_links(self, place: Path) -> None:
        """Links of an earlier use lead to a user's own files, which nothing may be written into."""
        for path in reversed((place, *place.parents)):
            if self.tree in path.parents and path.is_symlink():
                path.unlink()

    def _refuse_partly_in_git(self, given: Path) -> None:
        names = self._git("ls-files", "--others", "--", str(given), cwd=self.source, check=False)
        hidden = {name for name in names.splitlines() if any(p[0] == "." for p in Path(name).parts)}
        others = [name for name in names.splitlines() if name not in hidden]
        if others:
            raise LatentworksError(
                f"some files of {given} are in git and others are not, such as {others[0]}. "
                "Expected all or none: commit them, or `git rm --cached` what is there."
            )

    def _make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        git = self.path / ".git"
        for left in (*git.glob("*.lock"), *(git / "refs").rglob("*.lock")):
            left.unlink(missing_ok=True)  # by a process that was killed here
        if not self._git("rev-parse", "--git-dir", check=False):
            shutil.rmtree(self.path / ".git", ignore_errors=True)  # one that was never whole
            self._git("init", "--quiet")
        repair.repair_checkout(self.path)

    def _results(self) -> dict[Path, bytes] | None:
        """What git would replace of the results; None where there are none on record."""
        if not (self.path / dag.LOCK).is_file():
            return None
        try:
            outs = self._outs()
        except LatentworksError:  # dvc.yaml was broken in the commit that is there
            outs = []
        names = self._git("ls-files", "--", dag.LOCK, *outs, check=False)
        paths = [self.path / name for name in names.splitlines()]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    def _outs(self) -> list[str]:
        stages = dag.stages(self.path).values()
        entries = [[*stage["outs"], *stage.get("metrics", ())] for stage in stages]
        return [path for each in entries for path in dag.paths(each)]

    def _replace(self, path: Path, content: bytes) -> None:
        if not path.is_file() or path.read_bytes() != content:
            with disk.replacing(path) as temporary:
                temporary.write_bytes(content)

    def _git(self, *call: str, cwd: Path | None = None, check: bool = True) -> str:
        environment = {name: os.environ[name] for name in os.environ if name not in GIT_LOCAL}
        if cwd is None:
            # Where this checkout has no repository, the one above it is not to be touched.
            environment["GIT_CEILING_DIRECTORIES"] = str(self.path.parent)
        settings = SETTINGS if cwd else {**SETTINGS, "lfs.storage": f"{self._git_folder}/lfs"}
        options = [part for each in settings.items() for part in ("-c", "=".join(each))]
        try:
            done = subprocess.run(
                ["git", *options, *call],
                cwd=cwd or self.path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
        except FileNotFoundError:
            raise LatentworksError("git is not installed.") from None
        except subprocess.TimeoutExpired:
            raise LatentworksError(f"git {call[0]} took over {PATIENCE} s.") from None
        if done.returncode != 0 and check:
            said = done.stderr.strip().splitlines() or ["it does not say why"]
            fault = next((line for line in said if FAULT.match(line)), said[-1])
            raise LatentworksError(f"git {call[0]} failed: {fault.strip()}")
        return done.stdout.strip() if done.returncode == 0 else ""

    @cached_property
    def _git_folder(self) -> str:
        """Where the source has its objects, and those of git-lfs."""
        call = ("rev-parse", "--path-format=absolute", "--git-common-dir")
        return self._git(*call, cwd=self.source, check=False)

    # --- DVC and our own commands ----------------------------------------------------------------

    def dvc(self, *arguments: str) -> str:
        """What a DVC command in it prints. Raises LatentworksError where it fails."""
        return dvc.run(self.path, *arguments, env=self.environment)

    def reproduce(self, stage: str, report: Callable[[str], None], *, force: bool = False) -> str:
        """Run a stage where it is out of date; see `repository.reproduce`."""
        written = dag.stages(self.path)[stage]
        outs = dag.paths([*written["outs"], *written.get("metrics", ())])
        restored = False
        if not force and not any((self.path / out).exists() for out in outs):
            # What DVC is told to persist, it does not take from its cache when it runs a stage.
            with suppress(LatentworksError):
                self.dvc("checkout", "--quiet", stage)
                restored = True
        with outputs_kept(self.path, stage, self.environment):
            outcome = dvc.reproduce(self.path, stage, report, self.environment, force=force)
        return "restored" if restored and outcome == "unchanged" else outcome

    def command(self, report: Callable[[str], None], *arguments: str) -> dict[str, Any]:
        """Run one of our commands by the code of this checkout; return the JSON that it says.

        Other lines are reported. Without JSON, a failure is raised as the error that its exit code
        stands for.
        """
        said: list[str] = []
        answers: list[str] = []

        def sort(line: str) -> None:
            (answers if line.startswith("{") else said).append(line)
            if not line.startswith("{"):
                report(line)

        call = [sys.executable, "-m", "latentworks.cli", *arguments]
        environment = {**os.environ, **self.environment}
        exit_code = processes.stream(call, self.path, sort, environment)
        if answers:
            return dict(json.loads(answers[-1]))
        if exit_code != 0:
            fault = next((line for line in reversed(said) if line), "it does not say why")
            raise errors.by_exit_code(exit_code)(fault)
        return {}

    def restore(self, *stages: str) -> None:
        """Bring the outs of stages that dvc.lock names from the cache, or else from the remote.

        Raises LatentworksError where neither has them.
        """
        try:
            self.dvc("checkout", "--quiet", "--force", *stages)  # nothing here is a person's
        except LatentworksError:
            if not self.remote:
                raise
            self.dvc("pull", "--quiet", "--force", *stages)

    @cached_property
    def remote(self) -> str:
        """The name of DVC's default remote; empty where there is none."""
        return self._settings.get("core.remote", "")

    @cached_property
    def _settings(self) -> dict[str, str]:
        """DVC's settings in the source; paths are absolute here, whatever the file says."""
        lines = dvc.run(self.source, "config", "--list").splitlines()
        settings = dict(line.split("=", 1) for line in lines if "=" in line)
        return {"cache.dir": str(self.source / ".dvc/cache"), **settings}

    def _share_dvc(self) -> None:
        config = ConfigObj()
        for setting, value in self._settings.items():
            section, _, option = setting.rpartition(".")
            kind, _, name = section.partition(".")
            config.setdefault(f'{kind} "{name}"' if name else kind, {})[option] = value
        content = b"".join(line.encode() + b"\n" for line in config.write())
        path = self.path / ".dvc/config.local"
        if not path.is_file() or path.read_bytes() != content:
            with disk.replacing(path) as temporary:
                temporary.touch(mode=0o600)  # it may have the password of a remote
                temporary.write_bytes(content)

    # --- what comes back -------------------------------------------------------------------------

    def push_branch(self, branch: str, message: str) -> bool:
        """Commit params.yaml and the results on record, as a new branch of the source.

        False where the source has such a branch, which stays as it is: somebody may work on it.
        """
        known = ("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")
        if self._git(*known, cwd=self.source, check=False):
            return False
        names = [str(params.PARAMS), dag.LOCK, *self._outs()]
        there = [name for name in names if (self.path / name).exists()]
        ignored = self._git("check-ignore", "--", *there, check=False).splitlines()
        self._git("add", "--", *(name for name in there if name not in ignored))
        self._git("commit", "--quiet", "--allow-empty", "-m", message)
        self._git("push", "--quiet", str(self.source), f"HEAD:refs/heads/{branch}")
        return True
