"""docs/retraining.md has the table that scripts/processors.py writes."""

from pathlib import Path

import processors
from checkouts import ROOT

FOUND = dict.fromkeys(processors.SHOWN, 0.12345)


def test_the_table_has_a_line_for_each_training_and_replaces_the_former(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{processors.START}\nold\n{processors.END}\nafter\n")
    processors.write(page, processors.table({row.name: FOUND for row in processors.ROWS}))
    lines = page.read_text().splitlines()
    assert lines[:3] == ["before", processors.START, ""]
    assert lines[3] == "| processor | BCE | MSE | kNN | Fréchet | precision | recall | coverage |"
    assert lines[5] == f"| this processor |{7 * ' 0.1235 |'}"
    assert lines[9:] == ["", processors.END, "after"]


def test_the_docs_have_the_place_of_the_table() -> None:
    text = (ROOT / processors.DOC).read_text(encoding="utf-8")
    assert text.count(processors.START) == text.count(processors.END) == 1


def test_the_rows_differ_in_one_thing_from_the_first() -> None:
    first, *others = processors.ROWS
    assert first == processors.Row(first.name)
    for row in others:
        assert (row.seed is None) != (not row.environment)
