"""Encode every image to its latents."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from latentworks.artifacts.images import Prepared, read_prepared
from latentworks.artifacts.latents import columns, write_latents
from latentworks.artifacts.model import read_model
from latentworks.engine import inference
from latentworks.models.config import ModelConfig
from latentworks.repository.result import Result
from latentworks.tracking import outbox


def main(prepared: Path, model: Path, latents: Path) -> None:
    inference.configure()
    data = read_prepared(prepared)
    network = read_model(model, ModelConfig)

    rows = np.arange(len(data.images))
    batches = inference.encode(network, data.images, rows, data.labels(rows))

    num_images = write_latents(latents, _tables(data, batches, network.levels), network.levels)
    print(f"encode: {num_images} images to {network.latent_dim} latents each")

    outbox.log("encode", Result.of(prepared, model, latents))


def _tables(
    data: Prepared, batches: Iterator[np.ndarray], levels: tuple[int, ...] | None
) -> Iterator[pd.DataFrame]:
    """Yield the rows of the latents table for each batch of latents, float32 [B, D]."""
    named = ["id", "split", "label"] if data.class_names else ["id", "split"]
    start = 0
    with tqdm(total=len(data.index), unit=" images", desc="encode", disable=None) as bar:
        for z in batches:
            part = data.index[named].iloc[start : start + len(z)].reset_index(drop=True)
            yield part.join(columns(z, levels))
            start += len(z)
            bar.update(len(z))
