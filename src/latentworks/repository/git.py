"""The state of a checkout in git: its commit, and the files that differ from it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from latentworks.repository import dag
from latentworks.system.console import first_line

# Files that every run keeps a copy of: an edit in them does not make the code dirty.
NOT_CODE = ("params.yaml", dag.LOCK, "reports")


@dataclass(frozen=True)
class Code:
    """The code with which a stage ran."""

    commit: str  # empty outside git
    dirty: bool  # True if a tracked file differed from the commit, other than those in NOT_CODE


def code(folder: Path) -> Code:
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return Code("", True)
    return Code(commit, bool(differences(folder)))


def differences(folder: Path) -> list[str]:
    """Return the files of code that differ from the commit: tracked files, and new ones in src.

    If git is missing or fails, return the reason in their place.
    """
    others = [f":(exclude){name}" for name in NOT_CODE]
    # Without git's lock on the index, which would disturb a git command of the user.
    call = ["git", "--no-optional-locks", "status", "--porcelain", "-uno", "--", ".", *others]
    try:
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ["unknown (git is not installed)"]
    if done.returncode != 0:
        return [f"unknown (git failed: {first_line(done.stderr)})"]
    new = _git(folder, "ls-files", "--others", "--exclude-standard", "--", "src")
    return [line[2:].strip() for line in done.stdout.splitlines()] + new.splitlines()


def committed(folder: Path, name: str) -> str | None:
    """Return the text of a file in the last commit; None if it is not committed."""
    call = ["git", "show", f"HEAD:./{name}"]
    try:
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git
        return None
    return done.stdout if done.returncode == 0 else None


def _git(folder: Path, *arguments: str) -> str:
    try:
        call = ["git", *arguments]
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
