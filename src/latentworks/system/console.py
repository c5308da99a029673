"""Text for a terminal: aligned columns, and one-line errors."""

import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from latentworks.errors import LatentworksError

MAX_LINE = 500  # characters
SLOW = 1.0  # seconds

# Set when a thread still waits for another program, whose answer is not needed any more. A process
# joins the threads of libraries at its end, which would then never come.
abandoned = threading.Event()


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def few(names: Sequence[str], most: int = 3) -> str:
    """Join names for a line: "a, b, c and 2 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


@contextmanager
def slow(work: str) -> Iterator[None]:
    """Print what a block does to standard error, if it takes longer than a second."""
    timer = threading.Timer(SLOW, print, [f"{work} …"], {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an error of the user as its message, without a traceback, and exit with its code.

    A terminal that lacks a character, such as an arrow in Latin-1, shows a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    exit_code = 0
    try:
        yield
    except LatentworksError as error:
        print(error, file=sys.stderr)
        exit_code = error.exit_code
    except OSError as error:
        print(of_system(error), file=sys.stderr)
        exit_code = 1
    except BaseException as error:
        if not abandoned.is_set():
            raise
        if isinstance(error, SystemExit):
            exit_code = error.code if isinstance(error.code, int) else int(bool(error.code))
        elif isinstance(error, KeyboardInterrupt):
            exit_code = 128 + signal.SIGINT
        elif hasattr(error, "exit_code"):  # that of typer.Exit
            exit_code = error.exit_code
        else:
            traceback.print_exc()
            exit_code = 1
    if abandoned.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    if exit_code:
        sys.exit(exit_code)


def of_system(error: OSError) -> str:
    """Return an error of the operating system as a sentence, without its number."""
    reason = error.strerror or str(error) or type(error).__name__
    what = f"use {error.filename}" if error.filename else "go on"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    cure = " Free some space, then run the same command again." if full else ""
    return f"Cannot {what}: {reason[0].lower()}{reason[1:]}.{cure}"


def first_line(fault: str | Exception) -> str:
    """Return the first line of an error or of its text, without an end longer than MAX_LINE.

    Two more lines follow a line that ends with a colon. An error without text is its type.
    """
    none = "no reason given" if isinstance(fault, str) else type(fault).__name__
    first, *others = str(fault).strip().splitlines() or [none]
    more = [line.strip() for line in others[:2]] if first.endswith(":") else []
    return " ".join([first, *more])[:MAX_LINE]
