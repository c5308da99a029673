"""The files between stages: one `write_x` and one `read_x` for every arrow in dvc.yaml.

A file or folder is written under a temporary name, flushed to disk and renamed, so that it
appears whole or not at all. None holds a time, a host or a path: equal inputs give equal bytes.
"""

from pathlib import Path
from typing import Any, Protocol

from latentworks.system import disk


class Figure(Protocol):
    """What a Matplotlib figure offers."""

    def savefig(self, fname: Path, **options: Any) -> None: ...


def write_page(path: Path, text: str) -> None:
    """An HTML file."""
    with disk.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_figure(path: Path, figure: Figure) -> None:
    """A PNG without the name and version of the program that drew it."""
    figure.savefig(path, format="png", metadata={"Software": None})
