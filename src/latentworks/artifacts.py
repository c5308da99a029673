"""The files between stages: one `write_x` and one `read_x` for every arrow in dvc.yaml.

A file or folder is written under a temporary name, flushed to disk and renamed, so that it
appears whole or not at all. None holds a time, a host or a path: equal inputs give equal bytes.
"""

import csv
import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy_format
from pydantic import BaseModel, TypeAdapter

from latentworks import disk
from latentworks.errors import DataError, UnsafeModel
from latentworks.model_files import require_ours

# Empty where there is none: val_… without validation, kl_loss but for variational models.
CURVES = ("epoch", "loss", "val_loss", "kl_loss", "val_kl_loss", "learning_rate")
NPY_HEADER_BYTES = 128  # of a version 1.0 header whose shape has up to four axes


# --- images ------------------------------------------------------------------------------------


class ImageWriter:
    """Writes images one after the other to a `.npy` file whose length is known only at the end."""

    def __init__(self, path: Path, image_shape: tuple[int, int, int]) -> None:
        self.image_shape = image_shape
        self.num_images = 0
        self._file = path.open("wb")
        self._file.write(bytes(NPY_HEADER_BYTES))

    def __enter__(self) -> "ImageWriter":
        return self

    def append(self, images: np.ndarray) -> None:
        """Add images: uint8 [N, H, W, C], or a single one [H, W, C]."""
        images = images.reshape(-1, *self.image_shape)
        self._file.write(np.ascontiguousarray(images, dtype=np.uint8).data)
        self.num_images += len(images)

    def __exit__(self, *_: object) -> None:
        shape = (self.num_images, *self.image_shape)
        header = io.BytesIO()
        npy_format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        assert len(header.getvalue()) == NPY_HEADER_BYTES
        self._file.seek(0)
        self._file.write(header.getvalue())
        self._file.close()


@dataclass(frozen=True)
class Prepared:
    """The folder that `prepare` writes."""

    images: np.ndarray  # uint8 [N, H, W, C], a memory map: only what is touched is read
    index: pd.DataFrame  # a row for each image: id, split, label, name, height, width
    profile: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @property
    def class_names(self) -> list[str]:
        """Empty where the images have no labels."""
        return list(self.profile["class_names"])

    def rows(self, split: str) -> np.ndarray:
        """Where the images of `split` stand in `images`: int64 [n], ascending."""
        return np.flatnonzero((self.index["split"] == split).to_numpy())

    def labels(self, rows: np.ndarray) -> np.ndarray | None:
        """int64 [n], -1 where an image has none; None where no image of the data has any."""
        if not self.class_names:
            return None
        return self.index["label"].iloc[rows].fillna(-1).to_numpy(dtype=np.int64)


def write_index(path: Path, index: pd.DataFrame) -> None:
    index.to_parquet(path, index=False)


def read_prepared(folder: Path) -> Prepared:
    """Open what `prepare` wrote."""
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    index = pd.read_parquet(folder / "index.parquet")
    if len(images) != len(index):
        raise DataError(
            f"{folder}: images and index differ in length. Received: {len(images)} images, "
            f"{len(index)} rows. Run `dvc repro --force prepare`."
        )
    return Prepared(images, index, disk.read_json(folder / "profile.json"))


# --- models and samplers -----------------------------------------------------------------------


class Saveable(Protocol):
    """What a Keras model offers."""

    def save(self, filepath: str | Path) -> None: ...


def write_model(folder: Path, model: Saveable, config: BaseModel) -> None:
    """`model.keras` and the config that knows how to load it."""
    unsettled = folder / "dated.keras"
    model.save(unsettled)
    _write_without_dates(unsettled, folder / "model.keras")
    unsettled.unlink()
    disk.write_json(folder / "config.json", config.model_dump(mode="json"))


def _write_without_dates(source: Path, target: Path) -> None:
    """Copy a `.keras` file, a zip, without the dates that make two equal models differ."""
    with zipfile.ZipFile(source) as dated, zipfile.ZipFile(target, "w") as dateless:
        for name in sorted(dated.namelist()):
            content = dated.read(name)
            if name == "metadata.json":
                metadata = json.loads(content)
                metadata.pop("date_saved", None)
                content = json.dumps(metadata).encode()
            dateless.writestr(zipfile.ZipInfo(name), content)


def read_model(folder: Path, schema: Any) -> Any:
    """The model in `folder`; `schema` is the union of model configs.

    Raises UnsafeModel where a file is not one of ours: before Keras opens it, as far as it shows.
    """
    require_ours(folder / "model.keras")
    try:
        config = TypeAdapter(schema).validate_json((folder / "config.json").read_bytes())
        return config.load(folder / "model.keras")
    except (OSError, MemoryError, ImportError):
        raise
    except Exception as error:  # what Keras raises for values that our classes cannot have
        raise UnsafeModel(
            f"{folder}: model.keras and config.json do not describe a model of ours "
            f"({type(error).__name__}). Bring back what `train` wrote: "
            f"`dvc checkout --force {folder}`."
        ) from error


class Sampler(Protocol):
    """What every sampler offers."""

    def sample(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `num` latents: float32 [num, D]."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that make it, by name."""
        ...


def write_sampler(folder: Path, sampler: Sampler, config: BaseModel) -> None:
    """`sampler.npz` and the config that knows how to load it."""
    disk.write_arrays(folder / "sampler.npz", sampler.state())
    disk.write_json(folder / "config.json", config.model_dump(mode="json"))


def read_sampler(folder: Path, schema: Any) -> Sampler:
    """The sampler in `folder`; `schema` is the union of sampler configs."""
    config = TypeAdapter(schema).validate_json((folder / "config.json").read_bytes())
    sampler: Sampler = config.load(disk.read_arrays(folder / "sampler.npz"))
    return sampler


@dataclass(frozen=True)
class Features:
    """The folder that `features` writes: the network in whose features images are compared."""

    kind: str  # shipped, trained, random
    class_names: list[str]  # that it tells apart; empty where there are none
    accuracy: float | None  # of that, on test images
    weights: dict[str, np.ndarray]  # by path


def write_features(folder: Path, features: Features) -> None:
    disk.write_arrays(folder / "weights.npz", features.weights)
    told = {name: value for name, value in vars(features).items() if name != "weights"}
    disk.write_json(folder / "features.json", told)


def read_features(folder: Path) -> Features:
    told = disk.read_json(folder / "features.json")
    return Features(**told, weights=disk.read_arrays(folder / "weights.npz"))


# --- curves, latents, samples, pictures ----------------------------------------------------------


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


def write_latents(path: Path, frames: Iterable[pd.DataFrame]) -> int:
    """Parquet with the columns id, split, label, z0 … zk. Returns the number of rows."""
    num_rows = 0
    writer = None
    with disk.replacing(path) as temporary:
        for frame in frames:
            table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
            num_rows += table.num_rows
        if writer is None:
            raise DataError("no image to encode. Expected at least one.")
        writer.close()
    return num_rows


@dataclass(frozen=True)
class Latents:
    """Some rows of the latents table."""

    ids: np.ndarray  # str [N]
    z: np.ndarray  # float32 [N, D]
    labels: np.ndarray | None  # int64 [N], -1 where an image has none; None without any labels


def read_latents(path: Path, split: str, limit: int | None = None) -> Latents:
    """The latents of one split, in the order of the images.

    With `limit`, at most so many. Ids are hashes of the images, so that those with the smallest
    ids are a random choice, and the same one whenever the data is the same.
    """
    filters = [("split", "==", split)]
    if limit is not None:
        ids = pd.read_parquet(path, columns=["id"], filters=filters)["id"]
        if len(ids) > limit:  # ids are unique, since duplicates were dropped
            filters.append(("id", "<=", sorted(ids)[limit - 1]))
    frame = pd.read_parquet(path, filters=filters)
    z = frame.filter(regex=r"^z\d+$").to_numpy(dtype=np.float32)
    labels = None
    if "label" in frame:
        labels = frame["label"].fillna(-1).to_numpy(dtype=np.int64)
    return Latents(frame["id"].to_numpy(dtype=str), z, labels)


@dataclass(frozen=True)
class Samples:
    """The folder that `sample` writes."""

    images: np.ndarray  # uint8 [N, H, W, C], a memory map
    latents: np.ndarray  # float32 [N, D]
    labels: np.ndarray | None  # int64 [N], the classes asked for; None where none can be


def write_sample_latents(folder: Path, latents: np.ndarray, labels: np.ndarray | None) -> None:
    np.save(folder / "latents.npy", latents.astype(np.float32), allow_pickle=False)
    if labels is not None:
        np.save(folder / "labels.npy", labels.astype(np.int64), allow_pickle=False)


def read_samples(folder: Path) -> Samples:
    labels = folder / "labels.npy"
    return Samples(
        np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        np.load(folder / "latents.npy", allow_pickle=False),
        np.load(labels, allow_pickle=False) if labels.exists() else None,
    )


class Figure(Protocol):
    """What a Matplotlib figure offers."""

    def savefig(self, fname: Path, **options: Any) -> None: ...


def write_page(path: Path, text: str) -> None:
    """An HTML file."""
    with disk.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_figure(path: Path, figure: Figure) -> None:
    """A PNG without the name and version of the program that drew it."""
    figure.savefig(path, format="png", metadata={"Software": None})
