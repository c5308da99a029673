"""The images of a user at a glance: their kind, number, sizes, colours, splits and classes.

Up to NUM_LOOKED_AT images are decoded. The others are counted.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from latentworks.config import Config
from latentworks.datasets.config import DatasetConfig
from latentworks.datasets.decoding import decoded
from latentworks.datasets.rejects import sentence
from latentworks.datasets.source import Item, Source, Split
from latentworks.datasets.value_range import NUM_LOOKED_AT, value_ranges
from latentworks.errors import DataError
from latentworks.preprocess import over_background, to_uint8
from latentworks.project import pixels
from latentworks.project.kinds import kind_at

THUMBNAIL = 64  # pixels per side at most, of an image that is looked at
SAME_SHAPE, MOST = 0.1, 0.9  # images differ by less in height / width; a share of the images
FEW = 64  # images that are decoded sooner than the processes start that would do it


class _Given(Config):
    dataset: DatasetConfig


@dataclass(frozen=True)
class Profile:
    """The images of a user. Sizes, colours and values are those of the images looked at."""

    kind: str  # of dataset.kind
    path: str  # for dataset.path
    name: str  # of the folder or file, without its ending
    splits: Mapping[Split | None, int]  # images by their own split
    classes: Mapping[str, int]  # images for training by class; empty without labels
    side: int  # pixels: the median of the longer sides
    are_equal: bool  # True if all images have one size
    are_square: bool
    has_colour: bool
    is_transparent: bool
    background: int  # grey of margins, and behind transparent pixels
    brightness: Mapping[str, float]  # mean and std of all pixels, 0 to 255
    value_range: str | tuple[float, float] = "auto"  # for prepare.value_range
    formats: tuple[str, ...] = ()  # endings of files, the commonest first
    smallest: int = 0  # pixels: the shortest of the longer sides
    largest: int = 0  # pixels
    aspect: float | None = 1.0  # height / width, about that of all images; None if they differ
    num_looked_at: int = 0
    num_rejected: int = 0  # of those looked at
    notes: tuple[str, ...] = ()  # how the source was understood, and what cannot be used

    @property
    def num_images(self) -> int:
        return sum(self.splits.values())


def look(path: Path, named: str) -> Profile:
    """Look at the images at a path, which params.yaml will name `named`.

    Raises DataError if there are none that can be used.
    """
    kind, found = kind_at(path)
    named = str(Path(named) / found.name) if found != path else named
    config = _Given.model_validate({"dataset": {"kind": kind, "path": str(found)}}).dataset
    source: Source = config.load()
    splits, labels, picked = _counted(source)
    thumbnails, sizes, rejects = _decoded(source, picked)
    if not thumbnails:
        reasons = "; ".join(rejects) or "the source is empty"
        raise DataError(f"{path}: none of {len(picked)} images can be used: {reasons}.")
    ranges, value_range, remarks = _ranges(source, thumbnails)
    images = [to_uint8(image, ranges) for image in thumbnails]
    is_transparent = any(map(pixels.is_transparent, images))
    background = pixels.behind(images) if is_transparent else pixels.around(images)
    shown = np.concatenate([over_background(image, background).ravel() for image in images])
    longer = [max(size) for size in sizes]
    suffixes = Counter(PurePath(item.name).suffix[1:].upper() for item in picked)
    return Profile(
        kind=kind,
        path=named,
        name=found.resolve().name if found.is_dir() else found.resolve().stem,
        splits=splits,
        classes=dict(zip(source.class_names, labels, strict=True)),
        side=round(float(np.median(longer))),
        are_equal=len(set(sizes)) == 1,
        are_square=all(height == width for height, width in sizes),
        has_colour=any(map(pixels.has_colour, images)),
        is_transparent=is_transparent,
        background=background,
        brightness={"mean": float(shown.mean()), "std": float(shown.std())},
        value_range=value_range,
        formats=tuple(
            name for name, _ in suffixes.most_common() if name and kind == "image_folder"
        ),
        smallest=min(longer),
        largest=max(longer),
        aspect=_aspect(sizes),
        num_looked_at=len(picked),
        num_rejected=len(picked) - len(images),
        notes=(*source.notes, *remarks, *rejects),
    )


def _counted(source: Source) -> tuple[dict[Split | None, int], list[int], list[Item]]:
    """Count images by split, and those for training by class; pick evenly spread ones."""
    every = max(1, math.ceil(source.num_items / NUM_LOOKED_AT))
    splits: Counter[Split | None] = Counter()
    labels, picked = [0] * len(source.class_names), []
    for number, item in enumerate(source.items):
        splits[item.split] += 1
        if item.label is not None and item.split in (None, "train"):
            labels[item.label] += 1
        if number % every == 0:
            picked.append(item)
    return dict(splits), labels, picked


def _decoded(
    source: Source, picked: list[Item]
) -> tuple[list[np.ndarray], list[tuple[int, int]], list[str]]:
    """Return thumbnails, the heights and widths of their images, and sentences on the rejects."""
    slow = source.decodes and len(picked) > FEW
    part = replace(source, items=picked, num_items=len(picked), decodes=slow)
    thumbnails, sizes = [], []
    rejected: dict[str, list[str]] = {}
    for item, result in decoded(part, thumbnail):
        if result.image is None:
            rejected.setdefault(result.reject, []).append(item.name)
        else:
            thumbnails.append(result.image)
            sizes.append((result.height, result.width))
    return thumbnails, sizes, [sentence(code, names) for code, names in sorted(rejected.items())]


def _aspect(sizes: list[tuple[int, int]]) -> float | None:
    """The median of height / width, or None if fewer than MOST of the images are SAME_SHAPE."""
    ratios = np.array([height / width for height, width in sizes])
    median = float(np.median(ratios))
    return median if np.mean(np.abs(np.log(ratios / median)) < SAME_SHAPE) >= MOST else None


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Leave out pixels of an image [h, w, c], so that no side is longer than THUMBNAIL."""
    step = math.ceil(max(image.shape[:2]) / THUMBNAIL)
    return image[::step, ::step].copy()


def _ranges(
    source: Source, images: list[np.ndarray]
) -> tuple[dict[str, tuple[float, float]], str | tuple[float, float], list[str]]:
    """Return the range of each dtype, the param that gives it, and a line on each."""
    items = [Item(str(row), partial(_itself, image)) for row, image in enumerate(images)]
    part = replace(source, items=items, num_items=len(items), decodes=False)
    try:
        ranges, remarks = value_ranges(part, "auto")
        return ranges, "auto", remarks
    except DataError:  # no usual range holds the values
        low = float(min(image.min() for image in images))
        high = float(max(image.max() for image in images))
        between = (low, high if high > low else low + 1)
        ranges, _ = value_ranges(part, between)
        return ranges, between, [f"values from {low:g} to {high:g} have no usual range"]


def _itself(image: np.ndarray) -> np.ndarray:
    return image
