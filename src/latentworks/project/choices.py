"""Params that fit images: the choices, and the reason for each.

Numbers come from trainings of Fashion-MNIST (28 x 28 pixels, grey, 60,000 images) and of emoji
(64 x 64 pixels, RGB, 3,786 images), see docs/recipes.md and docs/your-own-images.md.

- `image_size`: sides that strides of 2 divide, the longer one down to 4 pixels or less. Images are
  enlarged by at most a third, and larger ones are shrunk to 64 pixels, since the time of a step is
  in proportion to the number of pixels. Images of about one shape keep it; others become square.
- `fit`: equal images that are a little smaller than `image_size` are padded, which keeps their
  pixels. Images whose shape is nearly that of `image_size` are cropped, so that they have no
  margins. All others are scaled.
- `latent_dim`: 64 for small grey images, as in the recipe images-64d, else 128, as for emoji. At
  most a sixteenth of the numbers of an image, so that something is compressed. 2 for a map.
- `filters`: three strides below 64 pixels, and four from there on.
- `batch_size`, `learning_rate`, `epochs`: about 4,000 steps, as Fashion-MNIST takes in nine epochs
  of batch 128. Few images need small batches for as many steps. In longer trainings, a model
  learns few images by heart, so 60 epochs are the limit.
- `refine`: shares of the loss that was reached. Emoji need a smaller learning rate than
  Fashion-MNIST, or the phase is undone.
- `val_fraction`: below 50 validation images, their loss is too noisy to stop a training by it.
- `sampler`: a mixture for each class needs 100 images of each, and a component 20 images.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

from latentworks.datasets.config import PrepareConfig
from latentworks.params import RawSections
from latentworks.project.profile import Profile
from latentworks.samplers.config import SamplerConfig

SIZES = (8, 16, 32, 64)  # of the longer side, without --size
LARGER = 4 / 3  # the largest image_size, as a multiple of the longer side of the images
CUT = 1 / 8  # of an image, at most, that `crop` leaves out
FOUR_STRIDES = 64  # pixels, from which four strides of 2 are taken
FILTERS = (64, 128, 256, 256)
SMALL_GREY = 32  # pixels, up to which grey images get fewer latents
NUMBERS_PER_LATENT = 16  # of an image
MANY = 10_000  # training images, from which batches are large
STEPS, EPOCHS = 4000, (10, 60)
VAL_FRACTION = 0.02
FEW_VALIDATION, AIMED = 50, 65  # validation images: aim higher, since images are split by chance
MUCH = 0.5  # of the images, for the validation
Size = int | tuple[int, int]  # pixels: of the longer side, or height and width
LABELLED = 100  # images of the smallest class, for a sampler of classes
PER_COMPONENT = 20  # images
SAMPLES = 10_000
SAMPLES_PER_IMAGE = 10
MAX_NAME = 60  # characters


def params_for(
    profile: Profile, committed: RawSections, *, size: Size | None = None, is_map: bool = False
) -> RawSections:
    """Return the sections of params.yaml that fit the images of a profile.

    `committed` has valid sections, whose params stay if the images do not decide them. `size` is
    the longer side of `image_size`, or its height and width. A map has 2 latents.
    """
    sides = size if isinstance(size, tuple) else _sides(profile, size or _longer(profile.side))
    channels = 3 if profile.has_colour else 1
    latent_dim = 2 if is_map else _latent_dim(sides, channels)
    prepare = _prepare(profile, sides, channels, committed["prepare"])
    num_train = expected_splits(profile, prepare)["train"]
    return {
        "dataset": {"kind": profile.kind, "path": profile.path},
        "prepare": prepare,
        "model": {
            "kind": "autoencoder",
            "latent_dim": latent_dim,
            "architecture": "fast",
            "filters": list(FILTERS[: num_strides(max(sides))]),
            "loss": "mean_squared_error",
            "latent_l2": 0.0,
            "latent_noise": 0.0,
        },
        "train": _train(num_train, profile.has_colour, is_map, committed["train"]),
        "prior": {"kind": "none"},
        "sample": {
            "sampler": _sampler(profile, num_train),
            "num_images": min(SAMPLES, SAMPLES_PER_IMAGE * profile.num_images),
        },
        "promotion": {
            **committed["promotion"],
            "model_name": f"{_name(profile.name)}-{latent_dim}d",
        },
    }


def comments_on(sections: RawSections) -> dict[str, str]:
    """Comments for params.yaml, in place of those that are about other values."""
    sides = sides_of(sections["prepare"])
    each = "pixels per side" if sides[0] == sides[1] else "height and width in pixels"
    sampler = sections["sample"]["sampler"]["kind"]
    configs = get_args(get_args(SamplerConfig)[0])
    kinds = [get_args(config.model_fields["kind"].annotation)[0] for config in configs]
    return {
        "dataset.kind": "docs/your-own-images.md lists the kinds",
        "dataset.path": "your own images, which are only read",
        "prepare.image_size": f"{each}, which {num_strides(max(sides))} strides of 2 divide",
        "model.latent_dim": "2 can be drawn as a map; more reconstruct far better",
        "model.loss": "or binary_crossentropy",
        "train.epochs": "at most: the training stops early if val_loss does not fall any more",
        "prior.kind": "or flow, transformer, lstm: networks from which the sampler `learned` draws",
        "sample.sampler": f"or {', '.join(kind for kind in kinds if kind != sampler)}",
    }


def sides_of(prepare: Mapping[str, Any]) -> tuple[int, int]:
    """The height and width of the images of a section `prepare`."""
    height, width, _ = PrepareConfig.model_validate(prepare).image_shape
    return height, width


def num_strides(longer: int) -> int:
    """The number of strides for images whose longer side has `longer` pixels."""
    return 4 if longer >= FOUR_STRIDES else 3


def expected_splits(profile: Profile, prepare: Mapping[str, Any]) -> dict[str, int]:
    """Estimate the numbers of images for train, val and test, which `prepare` splits by chance."""
    own = profile.splits
    unsplit, train = own.get(None, 0), own.get("train", 0)
    of_test = prepare["test_fraction"] * (unsplit + (0 if own.get("test") else train))
    from_pool = unsplit + train - of_test
    of_val = prepare["val_fraction"] * (0 if own.get("val") else from_pool)
    return {
        "train": round(from_pool - of_val),
        "val": round(own.get("val", 0) + of_val),
        "test": round(own.get("test", 0) + of_test),
    }


def _prepare(
    profile: Profile, sides: tuple[int, int], channels: int, committed: Mapping[str, Any]
) -> dict[str, Any]:
    chosen = profile.value_range
    return {
        **committed,
        "image_size": sides[0] if sides[0] == sides[1] else [*sides],
        "channels": channels,
        "fit": _fit(profile, sides),
        "background": profile.background,
        "value_range": chosen if isinstance(chosen, str) else list(chosen),
        "val_fraction": _val_fraction(profile, committed["test_fraction"]),
    }


def _longer(side: int) -> int:
    fitting = [size for size in SIZES if size <= LARGER * side]
    return max(fitting, default=SIZES[0])


def _sides(profile: Profile, longer: int) -> tuple[int, int]:
    """Return height and width, about in the shape of the images, the longer of which is given."""
    aspect, multiple = profile.aspect or 1.0, 2 ** num_strides(longer)
    share = min(aspect, 1 / aspect)
    shorter = max(multiple, round(share * longer / multiple) * multiple)
    return (longer, shorter) if aspect > 1 else (shorter, longer)


def _fit(profile: Profile, sides: tuple[int, int]) -> str:
    if profile.aspect is None:
        return "resize"
    own = [round(profile.side * min(1, share)) for share in (profile.aspect, 1 / profile.aspect)]
    scales = [frame / max(1, side) for frame, side in zip(sides, own, strict=True)]
    if profile.are_equal and min(scales) >= 1 < max(scales) <= LARGER:
        return "pad"
    return "crop" if 0 < 1 - min(scales) / max(scales) <= CUT else "resize"


def _latent_dim(sides: tuple[int, int], channels: int) -> int:
    wanted = 64 if channels == 1 and max(sides) <= SMALL_GREY else 128
    return min(wanted, math.prod(sides) * channels // NUMBERS_PER_LATENT)


def _val_fraction(profile: Profile, test_fraction: float) -> float:
    """The share for validation; of very few images, a fifth."""
    if profile.splits.get("val"):
        return VAL_FRACTION
    num = expected_splits(profile, {"test_fraction": test_fraction, "val_fraction": 0})["train"]
    if num * MUCH < FEW_VALIDATION:
        return 0.2
    return min(MUCH, max(VAL_FRACTION, math.ceil(100 * AIMED / num) / 100))


def _train(
    num_images: int, has_colour: bool, is_map: bool, committed: Mapping[str, Any]
) -> dict[str, Any]:
    batch_size, learning_rate = (128, 0.002) if num_images >= MANY else (32, 0.0015)
    num_steps = math.ceil(max(1, num_images) / batch_size)  # of an epoch
    low, high = EPOCHS
    train = {
        "epochs": max(low, min(high, round(STEPS / num_steps))),
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": 0.05,
        "schedule": "cosine",
        "patience": committed["patience"],
        "num_threads": committed["num_threads"],
    }
    refine = {
        "steps": 250,
        "learning_rate": 0.0003 if has_colour else 0.0007,
        "energy": 0.5,
        "moments": 0.25,
        "features": 0.3,
    }
    return train if is_map else {**train, "refine": refine}  # a map has no detail to refine


def _sampler(profile: Profile, num_train: int) -> dict[str, Any]:
    pool = sum(profile.classes.values())
    share = num_train / max(1, profile.splits.get(None, 0) + profile.splits.get("train", 0))
    smallest = int(min(profile.classes.values(), default=0) * share)
    if pool and smallest >= LABELLED:
        candidates, num, kind = [5, 10, 20], smallest, "class_gaussian_mixture"
    else:
        candidates, num, kind = [10, 20, 50], num_train, "gaussian_mixture"
    fitting = [each for each in candidates if each * PER_COMPONENT <= num]
    single = fitting[0] if fitting else max(1, num // PER_COMPONENT)
    return {"kind": kind, "num_components": fitting if len(fitting) > 1 else single}


def _name(text: str) -> str:
    """Return a name for models: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")[:MAX_NAME] or "images"
