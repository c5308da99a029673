"""All sections of params.yaml, and the rules between them."""

import difflib
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, get_args

from pydantic import Field

from latentworks import params
from latentworks.config import Config, Seed
from latentworks.datasets.config import BUILT_IN, DatasetConfig, PrepareConfig
from latentworks.errors import ParamsError
from latentworks.models.config import ModelConfig, TrainConfig
from latentworks.monitoring.drift import DriftConfig
from latentworks.params import recipes
from latentworks.priors.config import NoPriorConfig, PriorConfig
from latentworks.promotion.decision import PromotionConfig
from latentworks.repository import dag
from latentworks.samplers.config import SampleConfig, SamplerConfig

KINDS = {  # the sections with a kind, and their configs
    "dataset": DatasetConfig,
    "model": ModelConfig,
    "prior": PriorConfig,
    "sample.sampler": SamplerConfig,
}

MAX_COMPARED = 1000  # names of files, with one that is missing


class Params(Config):
    """All sections of params.yaml."""

    seed: Seed
    dataset: DatasetConfig
    prepare: PrepareConfig
    model: ModelConfig
    train: TrainConfig
    prior: Annotated[PriorConfig, Field(description="Add `prior: {kind: none}` to fit the sampler")]
    sample: SampleConfig
    promotion: PromotionConfig
    drift: DriftConfig


def checked(root: Path) -> Params:
    """Read params.yaml. Raises ParamsError, also for sections that contradict each other."""
    return check(params.read(root / params.PARAMS), root)


def check(sections: params.RawSections, root: Path) -> Params:
    """Check all sections, as `checked` does; `root` has the recipes that errors name."""
    try:
        found = params.parse(Params, sections, str(params.PARAMS))
    except ParamsError as error:
        cures = _keys_of_kinds(sections, root)
        raise ParamsError("\n".join([str(error), *cures])) from None
    kind, sampler = found.prior.kind, found.sample.sampler.kind
    has_prior, is_learned = not isinstance(found.prior, NoPriorConfig), sampler == "learned"
    fault = None
    if is_learned and not has_prior:
        fault = (
            "sample.sampler.kind learned needs a prior. Received: prior.kind none. Take another "
            "sampler, or a prior of docs/recipes.md"
        )
    elif has_prior and not is_learned:
        fault = (
            f"prior.kind {kind} is of use to the sampler learned alone. Received: "
            f"sample.sampler.kind {sampler}. Set prior.kind to none, or take the sampler learned "
            "of docs/recipes.md"
        )
    elif kind in ("transformer", "lstm") and found.model.kind != "codes":
        fault = (
            f"prior.kind {kind} needs codes. Received: model.kind {found.model.kind}. Take the "
            "model codes of docs/recipes.md, or the prior flow"
        )
    if fault:
        raise ParamsError(f"{params.PARAMS}: {fault}.")
    return found


def require_images(root: Path, dataset: DatasetConfig) -> None:
    """Raise ParamsError if there is nothing at dataset.path, or DataError if it is of no use.

    Images that stage fetch downloads need not be there yet.
    """
    path = root / dataset.path
    if isinstance(dataset, BUILT_IN):
        return
    if not os.path.exists(path):
        raise ParamsError(
            f"{params.PARAMS}: dataset.path names no file or folder. Received: {dataset.path!r}. "
            f"{_cure_of_missing(root, path)}"
        )
    if dataset.kind == "image_folder":
        from latentworks.datasets.image_folder import require_folder  # imports Pillow

        require_folder(path)


def _cure_of_missing(root: Path, path: Path) -> str:
    """Name the file that DVC can fetch, or the path with the most similar name."""
    path = Path(os.path.normpath(path))
    for place in (path, *path.parents):
        if os.path.isfile(f"{place}.dvc"):
            return f"Run `dvc pull {os.path.relpath(f'{place}.dvc', root)}`."
    folder = next(place for place in path.parents if os.path.isdir(place))
    name = path.relative_to(folder).parts[0]
    with suppress(OSError), os.scandir(folder) as entries:
        names = [entry.name for entry in islice(entries, MAX_COMPARED)]
        for near in difflib.get_close_matches(name, names, n=1):
            meant = folder / near / path.relative_to(folder / name)
            if os.path.exists(meant):
                return f"Did you mean {os.path.relpath(meant, root)}?"
    return "Correct it, or put the images there."


def _keys_of_kinds(sections: params.RawSections, root: Path) -> Iterator[str]:
    """Yield all keys of a `kind`, for each section with a kind that has other keys."""
    for name, union in KINDS.items():
        section: object = sections
        for part in name.split("."):
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            continue
        for config in get_args(get_args(union)[0]):
            fields = config.model_fields
            needed = {key for key in fields if fields[key].is_required()}
            is_chosen = section.get("kind") in get_args(fields["kind"].annotation)
            if is_chosen and not needed <= section.keys() <= fields.keys():
                keys = ", ".join(key for key in fields if key != "kind")
                recipe = recipes.with_kind(root, name, section["kind"])
                example = f"; recipes/{recipe}.yaml has an example" if recipe else ""
                yield (
                    f"{params.PARAMS}: {name}.kind {section['kind']} takes "
                    f"{f'the keys {keys}' if keys else 'no other key'}{example}."
                )


def refuse_images_among_outputs(root: Path, dataset: DatasetConfig) -> None:
    """Raise ParamsError if dataset.path lies in an out, or contains one.

    A stage replaces its outs, and DVC refuses a dep that contains an out.
    """
    path = (root / dataset.path).resolve()
    fetched = isinstance(dataset, BUILT_IN)
    for name, stage in dag.stages(root).items():
        for entry in dag.paths([*stage.get("outs", ()), *stage.get("metrics", ())]):
            out = (root / entry).resolve()
            inside = path.is_relative_to(out) and not (fetched and name == "fetch")
            if inside or (path != out and out.is_relative_to(path)):
                raise ParamsError(
                    f"{params.PARAMS}: dataset.path {'lies in' if inside else 'holds'} {entry}, "
                    f"which stage {name} writes. Expected a path that no stage writes. "
                    f"Received: {dataset.path!r}."
                )
