"""Pictures and HTML pages, written without the date or version of the program."""

from pathlib import Path
from typing import IO, Any, Protocol

from latentworks.system import disk


class Figure(Protocol):
    """The part of a Matplotlib figure that is used here."""

    def savefig(self, fname: Path | IO[bytes], **options: Any) -> None: ...


def write_page(path: Path, text: str) -> None:
    """Write an HTML file."""
    with disk.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_figure(path: Path, figure: Figure) -> None:
    """Write a PNG without the name and version of Matplotlib."""
    figure.savefig(path, format="png", metadata={"Software": None})
