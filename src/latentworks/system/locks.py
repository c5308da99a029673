"""Mutual exclusion on one host, by kernel locks: a lock ends when its holder ends or is killed."""

import fcntl
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from latentworks.errors import Busy, LatentworksError

# Not in TMPDIR, which may differ between the processes of a user.
FOLDER = Path(f"/tmp/latentworks-{os.getuid()}")

IN_CHECKOUT = Path(".latentworks/locks")
# Environment variable: the lock that a parent process holds for this one.
OF_PARENT = "LATENTWORKS_LOCK"

_held: set[int] = set()  # file descriptors of the locks that this process holds


def of(folder: Path, what: str = "checkout") -> str:
    """Return the name of the lock of a checkout, or of a part of it such as a stage.

    The lock file is in the checkout, so that it works for containers and users who share it.
    """
    return str(folder.resolve() / IN_CHECKOUT / what)


def handles() -> tuple[int, ...]:
    """Return the locks of this process. A child that inherits these descriptors holds them, too."""
    return tuple(_held)


@contextmanager
def exclusive(name: str, purpose: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock `name`. While another process holds it, print a line and wait.

    With `wait=False`, raise Busy instead of waiting. If the parent process holds the lock for this
    process (`OF_PARENT`), do nothing.
    """
    if os.environ.get(OF_PARENT) == name:
        yield
        return
    path = FOLDER / f"{name}.lock"  # the name of a checkout's lock is absolute: FOLDER drops out
    if path.is_relative_to(FOLDER):
        _make_folder()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    # The file is never deleted: a new file of this name could be locked beside the old one.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with open(handle, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not wait:
                fault = f"Cannot {purpose}: {_clause(holder)}."
                raise Busy(f"{fault} Wait for it, or end it.") from None
            print(f"Waiting to {purpose}: {_clause(holder)}.", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}, to {purpose}\n")
        file.flush()
        _held.add(handle)
        try:
            yield
        finally:
            _held.discard(handle)
            file.seek(0)
            file.truncate()


def _clause(holder: str) -> str:
    """Turn the text of a lock file into `process 4711 on trainer holds the lock since …`."""
    process, _, rest = holder.partition(", since ")
    since, _, _ = rest.partition(", to ")
    return f"{process} holds the lock" + (f" since {since}" if since else "")


def holder(name: str) -> str | None:
    """Return the holder of the lock `name`, since when and what for; None if the lock is free."""
    try:
        with (FOLDER / f"{name}.lock").open(encoding="utf-8") as file:
            text = file.read().strip()
            if text:  # an empty file is a free lock: do not touch it
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return text
    except FileNotFoundError:
        pass
    return None  # a killed process can leave its text in the file


def _make_folder() -> None:
    """Create FOLDER, or raise LatentworksError if other users can write to it.

    In /tmp, another user could have created the folder first.
    """
    try:
        FOLDER.mkdir(mode=0o700)
    except FileExistsError:
        status = FOLDER.lstat()
        if (
            not stat.S_ISDIR(status.st_mode)
            or status.st_uid != os.getuid()
            or status.st_mode & 0o022
        ):
            raise LatentworksError(
                f"{FOLDER} is not a folder that only you can write to. Remove it, and try again."
            ) from None
