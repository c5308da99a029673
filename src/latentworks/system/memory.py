"""The memory that a program and its child processes need.

The largest resident set (`ru_maxrss`) also counts files that are mapped into memory, whose pages
Linux takes back on demand: with data larger than the memory, a program would seem to need more
memory than there is. So a thread looks at the anonymous and the shared pages.
"""

import re
import resource
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

EVERY = 0.2  # seconds between two looks
PAGES = re.compile(r"^Rss(?:Anon|Shmem):\s+(\d+) kB$", re.MULTILINE)

_seen: list[int] = []  # the most bytes so far, once `watch` was called


def watch() -> None:
    """Begin to look at the memory of this process and its children, where `/proc` tells it."""
    if Path("/proc/self/status").exists() and not _seen:
        _seen.append(_now())
        threading.Thread(target=_look, daemon=True, name="memory").start()


def peak() -> int:
    """Return the bytes at the peak since `watch`; else those of the largest resident set."""
    if _seen:
        return max(_seen[0], _now())
    scopes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kibibytes elsewhere
    return unit * max(resource.getrusage(scope).ru_maxrss for scope in scopes)


def _look() -> None:
    while True:
        time.sleep(EVERY)
        _seen[0] = max(_seen[0], _now())


def _now() -> int:
    """The bytes of this process and its children now."""
    import psutil

    own = psutil.Process()
    total = 0
    with suppress(psutil.Error):
        for process in (own, *own.children(recursive=True)):
            with suppress(OSError):  # it has ended
                status = Path(f"/proc/{process.pid}/status").read_text()
                total += 1024 * sum(int(number) for number in PAGES.findall(status))
    return total
