"""git, called as a command: the commit of a checkout, and the files that differ from it."""

import os
import re
import subprocess
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

from latentworks.errors import LatentworksError
from latentworks.repository import dag

# Files that every run keeps a copy of: an edit in them does not make the code dirty.
NOT_CODE = ("params.yaml", dag.LOCK, "reports")
# A git hook sets these variables; they name the repository of the hook.
LOCAL = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
ENGLISH = {"LC_ALL": "C"}  # the language of git's reasons
FAULT = re.compile(r"(fatal|error): | ! \[")  # marks the line of git's output that has the reason
ADVICE = "git config "  # starts the line that has git's cure
OUTSIDE = "fatal: not a git repository (or any"  # starts the reason if there is no repository
TIMEOUT = 120  # seconds until a git command is stopped
NO = (1,)  # the exit code with which git answers no
ANY = range(1, 256)


class GitError(LatentworksError):
    """git is missing or refused a command; the message has git's own reason."""


def run(
    folder: Path,
    *arguments: str,
    no: Container[int] = (),
    settings: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Return the output of a git command in a folder.

    The output is empty for an exit code in `no`. `settings` replace those of the user; `env` adds
    environment variables. Raises GitError for other exit codes.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in LOCAL}
    try:
        done = subprocess.run(
            ["git", *options(settings or {}), *arguments],
            cwd=folder,
            env={**inherited, **ENGLISH, **(env or {})},
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # file names and files may be in another encoding
            check=False,
            timeout=TIMEOUT,
        )
    except FileNotFoundError:
        raise GitError("git is not installed, or not on the PATH. Install git.") from None
    except subprocess.TimeoutExpired:
        raise GitError(
            f"git {arguments[0]} did not end within {TIMEOUT} s and was stopped. Try again."
        ) from None
    if done.returncode == 0:
        return done.stdout
    if done.returncode in no:
        return ""
    if done.stderr.startswith(OUTSIDE):
        raise GitError(
            f"{folder.resolve()} is not in a git repository. Use a clone of the project, or run "
            "`git init` and commit the files."
        )
    raise GitError(f"git {arguments[0]} failed: {_reason(done.stderr)}")


def options(settings: Mapping[str, str]) -> list[str]:
    """Return the options that give one git command these settings."""
    return [part for each in settings.items() for part in ("-c", "=".join(each))]


def _reason(output: str) -> str:
    """Return the reason in git's error output, with the cure if git names one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no reason given"]
    reason = next((line for line in lines if FAULT.match(line)), lines[-1])
    cure = next((line for line in lines if line.startswith(ADVICE)), "")
    return f"{reason}. If you trust this repository, run `{cure}`." if cure else reason


@dataclass(frozen=True)
class Code:
    """The code with which a stage ran."""

    commit: str  # empty without a commit, and if git is missing or refuses the repository
    dirty: bool  # True if a tracked file differed from the commit, other than those in NOT_CODE


def code(folder: Path) -> Code:
    """Return the code of a checkout. git's errors are left out: a stage runs without git, too."""
    try:
        commit = object_id(folder, "HEAD")
        return Code(commit, not commit or bool(differences(folder)))
    except GitError:
        return Code("", True)


def object_id(folder: Path, name: str) -> str:
    """Return the hash of the commit or file that `name` stands for in git; "" if there is none."""
    if name.startswith("-"):  # an option; no name begins like this
        return ""
    return run(folder, "rev-parse", "--verify", "--quiet", name, no=NO).strip()


def differences(folder: Path) -> list[str]:
    """Return the files of code that differ from the commit: tracked files, and new ones in src."""
    others = [f":(exclude){name}" for name in NOT_CODE]
    # Without git's lock on the index, which would disturb a git command of the user.
    status = ("status", "--porcelain", "-z", "-uno", "--no-renames", "--", ".", *others)
    changed = run(folder, *status, env={"GIT_OPTIONAL_LOCKS": "0"}).split("\0")
    above = run(folder, "rev-parse", "--show-prefix").strip()  # `status` names paths from the top
    new = run(folder, "ls-files", "-z", "--others", "--exclude-standard", "--", "src").split("\0")
    return [entry[3:].removeprefix(above) for entry in changed if entry] + [*filter(None, new)]


def committed(folder: Path, name: str) -> str | None:
    """Return the text of a file in the last commit; None if it is not committed."""
    found = object_id(folder, f"HEAD:./{name}")
    return run(folder, "cat-file", "blob", found) if found else None
