"""The scores of a trial on validation images, which compare trials without the test images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from latentworks import metrics
from latentworks.artifacts.curves import read_curves
from latentworks.artifacts.images import Prepared, read_prepared
from latentworks.artifacts.samples import read_samples
from latentworks.errors import DataError, LatentworksError
from latentworks.repository.result import Result
from latentworks.serving.servable import Servable

LOWER, HIGHER = "lower", "higher"
SCORES = {  # by name: the better side
    "mse": LOWER,  # of reconstructions, as is ssim
    "ssim": HIGHER,
    "sliced_wasserstein": LOWER,  # from the samples to the validation images
    "loss": LOWER,  # val_loss of the training; compares trials that have one loss only
}
DEFAULT = "mse"
NUM_SHOWN = 5  # reconstructions of a trial in the picture, and samples


def require_known(by: str) -> None:
    """Raise LatentworksError unless `by` is the name of a score."""
    if by not in SCORES:
        raise LatentworksError(f"--by is one of: {', '.join(SCORES)}. Received: {by!r}.")


def require_validation(prepared: Path) -> None:
    """Raise DataError if the prepared images have none for validation."""
    if not len(read_prepared(prepared).rows("val")):
        raise DataError(
            "Cannot compare trials: there are no validation images. Raise prepare.val_fraction in "
            "params.yaml, to 0.02 or more."
        )


def score(result: Result, servable: Servable) -> dict[str, float]:
    """Return the scores of a trial, by the names in SCORES."""
    data = read_prepared(result.outs["prepared"])
    rows = data.rows("val")
    errors = metrics.reconstruction_metrics(_pairs(servable, data, rows))
    drawn = read_samples(result.outs["samples"]).images
    some = metrics.subset(np.arange(len(drawn)), metrics.MAX_PROJECTED)
    real = metrics.project(data.images, metrics.subset(rows, metrics.MAX_PROJECTED))
    return {
        "mse": errors["mse"],
        "ssim": errors["ssim"],
        "sliced_wasserstein": metrics.sliced_wasserstein(metrics.project(drawn, some), real),
        "loss": _val_loss(result),
    }


def images(result: Result, servable: Servable) -> np.ndarray:
    """Return reconstructions of validation images, a white one, and samples: uint8 [N, H, W, C].

    They are the first ones, not hand-picked.
    """
    data = read_prepared(result.outs["prepared"])
    rows = data.rows("val")[:NUM_SHOWN]
    ((_, reconstructed),) = _pairs(servable, data, rows)
    pixels = np.rint(reconstructed.clip(0, 1) * 255).astype(np.uint8)
    drawn = read_samples(result.outs["samples"]).images[:NUM_SHOWN]
    return np.concatenate([pixels, np.full_like(pixels[:1], 255), drawn])


def originals(result: Result) -> np.ndarray:
    """Return the validation images that `images` reconstructs: uint8 [N, H, W, C]."""
    data = read_prepared(result.outs["prepared"])
    return np.asarray(data.images[data.rows("val")[:NUM_SHOWN]])


def _pairs(
    servable: Servable, data: Prepared, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images, uint8 [B, H, W, C], and their reconstructions, float32 in [0, 1]."""
    for part in metrics.chunks(rows, data.images[0].size):
        known = data.labels(part) if servable.conditional else None
        latents = servable.encode_images(data.images[part], known)
        yield data.images[part], servable.decode_latents(latents, known)


def _val_loss(result: Result) -> float:
    """Return the val_loss of the weights that the training kept."""
    epochs = read_curves(result.outs["autoencoder"] / "curves.csv")
    losses = [epoch["val_loss"] for epoch in epochs]
    return losses[-1] if "phase" in epochs[-1] else min(losses)
