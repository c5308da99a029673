"""The index of a dataset, with one row per image, and its profile."""

import hashlib
import math
from collections import Counter
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from latentworks.datasets.rejects import REASONS, counted, sentence
from latentworks.datasets.source import Split
from latentworks.errors import DataError

MAX_SIZES = 10  # image sizes listed in the profile
MAX_EXAMPLES = 20  # file names listed per reject code
MAX_REASONS = 3  # in a message
HISTOGRAM_BINS = 16
SPLITS = get_args(Split)  # of a duplicate, the row of the last of these splits stays


class IndexRow(NamedTuple):
    """One row of the index."""

    split: Split
    label: int | None
    name: str  # in the source
    height: int  # pixels, before preparation
    width: int


class Catalog:
    """Collects index rows from a stream of prepared images, without keeping their pixels."""

    def __init__(self, image_shape: tuple[int, int, int], class_names: tuple[str, ...]) -> None:
        self.image_shape = image_shape
        self.class_names = class_names
        self.num_duplicates = 0
        self.rejected: dict[str, list[str]] = {}  # code -> names
        self.first_frames: list[str] = []  # names of images with more frames or pages
        self._rows: dict[str, IndexRow] = {}  # content id -> row, in the order of the images
        self._pixels = np.zeros(256, dtype=np.int64)  # count of each grey value

    def add(self, content_id: str, row: IndexRow, image: np.ndarray) -> bool:
        """Add an image, uint8 [S, S, C]. Returns False for a duplicate.

        If the duplicate is in test and the first copy is not, the row becomes the test image's,
        so that the source's own test set stays complete. Likewise, val goes before train.
        """
        known = self._rows.get(content_id)
        if known is None:
            self._rows[content_id] = row
            self._pixels += np.bincount(image.ravel(), minlength=256)
            return True
        self.num_duplicates += 1
        if SPLITS.index(row.split) > SPLITS.index(known.split):
            self._rows[content_id] = row
        return False

    def reject(self, name: str, code: str) -> None:
        """Record an image that cannot be used, and the reason."""
        self.rejected.setdefault(code, []).append(name)

    def remarks(self) -> list[str]:
        """Say in a line each why images were rejected, and which have more than one frame."""
        lines = [sentence(code, names) for code, names in sorted(self.rejected.items())]
        if self.first_frames:
            more = "more frames or pages than the first, which is taken"
            lines.append(counted(self.first_frames, f"has {more}", f"have {more}"))
        return lines

    def check(self, min_images: int, max_rejects: float | None) -> None:
        """Raise DataError if too many images are rejected, too few are left, or none for a split.

        `max_rejects` is a share of all images; None allows any.
        """
        num_images = {split: self._num_images(split) for split in SPLITS}
        total = len(self._rows)
        num_rejects = sum(map(len, self.rejected.values()))
        share = num_rejects / max(1, num_rejects + total + self.num_duplicates)
        if max_rejects is not None and share > max_rejects:
            raise DataError(
                f"Too many images are rejected. Expected at most {max_rejects:.2%} "
                f"(prepare.max_rejects). Received: {share:.2%}. {self._cures()} Or raise the limit."
            )
        expected = ""
        if total < min_images:
            expected = f"at least {min_images} (prepare.min_images)"
        elif not num_images["train"] or not num_images["test"]:
            expected = "some in train and some in test"
        if expected:
            counts = ", ".join(f"{number} {split}" for split, number in num_images.items())
            raise DataError(
                f"Too few usable images. Expected {expected}. Received: {total} ({counts}), after "
                f"{self.num_duplicates} duplicates were left out. {self._cures() or 'Add images.'}"
            )

    def _cures(self) -> str:
        """Name the most frequent reasons of rejection, with the cure of each."""
        codes = sorted(self.rejected, key=lambda code: -len(self.rejected[code]))
        parts = [
            f"{sentence(code, self.rejected[code])}. {REASONS[code].cure}."
            for code in codes[:MAX_REASONS]
        ]
        if codes[MAX_REASONS:]:
            parts.append(f"The log names all {len(codes)} reasons.")
        return " ".join(parts)

    def index(self) -> pd.DataFrame:
        """Return one row per image, with columns id, split, label, name, height and width."""
        rows = self._rows.values()
        return pd.DataFrame(
            {
                "id": pd.array(list(self._rows), dtype="str"),
                "split": pd.array([row.split for row in rows], dtype="str"),
                "label": pd.array([row.label for row in rows], dtype="Int64"),
                "name": pd.array([row.name for row in rows], dtype="str"),
                "height": np.array([row.height for row in rows], dtype=np.int64),
                "width": np.array([row.width for row in rows], dtype=np.int64),
            }
        )

    def profile(self) -> dict[str, Any]:
        """Summarise the dataset. `fingerprint` depends on the images, splits, labels and order."""
        sizes = Counter((row.height, row.width) for row in self._rows.values())
        return {
            "num_images": len(self._rows),
            "image_shape": list(self.image_shape),
            "class_names": list(self.class_names),
            "splits": {split: self._split_profile(split) for split in SPLITS},
            "sizes": [
                {"height": height, "width": width, "images": count}
                for (height, width), count in sorted(
                    sizes.items(), key=lambda size: (-size[1], size[0])
                )[:MAX_SIZES]
            ],
            "brightness": _brightness(self._pixels),
            "duplicates": self.num_duplicates,
            "rejects": {
                code: {"images": len(names), "examples": names[:MAX_EXAMPLES]}
                for code, names in sorted(self.rejected.items())
            },
            "fingerprint": self._fingerprint(),
        }

    def _num_images(self, split: Split) -> int:
        return sum(row.split == split for row in self._rows.values())

    def _split_profile(self, split: Split) -> dict[str, object]:
        if not self.class_names:
            return {"images": self._num_images(split)}
        labels = Counter(row.label for row in self._rows.values() if row.split == split)
        classes = {name: labels[label] for label, name in enumerate(self.class_names)}
        return {"images": labels.total(), "classes": classes}

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for content_id, row in self._rows.items():
            digest.update(f"{content_id} {row.split} {row.label}\n".encode())
        return digest.hexdigest()


def _brightness(pixels: np.ndarray) -> dict[str, object]:
    """Mean, standard deviation (0 to 255) and histogram: exact, as the sums are integers."""
    values = range(256)
    count = int(pixels.sum())
    total = sum(value * int(number) for value, number in zip(values, pixels, strict=True))
    squares = sum(value**2 * int(number) for value, number in zip(values, pixels, strict=True))
    return {
        "mean": total / count,
        "std": math.sqrt(count * squares - total**2) / count,
        "histogram": pixels.reshape(HISTOGRAM_BINS, -1).sum(axis=1).tolist(),
    }
