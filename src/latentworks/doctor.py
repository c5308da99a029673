"""Checks of the environment: what would stop a command, and what to do about it.

Each check looks at one thing and returns a finding. All run at the same time, in threads, until
SECONDS have passed: a dead server or disk delays no other check.
"""

import os
import re
import shutil
import socket
import sqlite3
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import latentworks
from latentworks import params, sections
from latentworks.errors import LatentworksError
from latentworks.registry.signatures import Keys
from latentworks.repository import dag, dvc, git, package, timings
from latentworks.runner import resources
from latentworks.system import locks
from latentworks.system.console import abandoned, columns, few
from latentworks.system.state import STATE
from latentworks.tracking import local_store
from latentworks.tracking.uri import (
    SQLITE,
    URI,
    check_address,
    reach_directly,
    tracking_uri,
    without_password,
)

SECONDS = 8.0  # for all checks together
CONNECTED = 3.0  # seconds for a connection
LOCKED = Path("requirements/latentworks.txt")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(\s*;)?", re.MULTILINE)  # group 3: has a marker
PORTS = {"http": 80, "https": 443, "ssh": 22, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
SETUP = "Run `make setup`"


@dataclass(frozen=True)
class Finding:
    """The outcome of a check. A fault stops a command; a note is good to know."""

    state: Literal["ok", "note", "fault"]
    text: str
    cure: str = ""


Check = Callable[[Path], Finding]


def examine(root: Path, seconds: float = SECONDS) -> dict[str, Finding]:
    """Return a finding for each check of the checkout `root`, by name."""
    found: dict[str, Finding] = {}

    def run(name: str, check: Check) -> None:
        try:
            found[name] = check(root)
        except (LatentworksError, OSError) as error:
            found[name] = Finding("fault", " ".join(str(error).splitlines()))
        except Exception as error:  # settings of other programs can make their readers raise any
            fault = f"{type(error).__name__}: {error}"
            found[name] = Finding("fault", " ".join(fault.splitlines()))

    threads = [
        threading.Thread(target=run, args=each, daemon=True, name=f"check {each[0]}")
        for each in CHECKS.items()
    ]
    for thread in threads:
        thread.start()
    over = threading.Event()
    timer = threading.Timer(seconds, over.set)
    timer.daemon = True
    timer.start()
    for thread in threads:
        while thread.is_alive() and not over.is_set():
            thread.join(0.1)
    timer.cancel()
    if any(thread.is_alive() for thread in threads):
        abandoned.set()
    late = Finding(
        "fault",
        f"no answer within {seconds:g} seconds",
        "Try again later",
    )
    return {name: found.get(name, late) for name in CHECKS}


def table(found: dict[str, Finding]) -> str:
    """Return the findings as text: a line for each, and the number of faults."""
    rows = [("", "check", "finding")]
    for name, finding in found.items():
        state = finding.state.upper() if finding.state == "fault" else finding.state
        text = finding.text.rstrip(".")
        rows.append((state, name, f"{text}. {finding.cure}." if finding.cure else text))
    faults = [name for name, finding in found.items() if finding.state == "fault"]
    end = f"Correct this first: {', '.join(faults)}" if faults else "Nothing here stops a command"
    return "\n".join([*columns(rows), "", f"{end}."])


# --- the environment -----------------------------------------------------------------------------


def _python(root: Path) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    first, beyond = supported()
    if first <= sys.version_info[:2] < beyond:
        return Finding("ok", version)
    last = f"{beyond[0]}.{beyond[1] - 1}"
    cure = f"Run `make clean`, then `make setup PYTHON=python{last}`"
    return Finding("fault", f"{version}; expected {first[0]}.{first[1]} to {last}", cure)


def supported() -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first version of Python that pyproject.toml allows, and the first beyond them."""
    given = metadata.metadata(latentworks.__name__)["Requires-Python"]
    first, beyond = sorted((int(a), int(b)) for a, b in re.findall(r"(\d+)\.(\d+)", given))
    return first, beyond


def _packages(root: Path) -> Finding:
    if not (root / LOCKED).is_file():
        return Finding("note", f"not compared: {LOCKED} is missing")
    installed = {_plain(each.name): each.version for each in metadata.distributions()}
    pins: dict[str, list[str]] = {}
    optional: set[str] = set()  # with a marker: they may be for another system
    for name, version, marker in PIN.findall((root / LOCKED).read_text(encoding="utf-8")):
        pins.setdefault(_plain(name), []).append(version)
        optional |= {_plain(name)} if marker else set()
    missing = [name for name in pins if name not in installed and name not in optional]
    others = [
        f"{name} {installed[name]} instead of {' or '.join(pins[name])}"
        for name in pins
        if name in installed and installed[name] not in pins[name]
    ]
    if missing:
        return Finding("fault", f"missing: {few(missing)}", SETUP)
    if others:
        return Finding("note", f"other versions than in {LOCKED}: {few(others)}", SETUP)
    return Finding("ok", f"{len(pins)} pinned, as in {LOCKED}")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _code(root: Path) -> Finding:
    wanted = f"commit {pinned[:10]}" if (pinned := package.pinned(root)) else "this checkout"
    if not package.fault(root):
        return Finding("ok", f"that of {wanted}")
    running = Path(latentworks.__file__).resolve().parent
    cure = f"{SETUP} in {root}, and use the commands in its .venv/bin"
    return Finding("fault", f"that of {running}, and not of {wanted}", cure)


def _programs(root: Path) -> Finding:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    missing = [name for name in ("git", "dvc") if shutil.which(name, path=path) is None]
    if missing:
        return Finding("fault", f"not found: {' and '.join(missing)}", f"Install git. {SETUP}")
    return Finding("ok", "git and dvc are found")


# --- the checkout --------------------------------------------------------------------------------


def _git(root: Path) -> Finding:
    if not git.object_id(root, "HEAD"):
        return Finding("fault", "no commit yet: `register` needs one", "Commit the files")
    changed = git.differences(root)
    if changed:
        cure = "Commit them before `latentworks register`"
        return Finding("note", f"code that is not committed: {few(changed)}", cure)
    return Finding("ok", "the code is committed")


def _params(root: Path) -> Finding:
    sections.refuse_images_among_outputs(root, sections.checked(root).dataset)
    return Finding("ok", f"{params.PARAMS} is valid")


def _disk(root: Path) -> Finding:
    locked = [out for stage in dag.locked(root).values() for out in stage.get("outs", ())]
    needed = 2 * sum(out.get("size", 0) for out in locked) + resources.MARGIN  # also in the cache
    free = shutil.disk_usage(root).free
    unwritable = [
        str(folder)
        for folder in (root, root / STATE, root / ".dvc")
        if folder.exists() and not os.access(folder, os.W_OK)
    ]
    if unwritable:
        return Finding("fault", f"{few(unwritable)} cannot be written to", "Make it writable")
    text = f"{free / 1e9:.1f} GB are free; a result like that of {dag.LOCK} takes "
    text += f"{needed / 1e9:.1f} GB with its copy in DVC's cache"
    return Finding("ok", text) if free >= needed else Finding("fault", text, "Free some space")


def _memory(root: Path) -> Finding:
    free = resources.available_memory()
    peak = max((record["peak_memory_mb"] for record in timings.known(root)), default=0) * 1e6
    text = f"{free / 1e9:.1f} GB are free"
    if not peak:
        return Finding("ok", text)
    text += f"; the stages took up to {peak / 1e9:.1f} GB"
    return Finding("ok", text) if free >= peak else Finding("fault", text, "End other programs")


def _lock(root: Path) -> Finding:
    holder = locks.holder(locks.of(root))
    if holder is None:
        return Finding("ok", "free")
    return Finding("note", f"held: {holder}", "Wait for it, or end it")


# --- other machines ------------------------------------------------------------------------------


def _remote(root: Path) -> Finding:
    settings = dvc.settings(root)
    name = settings.get("core.remote", "")
    if not name:
        return Finding("note", "none: the outs are on this disk alone", "See `dvc remote add`")
    url = settings.get(f"remote.{name}.url", "")
    where = settings.get(f"remote.{name}.endpointurl", url)
    scheme = urlsplit(where).scheme
    cure = f"Start or mount it, or correct it with `dvc remote modify {name} url`"
    if scheme in PORTS:
        return _connection(f"{name} at {without_password(where)}", where, cure)
    if scheme:
        return Finding("note", f"{name} at {without_password(url)}: not checked")
    folder = Path(os.path.normpath(root / ".dvc" / url))  # as `dvc config` writes it
    if folder.is_dir() or folder.parent.is_dir():  # DVC makes the folder itself
        return Finding("ok", f"{name} at {folder}")
    return Finding("fault", f"{name} at {folder} is missing", cure)


def _store(root: Path) -> Finding:
    uri = tracking_uri(root)
    check_address(uri)
    shown = without_password(uri)
    cure = f"Start the server, or correct {URI}"
    if uri.startswith("http"):
        return _server(shown, uri, cure)
    if not uri.startswith(SQLITE):
        return _connection(shown, uri, cure)
    database = Path(uri.removeprefix(SQLITE).partition("?")[0])
    local_store.refuse_lost(database)
    if not database.exists():
        return Finding("ok", f"{shown}: the first run makes it")
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=1)) as opened:
            opened.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        cure = "Run `latentworks verify`, which tells how to restore it"
        return Finding("fault", f"{shown} cannot be read: {error}", cure)
    return Finding("ok", shown)


def _server(shown: str, uri: str, cure: str) -> Finding:
    """Ask an MLflow server for its health."""
    reach_directly()
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=CONNECTED):
            return Finding("ok", f"{shown} answers")
    except urllib.error.HTTPError as error:  # it asks for a login
        return Finding("note", f"{shown} answers with status {error.code}")
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        why = getattr(reason, "strerror", None) or str(reason)
        return Finding("fault", f"{shown} does not answer: {why}", cure)


def _connection(shown: str, address: str, cure: str) -> Finding:
    """Return if something listens at the host and port of an address."""
    parts = urlsplit(address)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0], 0)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECTED).close()
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding("fault", f"{shown} does not answer: {reason}", cure)
    return Finding("ok", f"{shown} answers")


def _keys(root: Path) -> Finding:
    keys = Keys.of_user()
    own, trusted = keys.own, keys.trusted()
    if not own:
        return Finding("ok", "none yet: the first `latentworks register` makes one")
    if own not in trusted:
        cure = "Run `latentworks keys trust` with its public key"
        return Finding("fault", f"{own} signs here, and is not trusted", cure)
    return Finding("ok", f"{own} signs here; {len(trusted)} trusted in {keys.folder}")


CHECKS: dict[str, Check] = {
    "Python": _python,
    "packages": _packages,
    "code": _code,
    "programs": _programs,
    "git": _git,
    "params": _params,
    "disk": _disk,
    "memory": _memory,
    "lock": _lock,
    "DVC remote": _remote,
    "MLflow": _store,
    "keys": _keys,
}
