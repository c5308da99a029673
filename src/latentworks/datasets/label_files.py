"""Files of labels beside images: metadata.csv, metadata.jsonl or labels.csv.

Each row names a file, and gives its label, its split or both. `metadata` files are those of Hugging
Face's imagefolder, with the columns file_name and label.
"""

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Self

from latentworks.datasets.layout import SPLITS, listed, printable, split_of_name
from latentworks.datasets.rejects import counted
from latentworks.datasets.source import Split
from latentworks.errors import DataError
from latentworks.params.faults import escaped, short

NAMES = ("metadata.csv", "metadata.jsonl", "labels.csv")
FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_id", "id")
LABEL_COLUMNS = ("label", "class", "category", "target")
SPLIT_COLUMN = "split"
DELIMITERS = ",;\t"

Row = dict[str, Any]  # by column, in lower case


@dataclass
class Labels:
    """Labels and splits that files of labels give, by the path of an image."""

    labels: dict[str, str] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # named by a row
    notes: list[str] = field(default_factory=list)  # for the log

    def class_names(self) -> list[str]:
        """Return the labels in order: by value if all are whole numbers."""
        names = set(self.labels.values())
        are_numbers = all(re.fullmatch("[+-]?[0-9]{1,18}", name) for name in names)
        return sorted(names, key=int if are_numbers else None)


def read(root: Path, label_files: Sequence[str], images: Sequence[str]) -> Labels:
    """Read files of labels. `label_files` and `images` are paths relative to `root`.

    Raises DataError if a file cannot be read, or a row contradicts another.
    """
    found = Labels()
    for file in label_files:
        _read_file(root, file, images, found)
    if found.labels and (unnamed := [image for image in images if image not in found.labels]):
        where = f"no label in {listed(label_files)}"
        found.notes.append(counted(unnamed, f"has {where}", f"have {where}"))
    return found


def _read_file(root: Path, file: str, images: Sequence[str], found: Labels) -> None:
    where, shown = printable(os.fspath(root / file)), printable(file)
    rows = list(_rows(root / file, where))
    columns = Columns.of(file, {column for _, row in rows for column in row})
    if columns is None:
        names = f"no column of files, such as {FILE_COLUMNS[0]}"
        found.notes.append(f"{shown} is not used: it has {names}")
        return
    folder = file.rpartition("/")[0]
    known = _Paths(folder, images)
    labels: dict[str, str | None] = {}
    missing: dict[str, None] = {}
    for line, row in rows:
        place = f"{where}: line {line}"
        if (name := _text(row.get(columns.file), place)) is None:
            continue
        if (image := known.find(name, place)) is None:
            missing[f"{folder}/{name}" if folder else name] = None
            continue
        labels[image] = _text(row.get(columns.label), place) if columns.label else None
        if label := labels[image]:
            before = found.labels.setdefault(image, label)
            if before != label:
                raise DataError(
                    f"{place}: {printable(name)} has the labels {short(before)} and "
                    f"{short(label)}. Keep one row for each image."
                )
        if split := _split(row.get(SPLIT_COLUMN), place):
            other = found.splits.setdefault(image, split)
            if other != split:
                raise DataError(
                    f"{place}: {printable(name)} has the splits {other} and {split}. "
                    "Keep one row for each image."
                )
    if not labels:
        found.notes.append(f"{shown} is not used: it names none of the images")
        return
    found.missing += missing
    uses = ["labels"] if any(labels.values()) else []
    uses += ["splits"] if columns.has_split else []
    if uses:
        found.notes.append(f"{' and '.join(uses)} are those of {shown}")
    else:
        found.notes.append(f"{shown} has no column of labels, such as {LABEL_COLUMNS[0]}")


class Columns(NamedTuple):
    """The columns of a file of labels that are used."""

    file: str
    label: str  # empty if there is none
    has_split: bool

    @classmethod
    def of(cls, file: str, names: set[str]) -> Self | None:
        """Choose among the columns of a file. None if no column names files.

        In labels.csv, the label may have any name if no other column is left.
        """
        path = next((name for name in FILE_COLUMNS if name in names), None)
        if path is None:
            return None
        others = names - {path, SPLIT_COLUMN, ""}  # pandas saves the numbers of rows as ""
        label = next((name for name in LABEL_COLUMNS if name in others), "")
        if not label and len(others) == 1 and PurePath(file).name.casefold() == "labels.csv":
            (label,) = others
        return cls(path, label, SPLIT_COLUMN in names)


def _rows(path: Path, where: str) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a CSV or JSONL file with their line numbers. Raises DataError."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.casefold() == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _object(line, f"{where}: line {number}")
                return
            header = file.readline()
            delimiter = max(DELIMITERS, key=header.count)
            columns = [_column(name) for name in next(csv.reader([header], delimiter=delimiter))]
            reader = csv.reader(file, delimiter=delimiter)
            for values in reader:
                if values:
                    yield reader.line_num + 1, dict(zip(columns, values, strict=False))
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8 text. Save it as UTF-8.") from None
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{where}: not a CSV file: {escaped(str(error))}.") from None


def _object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not JSON. Expected an object in each line.") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object. Received: {short(row)}.")
    return {_column(name): value for name, value in row.items()}


def _column(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _text(value: object, where: str) -> str | None:
    """Return a value as text, None if it is empty. Raises DataError for a list or an object."""
    if value is None or isinstance(value, str):
        text = (
            (value or "").encode("utf-8", "backslashreplace").decode()
        )  # of JSON: half a character
        return text.strip() or None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return str(value)
    raise DataError(f"{where}: expected a text or a number. Received: {short(value)}.")


def _split(value: object, where: str) -> Split | None:
    text = _text(value, where)
    if text is None:
        return None
    split = split_of_name(text)
    if split is None:
        raise DataError(
            f"{where}: {SPLIT_COLUMN} should be one of: {', '.join(SPLITS)}. "
            f"Received: {short(text)}."
        )
    return split


class _Paths:
    """The images below a folder, found by path or name, with and without the extension."""

    def __init__(self, folder: str, images: Sequence[str]) -> None:
        start = f"{folder}/" if folder else ""
        self._by_path: dict[str, str] = {}
        self._others: dict[str, list[str]] = defaultdict(list)
        for image in images:
            if image.startswith(start):
                path = image[len(start) :]
                self._by_path[path] = image
                stem, name = os.path.splitext(path)[0], os.path.basename(path)
                for key in {stem, name, os.path.splitext(name)[0]}:
                    self._others[key].append(image)

    def find(self, name: str, where: str) -> str | None:
        """Return the image that a row names, None if there is none. Raises DataError for two."""
        path = os.path.normpath(name.replace("\\", "/"))
        if path in self._by_path:
            return self._by_path[path]
        images = self._others.get(path, [])
        if len(images) > 1:
            raise DataError(
                f"{where}: {printable(name)} is {printable(images[0])} or {printable(images[1])}. "
                "Write the whole path, with its extension."
            )
        return images[0] if images else None
