"""Mutual exclusion on one host, by locks of the kernel: they end with their holder, however."""

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

# Not TMPDIR, so that all processes of a user meet at the same file.
FOLDER = Path(f"/tmp/latentworks-{os.getuid()}")

IN_CHECKOUT = Path(".latentworks/locks")
LEFT = "LATENTWORKS_LOCK"  # in the environment of a process: the lock that is left to it

_held: set[int] = set()  # handles of the locks of this process


def of(folder: Path, what: str = "checkout") -> str:
    """The name of the lock of a checkout, or of something in it.

    Its file is in the checkout, so that containers and users who share that meet there, too.
    """
    return str(folder.resolve() / IN_CHECKOUT / what)


def handles() -> tuple[int, ...]:
    """The locks that are held here. A process that inherits them holds them, too."""
    return tuple(_held)


@contextmanager
def exclusive(name: str, purpose: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock `name`; while another process has it, say who that is and wait.

    With `wait=False`, raise Busy instead. A lock that whoever started this process holds for it,
    and has left to it, is held.
    """
    if os.environ.get(LEFT) == name:
        yield
        return
    path = FOLDER / f"{name}.lock"  # of a checkout: that path alone
    if path.is_relative_to(FOLDER):
        _make_folder()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    # The file stays: whoever removed it could lock a new one beside the holder of the old.
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with open(handle, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not wait:
                raise Busy(f"cannot {purpose} now; at it is {holder}.") from None
            print(f"{purpose}: waiting for {holder}", file=sys.stderr)
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


def holder(name: str) -> str | None:
    """Who holds the lock `name` at the moment, and since when; None where nobody does."""
    try:
        with (FOLDER / f"{name}.lock").open(encoding="utf-8") as file:
            found = file.read().strip()
            if found:  # else it is free, and not even touched here
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return found
    except FileNotFoundError:
        pass
    return None  # what is written there is of one that was killed


def _make_folder() -> None:
    """/tmp is everybody's: a folder that another user put there could lead anywhere."""
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
                f"{FOLDER} is not a folder that only you can write to. Remove it."
            ) from None
