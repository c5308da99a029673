"""The git repository of a worktree: it takes commits from the source, and gives branches to it."""

import os
import shlex
import shutil
from functools import cached_property
from pathlib import Path

from latentworks.errors import LatentworksError
from latentworks.repository import git

SETTINGS = {  # of git, in place of the user's: no signature, no hooks
    "user.name": "latentworks",
    "user.email": "latentworks@localhost",
    "commit.gpgSign": "false",
    "core.hooksPath": os.devnull,
    "core.quotePath": "false",  # no escapes in file names
}


class WorktreeRepository:
    """The repository of the worktree at `path`, in the folder `tree`; `source` is its source."""

    def __init__(self, source: Path, tree: Path, path: Path) -> None:
        self.source, self.tree, self.path = source, tree, path

    @cached_property
    def top(self) -> Path:
        """Top folder of the repository: `path`, or a folder above, as in the source.

        Raises GitError if git does not find or refuses the repository of the source.
        """
        up = git.run(self.source, "rev-parse", "--show-cdup").strip()
        return Path(os.path.normpath(self.path / up))

    @property
    def ceiling(self) -> dict[str, str]:
        """Hides the source, which is above, from git if the worktree has no repository."""
        return {"GIT_CEILING_DIRECTORIES": str(self.top.parent)}

    def run(self, *call: str, check: bool = True) -> str:
        """Return the output of a git command; without `check`, "" if it fails."""
        settings = {**SETTINGS, "lfs.storage": f"{self._source_folder}/lfs"}
        no = () if check else git.ANY
        return git.run(self.path, *call, no=no, settings=settings, env=self.ceiling).strip()

    def make(self) -> None:
        """Make the repository if it is missing, and remove the locks of killed git commands."""
        self.path.mkdir(parents=True, exist_ok=True)
        folder = self.top / ".git"
        for lock in (*folder.glob("*.lock"), *(folder / "refs").rglob("*.lock")):
            lock.unlink(missing_ok=True)
        if self.run("rev-parse", "--show-toplevel", check=False) != os.path.realpath(self.top):
            # Left by a `git init` that was killed, or from before the source's top was another one.
            for around in (self.path, *self.path.parents):
                if self.tree in around.parents:
                    shutil.rmtree(around / ".git", ignore_errors=True)
            self.run("init", "--quiet", str(self.top))

    # --- from the source -------------------------------------------------------------------------

    def resolve(self, revision: str) -> str:
        """Return the commit of the source that a branch, a tag or a commit hash names."""
        commit = git.object_id(self.source, f"{revision}^{{commit}}")
        if commit:
            return commit
        cure = "Expected a branch, a tag or a commit."
        if git.run(self.source, "rev-parse", "--is-shallow-repository").strip() == "true":
            cure += " The clone is shallow, and lacks older commits: run `git fetch --unshallow`."
        raise LatentworksError(f"{self.source} has no commit {revision!r}. {cure}")

    def fetch(self, commit: str) -> bool:
        """Fetch a commit from the source. Return False if it is checked out already."""
        if self.run("rev-parse", "--verify", "--quiet", "HEAD", check=False) == commit:
            return False
        self.run("fetch", "--quiet", "--no-tags", "--depth=1", "--no-write-fetch-head",
                 f"--upload-pack={self._served_by('upload-pack')}", self._source_folder,
                 commit)  # fmt: skip
        return True

    def tracked(self, *names: str) -> list[Path]:
        """Return the paths of the files in git that have these names, or are in such folders."""
        found = self.run("ls-files", "--", *names, check=False)
        return [self.path / name for name in found.splitlines()]

    # --- to the source ---------------------------------------------------------------------------

    def push_branch(self, branch: str, message: str, names: list[str]) -> bool:
        """Commit the files and folders `names` outside .gitignore: see `Worktree.push_branch`."""
        if git.object_id(self.source, f"refs/heads/{branch}"):
            return False
        existing = [name for name in names if (self.path / name).exists()]
        ignored = self.run("check-ignore", "--", *existing, check=False).splitlines()
        self.run("add", "--", *(name for name in existing if name not in ignored))
        self.run("commit", "--quiet", "--allow-empty", "-m", message)
        self.run("push", "--quiet", f"--receive-pack={self._served_by('receive-pack')}",
                 self._source_folder, f"HEAD:refs/heads/{branch}")  # fmt: skip
        return True

    @cached_property
    def _source_folder(self) -> str:
        """The source's git folder, with its objects and those of git-lfs."""
        call = ("rev-parse", "--path-format=absolute", "--git-common-dir")
        return git.run(self.source, *call).strip()

    def _served_by(self, program: str) -> str:
        """Return the command with which git reads or writes the source for the worktree.

        The settings allow a fetch of a commit that is on no branch any more, such as that of a
        version, and a source of another owner that git has accepted: the user's exception for it
        names the source's top, and this command asks for its git folder.
        """
        settings = {"uploadpack.allowAnySHA1InWant": "true", "safe.directory": self._source_folder}
        return shlex.join(["git", *git.options(settings), program])
