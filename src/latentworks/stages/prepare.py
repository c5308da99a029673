"""Bring every image to one shape, drop duplicates, and split into train, val and test.

The out is the folder `prepared`: images.npy, index.parquet with a row for each image, and
profile.json.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tqdm import tqdm

from latentworks.artifacts.images import ImageWriter, write_index
from latentworks.config import Config
from latentworks.datasets.catalog import Catalog, IndexRow
from latentworks.datasets.config import DatasetConfig, PrepareConfig
from latentworks.datasets.decoding import decoded
from latentworks.datasets.split import choose_split, content_id
from latentworks.datasets.value_range import value_ranges
from latentworks.errors import DataError
from latentworks.params import load
from latentworks.preprocess import prepare_image
from latentworks.repository import timings
from latentworks.system.disk import file_digest, read_json, replacing, write_json

SOURCE = "source.json"


class Params(Config):
    dataset: DatasetConfig
    prepare: PrepareConfig


def main(raw: Path, prepared: Path) -> None:
    """Fill `prepared` from dataset.path of params.yaml. Raises DataError."""
    params = load(Params)
    require_fetched(raw, params.dataset.kind)
    source = params.dataset.load()
    say(source.notes)
    config = params.prepare
    fractions = (config.val_fraction, config.test_fraction)

    ranges, remarks = value_ranges(source, config.value_range)
    say(remarks)
    catalog = Catalog(config.image_shape, source.class_names)
    transform = partial(
        prepare_image,
        shape=config.image_shape,
        fit=config.fit,
        background=config.background,
        ranges=ranges,
    )
    with replacing(prepared) as folder:
        folder.mkdir()
        with ImageWriter(folder / "images.npy", config.image_shape) as images:
            stream = tqdm(decoded(source, transform), total=source.num_items, disable=None)
            for item, result in stream:
                if result.image is None:
                    catalog.reject(item.name, result.reject)
                    continue
                if result.is_first:
                    catalog.first_frames.append(item.name)
                image_id = content_id(result.image)
                split = choose_split(item.split, image_id, *fractions, source.splits)
                row = IndexRow(split, item.label, item.name, result.height, result.width)
                if catalog.add(image_id, row, result.image):
                    images.append(result.image)
        say(catalog.remarks())
        catalog.check(config.min_images, config.max_rejects)

        profile = {
            **catalog.profile(),
            "fit": config.fit,  # with these three, a served model prepares images
            "background": config.background,
            **({"value_range": ranges} if ranges else {}),  # of dtypes; all others are read in full
            "source": file_digest(raw / SOURCE),
        }
        write_index(folder / "index.parquet", catalog.index())
        write_json(folder / "profile.json", profile)

    splits = ", ".join(f"{part['images']} {name}" for name, part in profile["splits"].items())
    num_rejects = sum(reject["images"] for reject in profile["rejects"].values())
    print(
        f"prepare: {profile['num_images']} images ({splits}); "
        f"left out {profile['duplicates']} duplicates and {num_rejects} rejects"
    )
    timings.write("prepare", profile["fingerprint"])


def say(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"prepare: {line}", flush=True)


def require_fetched(raw: Path, kind: str) -> None:
    """Raise DataError if stage fetch did not fill `raw` for this kind of dataset."""
    try:
        fetched = read_json(raw / SOURCE)["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        fetched = None
    if fetched != kind:
        raise DataError(f"{raw}: not fetched for dataset.kind {kind}. Run `dvc repro fetch`.")
