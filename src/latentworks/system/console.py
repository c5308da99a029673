"""Text for a terminal: aligned columns, and one-line errors."""

from collections.abc import Sequence


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def first_line(text: str) -> str:
    """Shorten an error text to its first line, plus two lines if the first ends with a colon."""
    first, *others = text.strip().splitlines() or ["no reason given"]
    return " ".join([first, *(line.strip() for line in others[:2])]) if first[-1:] == ":" else first
