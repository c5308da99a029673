"""The examples in docs/serving.md are those that scripts/serving_examples.py writes."""

import re
from pathlib import Path

import numpy as np

import serving_examples
from checkouts import ROOT, Checkout

TEXT = (ROOT / serving_examples.DOC).read_text(encoding="utf-8")


def form(text: str) -> str:
    """A text with 0 for each number."""
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "0", text)


def test_the_examples_have_the_form_of_real_answers(finished: Checkout, tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    np.save(tmp_path / "prepared/images.npy", np.zeros((60_005, 8, 8, 1), np.uint8))
    asked = []
    with serving_examples.answers(finished.path / "models/servable", tmp_path, 0) as answer:

        def noted(command: str) -> str:
            asked.append(command)
            return answer(command)

        written = serving_examples.rewritten(TEXT, noted)
    assert len(asked) == 9
    assert form(written) == form(TEXT)
    assert written != TEXT  # another model gives other numbers


def test_only_marked_examples_are_written() -> None:
    example = "```console\n$ one \\\n  two\nold\n$ three\n```\n"
    marked = f"{serving_examples.START}\n{example}{serving_examples.END}\n"
    written = serving_examples.rewritten(example + marked, lambda command: f"<{len(command)}>\n")
    new = "```console\n$ one \\\n  two\n<12>\n$ three\n<6>\n```\n"
    assert written == example + marked.replace(example, new)
