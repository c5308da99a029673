"""Export the model and its sampler as a servable, which needs no TensorFlow."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentworks.artifacts.images import read_prepared
from latentworks.artifacts.model import read_model
from latentworks.artifacts.samples import read_sampler
from latentworks.engine import inference
from latentworks.models.config import ModelConfig
from latentworks.models.network import Network
from latentworks.repository.result import Result
from latentworks.samplers.config import SamplerConfig
from latentworks.samplers.drawing import class_shares
from latentworks.serving import export
from latentworks.serving.servable import Interface
from latentworks.system import disk
from latentworks.tracking import outbox

MAX_RANKS = 10_000  # reconstruction errors of test images that rank an anomaly
NUM_GOLDEN = 20  # test images whose answers are checked wherever the model is loaded


def main(prepared: Path, model: Path, sampler: Path, servable: Path) -> None:
    inference.configure()
    data = read_prepared(prepared)
    network = read_model(model, ModelConfig)
    fitted = read_sampler(sampler, SamplerConfig)
    rows, names = data.rows("test"), tuple(data.class_names)
    conditional = network.num_classes > 0
    train_labels = data.labels(data.rows("train"))
    shares = class_shares(fitted, conditional, train_labels, len(names))
    classes = () if shares is None else names

    errors = np.sort(_reconstruction_errors(network, data.images, rows))
    ranks = errors[_spread(len(errors), MAX_RANKS)]
    golden = data.images[np.resize(rows[_spread(len(rows), NUM_GOLDEN)], max(2, NUM_GOLDEN))]

    profile = data.profile
    how = (profile["fit"], profile["background"], profile.get("value_range", {}))
    interface = Interface(network.image_shape, network.latent_dim, classes, *how)
    with disk.replacing(servable) as folder:
        folder.mkdir()
        export.write(folder, network, fitted, sampler, interface, golden, ranks, shares)
    size = sum(file.stat().st_size for file in servable.rglob("*") if file.is_file())
    print(f"export: {size / 1e6:.1f} MB in {servable}, with {len(golden)} golden test images")

    outbox.log("export", Result.of(prepared, model))


def _reconstruction_errors(network: Network, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean squared errors [N] of `rows` int64 [N] of `images` uint8 [M, H, W, C]."""
    errors = []
    with tqdm(total=len(rows), unit=" images", desc="export", disable=None) as bar:
        start = 0
        for z in inference.encode(network, images, rows):
            originals = images[rows[start : start + len(z)]] / 255.0
            decoded = np.concatenate([*inference.decode(network, z)])
            errors.append(((originals - decoded) ** 2).mean(axis=(1, 2, 3)))
            start += len(z)
            bar.update(len(z))
    return np.concatenate(errors)


def _spread(length: int, num: int) -> np.ndarray:
    """Return at most `num` indices in [0, length), evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, length - 1, num).round().astype(np.int64))
