"""Text for a terminal: aligned columns, and one-line errors."""

from collections.abc import Sequence

MAX_LINE = 500  # characters


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def printable(text: str) -> str:
    """Escape all that is no visible character, such as a line break in the name of a file."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def first_line(fault: str | Exception) -> str:
    """Return the first line of an error or of its text, without an end longer than MAX_LINE.

    Two more lines follow a line that ends with a colon. An error without text is its type.
    """
    none = "no reason given" if isinstance(fault, str) else type(fault).__name__
    first, *others = str(fault).strip().splitlines() or [none]
    more = [line.strip() for line in others[:2]] if first.endswith(":") else []
    return " ".join([first, *more])[:MAX_LINE]
