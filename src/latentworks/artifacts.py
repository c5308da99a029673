"""The files between stages: one `write_x` and one `read_x` for every arrow in dvc.yaml.

A file or folder is written under a temporary name, flushed to disk and renamed, so that it
appears whole or not at all. None holds a time, a host or a path: equal inputs give equal bytes.
"""

import csv
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy_format
from pydantic import BaseModel, TypeAdapter

from latentworks.errors import DataError

CURVES = ("epoch", "loss", "val_loss", "learning_rate")  # val_loss is empty without validation
NPY_HEADER_BYTES = 128  # of a version 1.0 header whose shape has up to four axes


# --- whole or not at all -----------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` for a file or folder; it becomes `path` when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    former = path.with_name(f".{path.name}.former")
    _remove(temporary)
    try:
        yield temporary
        for file in [temporary, *(temporary.rglob("*") if temporary.is_dir() else [])]:
            flush_to_disk(file)
        if path.is_dir() and not path.is_symlink():  # a folder cannot be renamed over another
            _remove(former)
            path.rename(former)
            try:
                os.replace(temporary, path)
            except OSError:
                former.rename(path)
                raise
        else:
            os.replace(temporary, path)
        flush_to_disk(path.parent)
    finally:
        _remove(temporary)
        _remove(former)


def flush_to_disk(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


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
    return Prepared(images, index, read_json(folder / "profile.json"))


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
    write_json(folder / "config.json", config.model_dump(mode="json"))


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
    """The model in `folder`; `schema` is the union of model configs."""
    config = TypeAdapter(schema).validate_json((folder / "config.json").read_bytes())
    return config.load(folder / "model.keras")


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
    write_arrays(folder / "sampler.npz", sampler.state())
    write_json(folder / "config.json", config.model_dump(mode="json"))


def read_sampler(folder: Path, schema: Any) -> Sampler:
    """The sampler in `folder`; `schema` is the union of sampler configs."""
    config = TypeAdapter(schema).validate_json((folder / "config.json").read_bytes())
    sampler: Sampler = config.load(read_arrays(folder / "sampler.npz"))
    return sampler


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An `.npz` file without the dates that NumPy itself would put in."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


# --- curves, latents, samples, pictures ----------------------------------------------------------


def write_curves(path: Path, epochs: list[dict[str, float]]) -> None:
    """A CSV with a row for each epoch; every number as short as it can be and still be exact.

    The columns are always the same, so that curves with and without validation can be compared.
    """
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
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
    with replacing(path) as temporary:
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


def write_sample_latents(folder: Path, latents: np.ndarray) -> None:
    np.save(folder / "latents.npy", latents.astype(np.float32), allow_pickle=False)


def read_samples(folder: Path) -> Samples:
    return Samples(
        np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False),
        np.load(folder / "latents.npy", allow_pickle=False),
    )


class Figure(Protocol):
    """What a Matplotlib figure offers."""

    def savefig(self, fname: Path, **options: Any) -> None: ...


def write_figure(path: Path, figure: Figure) -> None:
    """A PNG without the name and version of the program that drew it."""
    figure.savefig(path, format="png", metadata={"Software": None})
