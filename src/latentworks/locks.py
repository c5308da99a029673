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

from latentworks.errors import LatentworksError

# Not TMPDIR, so that all processes of a user meet at the same file.
FOLDER = Path(f"/tmp/latentworks-{os.getuid()}")


@contextmanager
def exclusive(name: str, purpose: str) -> Iterator[None]:
    """Hold the lock `name`; while another process has it, say who that is and wait."""
    _make_folder()
    # The file stays: whoever removed it could lock a new one beside the holder of the old.
    handle = os.open(FOLDER / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with open(handle, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            print(f"{purpose}: waiting for {holder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}, to {purpose}\n")
        file.flush()
        try:
            yield
        finally:
            file.seek(0)
            file.truncate()


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
