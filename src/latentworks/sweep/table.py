"""The trials of a sweep as a table, as a CSV file and as a picture."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from latentworks import plots
from latentworks.artifacts.figures import write_figure
from latentworks.sweep.records import Record
from latentworks.sweep.scores import HIGHER, NUM_SHOWN, SCORES
from latentworks.system import disk
from latentworks.system.console import columns

MAX_ROWS = 50  # of the picture: the best trials


def ordered(records: Sequence[Record], by: str) -> list[Record]:
    """Sort trials by a score, the best one first, and those without scores last."""
    sign = -1 if SCORES[by] == HIGHER else 1
    finished = [record for record in records if record.is_finished]
    failed = [record for record in records if not record.is_finished]
    return [*sorted(finished, key=lambda record: sign * record.scores[by]), *failed]


def head(records: Sequence[Record]) -> tuple[str, ...]:
    return ("trial", *records[0].values, *SCORES)


def cells(record: Record) -> tuple[str, ...]:
    """Return the row of a trial as text."""
    scores = [f"{record.scores[name]:.4g}" if record.scores else "failed" for name in SCORES]
    return (str(record.number), *map(str, record.values.values()), *scores)


def text(records: Sequence[Record]) -> str:
    return "\n".join(columns([head(records), *map(cells, records)]))


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write the trials with all digits of their scores."""
    with disk.replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head(records))
        for record in records:
            scores = [record.scores.get(name, "") for name in SCORES]
            writer.writerow([record.number, *record.values.values(), *scores])


def write_picture(
    path: Path, records: Sequence[Record], images: Mapping[int, np.ndarray], by: str
) -> None:
    """Draw a row of images for each trial, `images` by its number; row 0 has the originals."""
    shown = [record for record in records if record.number in images][:MAX_ROWS]
    rows = {"Validation images": images[0]}
    for record in shown:
        rows[f"Trial {record.number}: {record.summary}; {by} {record.scores[by]:.4g}"] = images[
            record.number
        ]
    figure = plots.comparison(
        f"{len(shown)} trials, the best {by} first",
        f"Left: {NUM_SHOWN} validation images, reconstructed. Right: {NUM_SHOWN} samples, not "
        "hand-picked.",
        rows,
    )
    with disk.replacing(path) as temporary:
        write_figure(temporary, figure)
