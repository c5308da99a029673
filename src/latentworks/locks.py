"""Mutual exclusion on one host, by locks of the kernel: they end with their holder, however."""

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

# Not TMPDIR, so that all processes of a user meet at the same file.
FOLDER = Path(f"/tmp/latentworks-{os.getuid()}")


@contextmanager
def exclusive(name: str, purpose: str) -> Iterator[None]:
    """Hold the lock `name`; while another process has it, say who that is and wait."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    # The file stays: whoever removed it could lock a new one beside the holder of the old.
    with (FOLDER / f"{name}.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            print(f"{purpose}: waiting for {holder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
