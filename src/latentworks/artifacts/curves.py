"""The curves of a training: curves.csv, with a row for each epoch."""

import csv
from pathlib import Path

from latentworks.system import disk

# A cell is empty if it has no value: val_… without validation images, kl_loss without a KL term,
# phase in the epochs of the first one.
CURVES = ("epoch", "loss", "val_loss", "kl_loss", "val_kl_loss", "learning_rate", "phase")


def write_curves(path: Path, epochs: list[dict[str, float]]) -> None:
    """Write a CSV with a row for each epoch. Numbers are exact, and as short as possible.

    The columns are always the same, so that curves with and without validation can be compared.
    """
    with disk.replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=CURVES, lineterminator="\n")
        writer.writeheader()
        writer.writerows(epochs)


def read_curves(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [
            {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        ]
