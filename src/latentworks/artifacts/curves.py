"""The files between stages: one `write_x` and one `read_x` for every arrow in dvc.yaml.

A file or folder is written under a temporary name, flushed to disk and renamed, so that it
appears whole or not at all. None holds a time, a host or a path: equal inputs give equal bytes.
"""

import csv
from pathlib import Path

from latentworks.system import disk

# Empty where there is none: val_… without validation, kl_loss but for variational models.
CURVES = ("epoch", "loss", "val_loss", "kl_loss", "val_kl_loss", "learning_rate")


def write_curves(path: Path, epochs: list[dict[str, float]]) -> None:
    """A CSV with a row for each epoch; every number as short as it can be and still be exact.

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
