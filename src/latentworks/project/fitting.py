"""params.yaml of a checkout, fitted to the images of its user."""

import os
from dataclasses import dataclass
from pathlib import Path

from latentworks import params, sections
from latentworks.errors import LatentworksError
from latentworks.params import recipes
from latentworks.project.choices import comments_on, expected_splits, num_strides, params_for
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
    size: int | None = None,
    is_map: bool = False,
    committed: str | None = None,
) -> Fitted:
    """Choose params for the images at a path, and write nothing.

    `committed` is the text of params.yaml in git, by default in the checkout `root`. Raises
    ParamsError for uncommitted edits in the sections that would be replaced, and DataError for
    images that cannot be used.
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
    image_shape = (prepare.image_size, prepare.image_size, prepare.channels)
    seconds = training_seconds(fitted.params.model, train, image_shape, fitted.num_train)
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


def _check_size(size: int | None) -> None:
    if size is not None and size % 2 ** num_strides(size):
        multiple = 2 ** num_strides(size)
        raise LatentworksError(
            f"--size is a multiple of {multiple}, which {num_strides(size)} strides of 2 divide. "
            f"Received: {size}. Take {max(multiple, round(size / multiple) * multiple)}."
        )
