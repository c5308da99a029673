"""The code of a checkout: its own src/, or the installed package that requirements.txt pins.

A clone of this repository has the code in src/. A project that `latentworks new` made has none: it
runs the package, at the commit that its requirements.txt names.
"""

import json
import re
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import latentworks
from latentworks.repository import git

CODE = Path("src/latentworks")
PINS = "requirements.txt"
PIN = re.compile(r"^latentworks @ git\+\S+@([0-9a-f]{40})\s*$", re.MULTILINE)


def pinned(root: Path) -> str | None:
    """Return the commit that a project pins; None for a clone, and without such a line."""
    if (root / CODE).is_dir() or not (root / PINS).is_file():
        return None
    found = PIN.search((root / PINS).read_text(encoding="utf-8"))
    return found[1] if found else None


def fault(root: Path) -> str:
    """Say why the running code is not that of a checkout, and what to do; "" if it is."""
    running = Path(latentworks.__file__).resolve().parent
    if running == (root / CODE).resolve():
        return ""
    wanted = pinned(root)
    if wanted is None:
        return (
            f"the running code is not from this checkout, but from {running}. "
            "Use the checkout's own environment (`make setup`), or set PYTHONPATH=src."
        )
    commit = _commit_of(running)
    if commit == wanted:
        return ""
    found = f"commit {commit[:10]}" if commit else "code of no commit"
    return (
        f"{PINS} pins commit {wanted[:10]} of latentworks, and {found} is running, from {running}. "
        "Run `make setup`, and use the commands in .venv/bin."
    )


def _commit_of(running: Path) -> str:
    """Return the commit of the running package; "" if it is unknown, or if files were edited."""
    clone = running.parents[1]
    if running == clone / CODE:
        code = git.code(clone)
        return "" if code.dirty else code.commit
    with suppress(metadata.PackageNotFoundError, ValueError, AttributeError):
        text = metadata.distribution("latentworks").read_text("direct_url.json")
        return str(json.loads(text or "{}").get("vcs_info", {}).get("commit_id", ""))
    return ""
