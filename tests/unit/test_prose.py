"""The first words of docstrings, comments and messages name the thing that they are about."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkouts import ROOT

FOLDERS = ("src", "pipeline", "scripts", "benchmarks", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
RIDDLE = re.compile(r"(#\s*)?(What|Whether|Whoever) ")


def texts(code: str) -> Iterator[tuple[int, str]]:
    """Every docstring, message and comment, with its line number."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value.lstrip()
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def riddles(code: str) -> list[str]:
    return [f"line {line}: {text[:60]}" for line, text in texts(code) if RIDDLE.match(text)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_opens_with_what_whether_or_whoever(path: Path) -> None:
    assert not riddles(path.read_text(encoding="utf-8"))


def test_texts_that_open_with_what_whether_or_whoever_are_found() -> None:
    code = 'def f():\n    """Whether so."""\n    return f"What {1} is"  # Whoever asks\n'
    assert len(riddles(code)) == 3
