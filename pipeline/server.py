"""The project's own Prefect server, and the password that it shares with its clients.

A Prefect server runs shell commands for every client that it accepts. Without a password it accepts
every user of the machine, and every web page in a browser on it.
"""

import os
import re
import secrets
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from latentworks.errors import LatentworksError
from latentworks.system import disk

HOST = "127.0.0.1"
URL = "PREFECT_API_URL"
PORT = "PREFECT_SERVER_API_PORT"
AUTH = "PREFECT_API_AUTH_STRING"  # USER:PASSWORD that a client sends
SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"  # and that a server expects
# Seconds. SQLite lets a request wait 60 seconds for a lock, Prefect's default here. A client that
# gives up just before the answer leaves its flow run in the state PENDING for ever.
TIMEOUT = ("PREFECT_API_REQUEST_TIMEOUT", "180")
# On disk, since a restart of the server would otherwise end every flow run.
LEASES = "prefect.server.concurrency.lease_storage.filesystem"


def auth_file() -> Path:
    return Path(os.environ["PREFECT_HOME"]) / "auth"


def new_auth() -> str:
    return f"latentworks:{secrets.token_urlsafe(32)}"


def start() -> NoReturn:
    """Replace this process by the server, with the password in its file.

    Environment variables override the defaults. Raises LatentworksError if the password cannot be
    kept, or others can read it.
    """
    auth = os.environ.get(SERVER_AUTH) or _kept_auth()
    page = ",".join(f"http://{host}:{_port()}" for host in (HOST, "localhost"))
    defaults = {
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": page,
        "PREFECT_UI_API_URL": _address(),  # or the page would ask the server at PREFECT_API_URL
    }
    given = {name: value for name, value in os.environ.items() if value}
    call = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", _port()]
    os.execve(call[0], call, {**defaults, **given, SERVER_AUTH: auth})


def be_default() -> None:
    """Set the address of this server for this process and its children, if no other is set.

    Give its answers more time than Prefect does, too.
    """
    os.environ[URL] = os.environ.get(URL) or _address()
    os.environ.setdefault(*TIMEOUT)
    authenticate()


def authenticate() -> None:
    """Give the clients of this process the password of this server; no other server gets it.

    `localhost` may be another server: that of another user, at ::1.
    """
    if os.environ.get(AUTH) or os.environ.get(URL, "").rstrip("/") != _address():
        return
    with suppress(OSError):  # without a file the server has another password, and says so
        os.environ[AUTH] = auth_file().read_text(encoding="utf-8").strip()


def _port() -> str:
    return os.environ.get(PORT) or "4200"


def _address() -> str:
    return f"http://{HOST}:{_port()}/api"


def _kept_auth() -> str:
    """Return the password in the file; create the file if it is missing."""
    file = auth_file()
    try:
        if not file.exists():
            _make(file)
        status = file.stat()
        line = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise LatentworksError(
            f"Cannot keep the password of Prefect's server in {file}: {error.strerror}."
        ) from None
    if status.st_mode & 0o077 or status.st_uid != os.getuid():
        raise LatentworksError(
            f"Cannot start Prefect's server: others can read or change the password in {file}. "
            "Remove the file: the next start of the server makes a new password."
        )
    if not re.fullmatch(r"[^\s:]+:\S+", line):  # with an empty one, Prefect asks for none
        raise LatentworksError(f"{file} should have one line USER:PASSWORD. Correct or remove it.")
    return line


def _make(file: Path) -> None:
    """Write a new password: atomically, and never over an existing file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(".partial", ".auth.", file.parent)  # with mode 0600
    try:
        with open(handle, "w", encoding="utf-8") as partial:
            partial.write(f"{new_auth()}\n")
            partial.flush()
            os.fsync(handle)
        with suppress(FileExistsError):  # of two that start at once, both take the first one's
            os.link(name, file)
        disk.flush_to_disk(file.parent)
    finally:
        os.unlink(name)
