"""A relay for the standard error of a child process, which leaves out some of its lines."""

import fcntl
import os
import re
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

STANDARD_ERROR = 2
COLOURS = re.compile(rb"\x1b\[[0-9;]*m|\x1b(\[[0-9;]*)?$")  # also the beginning of a code
ENDS = re.compile(rb"(?<=[\n\r])")  # a progress bar ends its lines with \r


@contextmanager
def standard_error(is_shown: Callable[[str], bool], mark: str) -> Iterator[int]:
    """Yield a file descriptor; text written there goes to the standard error of this process.

    A line that begins with `mark`, in upper or lower case and in any colour, goes there only if
    `is_shown` is true of it. If the standard error is a terminal, then so is the descriptor, for
    progress bars.
    """
    reader, writer = _terminal() if os.isatty(STANDARD_ERROR) else os.pipe()

    def relay() -> None:
        rest = b""
        with suppress(OSError):  # a terminal ends with an error
            while chunk := os.read(reader, 65_536):
                *lines, rest = ENDS.split(rest + chunk)
                for line in lines:
                    plain = COLOURS.sub(b"", line).decode(errors="replace").rstrip()
                    if not _begins(line, mark) or is_shown(plain):
                        _write(line)
                if rest and not _begins(rest, mark):  # a bar, or a question, without an end of line
                    _write(rest)
                    rest = b""
        _write(rest)

    thread = threading.Thread(target=relay, daemon=True, name="relay")
    thread.start()
    try:
        yield writer
    finally:
        os.close(writer)
        thread.join(1)  # a process that outlived its parent may still hold the other end
        if not thread.is_alive():
            os.close(reader)


def _begins(text: bytes, mark: str) -> bool:
    """True if `text`, without colours, begins with `mark`, or is its beginning."""
    plain = COLOURS.sub(b"", text)
    return mark.lower().encode().startswith(plain[: len(mark)].lower())


def _write(text: bytes) -> None:
    while text:
        text = text[os.write(STANDARD_ERROR, text) :]


def _terminal() -> tuple[int, int]:
    """Open a terminal of the size of this process's; return its two ends."""
    reader, writer = os.openpty()
    tty.setraw(writer)  # this process's own terminal ends the lines
    with suppress(OSError):
        size = fcntl.ioctl(STANDARD_ERROR, termios.TIOCGWINSZ, bytes(8))
        fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    return reader, writer
