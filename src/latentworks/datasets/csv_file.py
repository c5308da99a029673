"""CSV files with the pixels of an image in each row, as Kaggle stores MNIST: label, pixel0, …

The number of pixels is a square. The first line may name the columns; without names, a number
before the pixels is the label.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from latentworks.datasets.arrays import finite, reason
from latentworks.datasets.formats import other_kind
from latentworks.datasets.labels import Id
from latentworks.datasets.shards import Record, Shard, find, open_shards
from latentworks.datasets.source import Source
from latentworks.errors import DataError
from latentworks.params.faults import escaped

LABELS = ("label", "labels", "class", "digit", "target", "y")
FILES = ("path", "file", "file_name", "filename", "image", "image_path")
MAX_LINE = 4_000_000  # characters: a million pixels
DTYPE = "float32"
DAMAGE = (OSError, ValueError, csv.Error)


@dataclass(frozen=True)
class Layout:
    """The columns of a file."""

    label: int | None  # the column of labels; all others are pixels
    side: int  # of an image
    has_names: bool  # in the first line


def load(path: Path) -> Source:
    """Open a CSV file, or a folder of them. Raises DataError if one is invalid."""
    shards = find(path, "csv", "CSV file")
    layouts = {shard: _layout(shard, among=len(shards)) for shard in shards}
    (first, *others) = shards
    for shard in others:
        if layouts[shard].side != layouts[first].side:
            raise DataError(
                f"{shard.path}: expected {layouts[first].side ** 2} pixels as in {first.path}. "
                f"Received: {layouts[shard].side ** 2}."
            )
    return open_shards(
        path,
        shards,
        partial(_labels, layouts),
        partial(_records, layouts),
        "a row of pixels for each image",
        dtypes=(DTYPE,),
    )


def _layout(shard: Shard, among: int) -> Layout:
    """Find the columns of one `among` several files. Raises DataError if they hold no images."""
    cells = next(_lines(shard), [])
    are_numbered = cells == [str(column) for column in range(len(cells))]
    has_names = are_numbered or not all(map(_is_number, cells))
    names = [cell.strip().lower() for cell in cells]
    if has_names and any(name in FILES for name in names):
        raise DataError(
            f"{shard.path}: names files of images. Name it labels.csv and put it beside them; then "
            "set dataset.kind to image_folder, and dataset.path to the folder."
        )
    label = next((names.index(name) for name in LABELS if name in names), None)
    unnamed = are_numbered or not has_names
    if unnamed and not _is_square(len(cells)) and _is_square(len(cells) - 1):
        label = 0
    pixels = len(cells) - (label is not None)
    if not _is_square(pixels):
        shown = ", ".join(escaped(cell[:20]) for cell in cells[:4])
        cure = " Move it out of the folder, or set dataset.path to one file." if among > 1 else ""
        raise DataError(
            f"{shard.path}: expected columns label, pixel0, pixel1, … whose number of pixels is a "
            f"square, such as 784. Received: {pixels} columns for pixels, of {shown}, …."
            f"{other_kind(shard.path, 'csv') or cure}"
        )
    return Layout(label, math.isqrt(pixels), has_names)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_square(number: int) -> bool:
    return number >= 4 and math.isqrt(number) ** 2 == number


def _lines(shard: Shard) -> Iterator[list[str]]:
    """Yield the cells of each line that is not blank. Raises DataError."""
    try:
        with shard.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from filter(None, csv.reader(iter(partial(file.readline, MAX_LINE), "")))
    except DAMAGE as error:
        raise DataError(f"{shard.path}: not a readable CSV file: {reason(error)}.") from None


def _rows(shard: Shard, layout: Layout) -> Iterator[tuple[Id | None, list[str]]]:
    """Yield the label and the pixels of each image. Raises DataError for rows of other lengths."""
    expected = layout.side**2 + (layout.label is not None)
    for number, cells in enumerate(islice(_lines(shard), int(layout.has_names), None)):
        if len(cells) != expected:
            raise DataError(
                f"{shard.path}: row {number} has {len(cells)} values. Expected {expected}. "
                "Correct or remove it."
            )
        label = None if layout.label is None else cells.pop(layout.label).strip()
        yield label or None, cells


def _labels(layouts: dict[Shard, Layout], shard: Shard) -> Iterator[Id | None]:
    for label, _ in _rows(shard, layouts[shard]):
        yield label


def _records(layouts: dict[Shard, Layout], shard: Shard) -> Iterator[Record]:
    layout = layouts[shard]
    for row, (label, cells) in enumerate(_rows(shard, layout)):
        try:
            pixels = np.array([cell or "nan" for cell in cells], DTYPE)
        except ValueError as error:
            raise DataError(
                f"{shard.path}: a pixel in row {row} is no number: {reason(error)}."
            ) from None
        image = pixels.reshape(layout.side, layout.side, 1)
        yield Record(f"{shard.name}[{row}]", partial(finite, image), label)
