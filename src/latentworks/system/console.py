"""Text for a terminal: aligned columns, and errors of one line."""

from collections.abc import Sequence


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, the cells of a column below one another."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def first_line(text: str) -> str:
    """The fault, without what follows, unless that is what it leads up to."""
    first, *others = text.strip().splitlines() or ["it does not say why"]
    return " ".join([first, *(line.strip() for line in others[:2])]) if first[-1:] == ":" else first
