"""params.yaml of a checkout, fitted to the images of its user."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from latentworks import params, sections
from latentworks.datasets.config import MAX_SIDE, MIN_SIDE
from latentworks.errors import LatentworksError
from latentworks.params import recipes
from latentworks.params.faults import escaped
from latentworks.project.choices import Size, comments_on, expected_splits, num_strides, params_for
from latentworks.project.profile import look
from latentworks.project.report import notes, report
from latentworks.repository import git
from latentworks.system import disk
from latentworks.system.state import STATE

WRITTEN = STATE / "params.json"  # the text that was written last


@dataclass(frozen=True)
class Fitted:
    """A text for params.yaml, and the reasons for it."""

    text: str
    params: sections.Params
    report: list[str]  # a line for each finding
    notes: list[str]
    num_train: int  # images


def fit(
    root: Path,
    images: Path,
    *,
    size: Size | None = None,
    is_map: bool = False,
    committed: str | None = None,
) -> Fitted:
    """Choose params for the images at a path, and write nothing.

    `size` is the longer side of the prepared images, or their height and width. `committed` is the
    text of params.yaml in git, by default in the checkout `root`. Raises ParamsError for
    uncommitted edits in the sections that would be replaced, and DataError for images that cannot
    be used.
    """
    _check_size(size)
    images = images.expanduser()  # a shell expands ~ at the start of a word alone
    committed = committed or git.committed(root, str(params.PARAMS))
    before = recipes.sections_of(committed or (root / params.PARAMS).read_text(encoding="utf-8"))
    params.parse(sections.Params, before, str(params.PARAMS))
    profile = look(images, _named(root, images))
    chosen = params_for(profile, before, size=size, is_map=is_map)
    whole = params.parse(sections.Params, {**before, **chosen}, str(params.PARAMS))
    sections.refuse_images_among_outputs(root, whole.dataset)
    text = recipes.with_sections(
        root,
        chosen,
        committed,
        f"`latentworks new --images {images}`",
        comments_on(chosen),
        _written(root),
    )
    num_train = max(1, expected_splits(profile, chosen["prepare"])["train"])
    return Fitted(text, whole, report(profile, chosen), notes(profile, chosen), num_train)


def write(root: Path, text: str) -> None:
    """Write params.yaml, and keep the text, so that a second call may replace it."""
    recipes.replace_text(root, text)
    (root / STATE).mkdir(exist_ok=True)
    disk.write_json(root / WRITTEN, {"text": text})


def duration(fitted: Fitted) -> str:
    """Say how long the training takes, from a few steps of it, which import TensorFlow."""
    from latentworks.engine.pace import training_seconds

    prepare, train = fitted.params.prepare, fitted.params.train
    model, num_train = fitted.params.model, fitted.num_train
    seconds = training_seconds(model, train, prepare.image_shape, num_train)
    minutes = max(1, round(seconds / 60))
    unit = "minute" if minutes == 1 else "minutes"
    return f"The training takes about {minutes} {unit} on this machine."


def _written(root: Path) -> str | None:
    try:
        return str(disk.read_json(root / WRITTEN)["text"])
    except (OSError, ValueError, KeyError, TypeError):  # nothing was written yet, or it is damaged
        return None


def _named(root: Path, images: Path) -> str:
    """Name a path for dataset.path, from the root of the checkout if it was relative."""
    return str(images) if images.is_absolute() else os.path.relpath(images, root)


def size_of(text: str) -> Size:
    """Read the option --size: 96, or 48x64 for height and width. Raises LatentworksError."""
    sides = [int(side) for side in text.split("x") if re.fullmatch(r"\d{1,4}", side)]
    if len(sides) != text.count("x") + 1 or len(sides) > 2 or not _are_sides(sides):
        raise LatentworksError(
            f"--size is a number of pixels from {MIN_SIDE} to {MAX_SIDE}, or height x width. "
            f"Received: {escaped(text[:20])}. Write it as in --size 96 or --size 48x64."
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _are_sides(sides: list[int]) -> bool:
    return all(MIN_SIDE <= side <= MAX_SIDE for side in sides)


def _check_size(size: Size | None) -> None:
    sides = size if isinstance(size, tuple) else (size or 0,)
    strides = num_strides(max(sides))
    multiple = 2**strides
    if any(side % multiple for side in sides):
        cure = "x".join(str(max(multiple, round(side / multiple) * multiple)) for side in sides)
        raise LatentworksError(
            f"--size is a multiple of {multiple}, which {strides} strides of 2 divide. "
            f"Received: {'x'.join(map(str, sides))}. Take {cure}."
        )
