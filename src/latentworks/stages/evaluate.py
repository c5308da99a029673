"""Score the model and its samples, and draw what they look like."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from latentworks import (
    artifacts,
    backend,
    disk,
    inference,
    judging,
    metrics,
    picturing,
    plots,
    tracking,
)
from latentworks.features import training
from latentworks.models.config import ModelConfig
from latentworks.stages import run

MAX_LATENTS = 200_000  # scored and drawn, so that memory does not grow with the data
MAX_MAP_DIM = 3  # latents of a map that is looked at


def main(
    prepared: Path,
    features: Path,
    model: Path,
    latents: Path,
    sampler: Path,
    samples: Path,
    metrics_file: Path,
    curves: Path,
    figures: Path,
    atlas: Path,
) -> None:
    backend.configure(training.SEED, training.NUM_THREADS)
    data = artifacts.read_prepared(prepared)
    judge = artifacts.read_features(features)
    network = artifacts.read_model(model, ModelConfig)
    epochs = artifacts.read_curves(model / "curves.csv")
    train = artifacts.read_latents(latents, "train", MAX_LATENTS)
    test = artifacts.read_latents(latents, "test", MAX_LATENTS)
    drawn = artifacts.read_samples(samples)
    rows = data.rows("test")

    pairs = inference.reconstruct(network, data.images, rows, data.labels(rows))
    scores: dict[str, dict[str, Any]] = {
        "test": metrics.reconstruction_metrics(inference.counted(pairs, len(rows))),
        "latents": {
            **metrics.latent_metrics(train.z, train.labels, test.z, test.labels),
            **_trustworthiness(network, data, rows),
        },
        "samples": {
            **metrics.sample_metrics(drawn.images, data.images, data.rows("train"), rows),
            "features": judge.kind,  # in which what follows compares them
            **judging.compare(judge, network, data, drawn),
            **judging.classification_accuracy(data, drawn),
        },
    }
    pictures = {
        "curves": plots.curves(epochs),
        **picturing.of_data(network, data),
        **picturing.of_latents(network, train, data.class_names),
        **picturing.of_samples(data, drawn),
    }
    page = picturing.atlas(network, data, scores["test"]["mse"])

    disk.write_json(metrics_file, scores)
    artifacts.write_curves(curves, epochs)
    with disk.replacing(figures) as folder:
        folder.mkdir()
        for name, figure in pictures.items():
            artifacts.write_figure(folder / f"{name}.png", figure)
    artifacts.write_page(atlas, page)
    print(
        f"evaluate: test.bce {scores['test']['bce']:.4f} on {len(rows)} images; samples compared "
        f"in {judge.kind} features; {len(pictures)} pictures in {figures}, and {atlas}"
    )

    outputs = tracking.Outputs(prepared, model, latents, sampler, samples, metrics_file, figures)
    tracking.log("evaluate", replace(outputs, features=features, atlas=atlas))


def _trustworthiness(network: Any, data: artifacts.Prepared, rows: np.ndarray) -> dict[str, float]:
    """Of latents that make a map alone: nobody looks at many dimensions."""
    if network.latent_dim > MAX_MAP_DIM:
        return {}
    some = metrics.subset(rows, metrics.MAX_TRUSTED)
    z = np.concatenate([*inference.encode(network, data.images, some, data.labels(some))])
    return metrics.trustworthiness(data.images, some, z)


if __name__ == "__main__":
    run(main)
