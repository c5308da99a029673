"""Advice before a training: params that do not fit the prepared images, found within a second."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentworks import params
from latentworks.config import Config, TrainingConfig
from latentworks.datasets.config import PrepareConfig
from latentworks.errors import ParamsError
from latentworks.models.config import CodesConfig, ModelConfig, TrainConfig
from latentworks.repository import dag
from latentworks.samplers.config import ClassGaussianMixtureConfig, SampleConfig
from latentworks.system import disk
from latentworks.system.console import few

STAGE = "train"  # of dvc.yaml: the advice is given before it
LONG = 1 / 3  # of all steps, for a warm-up
FEW = 50  # validation images: with fewer, their loss is noise
MUCH = 0.5  # of the images, for the validation
SHOWN = 5  # names of classes
FLAT = 3.0  # standard deviation of all pixels, 0 to 255, of nearly constant images


class Sections(Config):
    """The sections of params.yaml that the advice is about."""

    prepare: PrepareConfig
    model: ModelConfig
    train: TrainConfig
    sample: SampleConfig


def advice(root: Path) -> list[str]:
    """Return a sentence for each param of a checkout that does not fit its prepared images.

    Returns an empty list before stage `prepare` has run with these params, or if params.yaml has
    faults.
    """
    with suppress(OSError, ValueError, KeyError, ParamsError):
        (prepared,) = dag.outs_of(dag.stages(root)["prepare"])
        profile = disk.read_json(root / prepared / "profile.json")
        made_from = dag.locked(root)["prepare"]["params"][str(params.PARAMS)]
        if made_from.items() <= params.read(root / params.PARAMS).items():
            return [*of(params.load(Sections, root / params.PARAMS), profile)]
    return []


def before(root: Path, stage: str) -> list[str]:
    """Return the advice before `STAGE` runs, and none before the other stages."""
    return advice(root) if stage == STAGE else []


def of(found: Sections, profile: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each param that does not fit a profile, as profile.json has it."""
    splits = profile["splits"]
    num_images = splits["train"]["images"]
    yield from _of_batches(found.train, num_images)
    yield from _of_warm_up(found.train, num_images)
    yield from _of_validation(found.prepare, num_images, splits.get("val", {}).get("images", 0))
    if profile["brightness"]["std"] < FLAT:
        yield (
            f"The images are nearly constant: their pixels are {profile['brightness']['mean']:.1f} "
            f"± {profile['brightness']['std']:.1f} of 255. Look at reports/figures/data.png, and "
            "at prepare.background and prepare.channels."
        )
    num_pixels = math.prod(profile["image_shape"])
    if not isinstance(found.model, CodesConfig) and found.model.latent_dim >= num_pixels:
        yield (
            f"model.latent_dim is {found.model.latent_dim}, and an image has {num_pixels} numbers: "
            "nothing is compressed. Lower model.latent_dim, such as to "
            f"{max(2, num_pixels // 16)}."
        )
    yield from _of_classes(found.sample, splits["train"].get("classes", {}))


def _of_batches(train: TrainConfig, num_images: int) -> Iterator[str]:
    if train.batch_size > num_images:
        yield (
            f"train.batch_size is {train.batch_size}, and there are {num_images} training images: "
            "an epoch is one step. Lower train.batch_size, such as to "
            f"{max(1, num_images // 16)}."
        )


def _of_warm_up(train: TrainingConfig, num_images: int) -> Iterator[str]:
    num_steps = train.epochs * math.ceil(num_images / train.batch_size)
    warmup = train.num_warmup_steps(num_steps)
    if warmup > LONG * num_steps:
        name = "warmup" if train.warmup_steps is None else "warmup_steps"
        yield (
            f"The warm-up needs {warmup} steps, and the training has {num_steps}: it is slower "
            f"than train.learning_rate for long. Replace train.{name} by `warmup: 0.05`, or raise "
            "train.epochs."
        )
    elif train.warmup_steps:
        yield (
            "train.warmup_steps counts steps, so it fits one number of images. Replace it by "
            f"`warmup: {warmup / num_steps:.2g}`, a share of all steps."
        )


def _of_validation(prepare: PrepareConfig, num_train: int, num_val: int) -> Iterator[str]:
    share = math.ceil(100 * FEW / (num_train + num_val)) / 100
    if 0 < num_val < FEW and share <= MUCH:
        cure = f"Raise prepare.val_fraction to {share}, or set it to 0."
        if share <= prepare.val_fraction:  # the data has a validation split of its own
            cure = "Add validation images, or move them to the training images."
        yield (
            f"There are {num_val} validation images: their loss is too noisy to stop the training "
            f"by it. {cure}"
        )


def _of_classes(sample: SampleConfig, sizes: dict[str, int]) -> Iterator[str]:
    sampler = sample.sampler
    if not isinstance(sampler, ClassGaussianMixtureConfig):
        return
    given = sampler.num_components
    least = given if isinstance(given, int) else min(given)
    small = [name for name, size in sizes.items() if 0 < size < least]
    if small:
        yield (
            f"The sampler fits {least} components to each class. Fewer training images are in: "
            f"{few(small, SHOWN)}. Stage sample will fail. Lower sample.sampler.num_components, or "
            "add images."
        )
