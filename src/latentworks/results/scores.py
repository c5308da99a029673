"""Scores of a result in words: each with the value that it should be compared with."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Row = tuple[str, str, list[str]]  # name, value, and lines that say what it means
FEW_STEPS = 2_000  # a training of fewer steps often ends too early


def rows(scores: Mapping[str, Any], latent_dim: int, of_mean: float | None) -> list[Row]:
    """Return a row for each score that metrics.json has of the five that matter first."""
    test, latents, samples = (scores.get(part, {}) for part in ("test", "latents", "samples"))
    found: list[Row] = []
    if "mse" in test:
        against = "" if of_mean is None else f"; the mean image has {number(of_mean)}"
        meaning = [f"lower is better{against}"]
        found.append(("reconstruction error (mse)", number(test["mse"]), meaning))
    if "frechet" in samples:
        found.append(("Fréchet distance", number(samples["frechet"]), _frechet(samples)))
    if "precision" in samples and "recall" in samples:
        meaning = ["shares of samples that look real, and of real images that samples come near"]
        if "precision_real" in samples and "recall_real" in samples:
            meaning.append(f"real images have {_pair(samples, '_real')}")
        found.append(("precision, recall", _pair(samples), meaning))
    if "active_units" in latents:
        value = f"{latents['active_units']:.0f} of {latent_dim}"
        meaning = ["a latent that is not in use has one value for all images"]
        found.append(("latents in use", value, meaning))
    if "memorisation" in samples:
        meaning = ["1: samples are as new as test images; 0: copies of training images"]
        found.append(("memorisation", number(samples["memorisation"]), meaning))
    return found


def _frechet(samples: Mapping[str, Any]) -> list[str]:
    floor = samples.get("frechet_floor")
    against = "" if floor is None else f"; real images have {number(floor)}, the floor"
    lines = [f"lower is better{against}"]
    if "frechet_blur" in samples:
        lines.append(f"the reconstructions of test images have {number(samples['frechet_blur'])}")
    if samples.get("features") == "random":
        lines.append("compare it only with results of the same images")
    return lines


def _pair(samples: Mapping[str, Any], ending: str = "") -> str:
    return ", ".join(number(samples[f"{name}{ending}"]) for name in ("precision", "recall"))


def number(value: float) -> str:
    return f"{value:.3g}"


def is_poor(mse: float, of_mean: float | None, limit: float) -> bool:
    """True if reconstructions are hardly better than the mean image.

    `limit` is the largest share of the mean image's error that is good enough for a first model.
    An error that is not a number is poor, too.
    """
    return of_mean is not None and not mse <= limit * of_mean


def advice(sections: Mapping[str, Any], num_train: int) -> str:
    """Say what to try if the reconstructions are poor: `sections` of params.yaml made them."""
    train, model = sections["train"], sections["model"]
    steps = train["epochs"] * -(-num_train // train["batch_size"])
    tries = []
    if steps < FEW_STEPS:
        tries.append(
            f"train longer: this training had at most {steps} steps. Raise train.epochs, and lower "
            "train.batch_size"
        )
    if model.get("latent_dim", np.inf) < 16:
        tries.append(f"raise model.latent_dim from {model['latent_dim']} to 32 or more")
    tries.append("take a recipe: `latentworks recipe` lists them")
    return "; or ".join(tries)
