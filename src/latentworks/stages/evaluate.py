"""Score the model and its samples, and draw the figures and the atlas."""

from functools import partial
from pathlib import Path

import numpy as np

from latentworks import metrics, plots
from latentworks.artifacts.curves import read_curves, write_curves
from latentworks.artifacts.features import read_features
from latentworks.artifacts.figures import write_figure, write_page
from latentworks.artifacts.images import Prepared, read_prepared
from latentworks.artifacts.latents import read_latents
from latentworks.artifacts.model import read_model
from latentworks.artifacts.samples import read_samples
from latentworks.engine import backend, inference
from latentworks.evaluation import generation, pictures
from latentworks.evaluation.features import classifier, training
from latentworks.models.config import ModelConfig
from latentworks.models.network import Network
from latentworks.repository.result import Result
from latentworks.system import disk
from latentworks.tracking import outbox

MAX_LATENTS = 200_000  # scored and drawn; bounds the memory
MAX_MAP_DIM = 3  # trustworthiness is computed up to this number of latents


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
    data = read_prepared(prepared)
    judge = read_features(features)
    see = partial(classifier.see, classifier.load(data.image_shape, judge.weights))
    network = read_model(model, ModelConfig)
    epochs = read_curves(model / "curves.csv")
    train = read_latents(latents, "train", MAX_LATENTS)
    test = read_latents(latents, "test", MAX_LATENTS)
    drawn = read_samples(samples)
    rows = data.rows("test")

    pairs = inference.reconstruct(network, data.images, rows, data.labels(rows))
    errors = metrics.reconstruction_metrics(inference.counted(pairs, len(rows)))
    of_mean = metrics.mean_image_mse(data.images, data.rows("train"), rows)
    scores = {
        "test": {**errors, "mse_mean_image": of_mean},
        "latents": {
            **metrics.latent_metrics(train.z, train.labels, test.z, test.labels),
            **_trustworthiness(network, data, rows),
        },
        "samples": {
            **metrics.sample_metrics(drawn.images, data.images, data.rows("train"), rows),
            "features": judge.kind,  # the feature network of the metrics below
            **generation.compare(see, network, data, drawn),
            **generation.classification_accuracy(data, drawn),
        },
    }
    drawings = {
        "curves": plots.curves(epochs),
        **pictures.of_data(network, data),
        **pictures.of_latents(network, train, data.class_names),
        **pictures.of_samples(data, drawn),
    }
    page = pictures.atlas(network, data, errors["mse"])

    disk.write_json(metrics_file, scores)
    write_curves(curves, epochs)
    with disk.replacing(figures) as folder:
        folder.mkdir()
        for name, figure in drawings.items():
            write_figure(folder / f"{name}.png", figure)
    write_page(atlas, page)
    print(
        f"evaluate: test.bce {errors['bce']:.4f} on {len(rows)} images; samples compared "
        f"in {judge.kind} features; {len(drawings)} pictures in {figures}, and {atlas}"
    )
    if metrics.hardly_better(errors["mse"], of_mean):
        print(
            "evaluate: the reconstructions are hardly better than the mean image: their mse is "
            f"{errors['mse']:.4f}, the mean image's {of_mean:.4f}. Raise train.epochs, or take a "
            "recipe: `latentworks recipe` lists them"
        )

    shown = (prepared, model, latents, sampler, samples, metrics_file, figures, atlas)
    outbox.log("evaluate", Result.of(*shown))


def _trustworthiness(network: Network, data: Prepared, rows: np.ndarray) -> dict[str, float]:
    """Return the trustworthiness of a map of at most MAX_MAP_DIM latents; else an empty dict."""
    if network.latent_dim > MAX_MAP_DIM:
        return {}
    some = metrics.subset(rows, metrics.MAX_TRUSTED)
    z = np.concatenate([*inference.encode(network, data.images, some, data.labels(some))])
    return metrics.trustworthiness(data.images, some, z)
