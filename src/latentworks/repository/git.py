"""The checkout: where it is, what git says of it, what DVC is to run."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from latentworks.repository import dag
from latentworks.system.console import first_line

# Kept with every run, so an edit in them does not make the code another one.
NOT_CODE = ("params.yaml", dag.LOCK, "reports")


@dataclass(frozen=True)
class Code:
    """Which code was run."""

    commit: str  # empty outside git
    dirty: bool  # whether a tracked file differed, other than those in NOT_CODE


def code(folder: Path) -> Code:
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return Code("", True)
    return Code(commit, bool(differences(folder)))


def differences(folder: Path) -> list[str]:
    """Tracked files that are not as committed, but for those in NOT_CODE, and new ones in src."""
    others = [f":(exclude){name}" for name in NOT_CODE]
    # Without the lock that git would take to refresh the index of whoever works here.
    call = ["git", "--no-optional-locks", "status", "--porcelain", "-uno", "--", ".", *others]
    try:
        done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ["git, which is not installed"]
    if done.returncode != 0:
        return [f"git, which fails: {first_line(done.stderr)}"]
    new = _git(folder, "ls-files", "--others", "--exclude-standard", "--", "src")
    return [line[2:].strip() for line in done.stdout.splitlines()] + new.splitlines()


def committed(folder: Path, name: str) -> str | None:
    """The text of a file in the last commit; None where it is not in git."""
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
