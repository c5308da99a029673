"""Put every image into latent space."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from latentworks import artifacts, inference, tracking
from latentworks.models.config import ModelConfig
from latentworks.stages import run


def main(prepared: Path, model: Path, latents: Path) -> None:
    data = artifacts.read_prepared(prepared)
    network = artifacts.read_model(model, ModelConfig)

    rows = np.arange(len(data.images))
    batches = inference.encode(network, data.images, rows, data.labels(rows))

    num_images = artifacts.write_latents(latents, _tables(data, batches))
    print(f"encode: {num_images} images to {network.latent_dim} latents each")

    tracking.log("encode", tracking.Outputs(prepared=prepared, model=model, latents=latents))


def _tables(data: artifacts.Prepared, batches: Iterator[np.ndarray]) -> Iterator[pd.DataFrame]:
    """A part of the latents table for each batch float32 [B, D]."""
    columns = ["id", "split", "label"] if data.class_names else ["id", "split"]
    start = 0
    with tqdm(total=len(data.index), unit=" images", desc="encode", disable=None) as bar:
        for z in batches:
            part = data.index[columns].iloc[start : start + len(z)].reset_index(drop=True)
            yield part.join(pd.DataFrame(z, columns=[f"z{number}" for number in range(z.shape[1])]))
            start += len(z)
            bar.update(len(z))


if __name__ == "__main__":
    run(main)
