"""A report on the images of a user: each finding, and the params that were chosen by it."""

from collections.abc import Iterator

from latentworks import advice, params
from latentworks.datasets.layout import listed
from latentworks.params import RawSections
from latentworks.project.choices import LABELLED, expected_splits, sides_of
from latentworks.project.profile import Profile
from latentworks.system.console import columns

FEW = 1000  # images, of which a model learns many by heart
MAX_CLASSES = 5  # named in a note


def report(profile: Profile, sections: RawSections) -> list[str]:
    """Return a line for each finding, with its params, and lines on how the source was read."""
    rows = [(found, f"{name} {_short(value)}") for found, name, value in _rows(profile, sections)]
    return [*columns(rows), *profile.notes]


def _rows(profile: Profile, sections: RawSections) -> Iterator[tuple[str, str, object]]:
    prepare, train = sections["prepare"], sections["train"]
    formats = f"{' and '.join(profile.formats)} " if profile.formats else ""
    yield f"{profile.num_images:,} {formats}images", "dataset.kind", profile.kind
    sides = f"{profile.smallest} to {profile.largest} pixels, median {profile.side}"
    if profile.smallest == profile.largest:
        sides = f"{profile.side} pixels"
    shape = "" if profile.are_square else " on the longer side"
    if not profile.are_square and profile.aspect:
        shape += f", height {profile.aspect:.2g} of width"
    yield f"{sides}{shape}", "prepare.image_size", f"{prepare['image_size']}, {prepare['fit']}"
    colour = "colour" if profile.has_colour else "grey"
    yield colour, "prepare.channels", prepare["channels"]
    behind = "transparent pixels" if profile.is_transparent else "no transparent pixel"
    yield behind, "prepare.background", prepare["background"]
    if prepare["value_range"] != "auto":
        yield "values of no usual range", "prepare.value_range", prepare["value_range"]
    own = [f"{count:,} {split}" for split, count in profile.splits.items() if split]
    parts = expected_splits(profile, prepare)
    split = f"splits: {', '.join(own)}" if own else "no splits"
    about = ", ".join(f"about {count:,} {name}" for name, count in parts.items())
    yield split, "prepare.val_fraction", f"{prepare['val_fraction']}: {about}"
    steps = f"{train['epochs']} epochs of batch {train['batch_size']}"
    yield f"{parts['train']:,} training images", "train", steps
    model = sections["model"]
    latents = f"{model['latent_dim']} latents, {len(model['filters'])} strides"
    height, width = sides_of(prepare)
    size = f"{width}" if height == width else f"{height} x {width}"
    yield f"{size} pixels, {colour}", "model", latents
    classes = "no labels"
    if sizes := sorted(profile.classes.values()):
        between = f"{sizes[0]:,} to {sizes[-1]:,}" if sizes[0] < sizes[-1] else f"{sizes[0]:,}"
        classes = f"{len(sizes)} classes of {between}"
    sampler = sections["sample"]["sampler"]
    components = f"{sampler['kind']} of {_short(sampler['num_components'])}"
    yield classes, "sample.sampler", components
    yield f"name {profile.name}", "promotion.model_name", sections["promotion"]["model_name"]


def notes(profile: Profile, sections: RawSections) -> list[str]:
    """Return a sentence for each trait of the images that makes a good model unlikely."""
    lines = []
    least = sections["prepare"]["min_images"]
    if profile.num_images < least:
        lines.append(
            f"There are {profile.num_images} images, and stage prepare needs {least}. Add images, "
            "or lower prepare.min_images."
        )
    elif profile.num_images < FEW:
        lines.append(
            f"{profile.num_images} images are few: a model learns many of them by heart. After the "
            "training, look at samples.memorisation."
        )
    most = sections["prepare"].get("max_rejects")
    if most is not None and profile.num_rejected > most * profile.num_looked_at:
        lines.append(
            f"{profile.num_rejected} of {profile.num_looked_at} images looked at cannot be used, "
            f"and stage prepare fails with more than {most:.0%}. Correct them, or raise "
            "prepare.max_rejects."
        )
    tiny = [name for name, num in profile.classes.items() if num < LABELLED]
    if tiny and len(profile.classes) > 1:
        verb = "has" if len(tiny) == 1 else "have"
        lines.append(
            f"{listed(tiny[:MAX_CLASSES])}{' and others' if tiny[MAX_CLASSES:] else ''} {verb} "
            f"fewer than {LABELLED} images: the sampler draws from all classes together. To draw "
            "images of one class, leave out the small ones."
        )
    return [*lines, *advice.of(_of_advice(sections), _prepared(profile, sections))]


def _of_advice(sections: RawSections) -> advice.Sections:
    named = {name: sections[name] for name in advice.Sections.model_fields}
    return params.parse(advice.Sections, named, str(params.PARAMS))


def _prepared(profile: Profile, sections: RawSections) -> dict[str, object]:
    """The part of data/prepared/profile.json that advice reads, as `prepare` would write it."""
    prepare = sections["prepare"]
    parts = expected_splits(profile, prepare)
    share = parts["train"] / max(1, sum(profile.classes.values()))
    return {
        "image_shape": [*sides_of(prepare), prepare["channels"]],
        "brightness": dict(profile.brightness),
        "splits": {
            "train": {
                "images": parts["train"],
                "classes": {name: round(num * share) for name, num in profile.classes.items()},
            },
            "val": {"images": parts["val"]},
        },
    }


def _short(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
