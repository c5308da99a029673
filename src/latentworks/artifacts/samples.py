"""A fitted sampler and its samples: the folders that the stage `sample` writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter

from latentworks.samplers.drawing import Sampler
from latentworks.system import disk


def write_sampler(folder: Path, sampler: Sampler, config: BaseModel) -> None:
    """Write sampler.npz, and config.json, from which `read_sampler` loads it."""
    disk.write_arrays(folder / "sampler.npz", sampler.state())
    disk.write_json(folder / "config.json", config.model_dump(mode="json"))


def read_sampler(folder: Path, schema: Any) -> Sampler:
    """Load the sampler in `folder`. `schema` is the union of sampler configs."""
    config = TypeAdapter(schema).validate_json((folder / "config.json").read_bytes())
    sampler: Sampler = config.load(disk.read_arrays(folder / "sampler.npz"))
    return sampler


@dataclass(frozen=True)
class Samples:
    """The content of the folder of samples that `sample` writes."""

    images: np.ndarray  # uint8 [N, H, W, C], a memory map
    latents: np.ndarray  # float32 [N, D]
    labels: np.ndarray | None  # int64 [N], the requested classes; None without classes


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
