"""Score the model and its samples, and draw what they look like."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentworks import artifacts, inference, metrics, plots, tracking
from latentworks.models.config import ModelConfig
from latentworks.stages import run

MAX_LATENTS = 200_000  # scored and drawn, so that memory does not grow with the data
NUM_PER_CLASS = 8  # test images that are shown with their reconstructions
NUM_LINES, NUM_STEPS = 8, 10  # of interpolation


def main(
    prepared: Path,
    model: Path,
    latents: Path,
    sampler: Path,
    samples: Path,
    metrics_file: Path,
    curves: Path,
    figures: Path,
) -> None:
    data = artifacts.read_prepared(prepared)
    network = artifacts.read_model(model, ModelConfig)
    epochs = artifacts.read_curves(model / "curves.csv")
    train = artifacts.read_latents(latents, "train", MAX_LATENTS)
    test = artifacts.read_latents(latents, "test", MAX_LATENTS)
    drawn = artifacts.read_samples(samples)
    rows, names = data.rows("test"), data.class_names
    decode = partial(_decode_all, network)

    scores = {
        "test": metrics.reconstruction_metrics(_reconstructions(network, data.images, rows)),
        "latents": metrics.latent_metrics(train.z, train.labels, test.z, test.labels),
        "samples": metrics.sample_metrics(drawn.images, data.images, data.rows("train"), rows),
    }
    shown = _some_of_each_class(data, rows)
    originals = data.images[shown]
    z = np.concatenate([*inference.encode(network, data.images, shown)])
    starts, ends = _pairs(len(shown))
    pictures = {
        "data": plots.data_profile(data.images, data.index, data.profile),
        "curves": plots.curves(epochs),
        "reconstructions": plots.reconstructions(originals, decode(z)),
        "latent_scatter": plots.latent_scatter(train.z, train.labels, names),
        "latent_grid": plots.latent_grid(decode, train.z, train.labels, names),
        "samples": plots.samples(drawn.images, "Samples: latents drawn at random, decoded"),
        "interpolations": plots.interpolations(
            decode, z[starts], z[ends], originals[starts], originals[ends], NUM_STEPS
        ),
    }

    artifacts.write_json(metrics_file, scores)
    artifacts.write_curves(curves, epochs)
    with artifacts.replacing(figures) as folder:
        folder.mkdir()
        for name, figure in pictures.items():
            artifacts.write_figure(folder / f"{name}.png", figure)
    print(
        f"evaluate: test.bce {scores['test']['bce']:.4f} on {len(rows)} images; "
        f"{len(pictures)} pictures in {figures}"
    )

    outputs = tracking.Outputs(prepared, model, latents, sampler, samples, metrics_file, figures)
    tracking.log("evaluate", outputs)


def _decode_all(network: object, latents: np.ndarray) -> np.ndarray:
    return np.concatenate([*inference.decode(network, latents)])


def _reconstructions(
    network: object, images: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Originals uint8 and reconstructions float32 [B, H, W, C], batch by batch."""
    with tqdm(total=len(rows), unit=" images", desc="evaluate", disable=None) as bar:
        start = 0
        for z in inference.encode(network, images, rows):
            yield images[rows[start : start + len(z)]], _decode_all(network, z)
            start += len(z)
            bar.update(len(z))


def _some_of_each_class(data: artifacts.Prepared, rows: np.ndarray) -> np.ndarray:
    """The first few of `rows` in each class, the classes in turn; without labels, the first few."""
    labels = data.labels(rows)
    if labels is None:
        return rows[: 10 * NUM_PER_CLASS]
    chosen = [rows[labels == label][:NUM_PER_CLASS] for label in np.unique(labels)[:10]]
    longest = max(len(part) for part in chosen)
    return np.array([part[turn] for turn in range(longest) for part in chosen if turn < len(part)])


def _pairs(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Where lines start and end: from each image to the next, which is of another class."""
    starts = np.arange(max(1, min(NUM_LINES, num - 1)))
    return starts, (starts + 1) % num


if __name__ == "__main__":
    run(main)
