"""The description of a run on its page in MLflow: the model, five scores, and samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from latentworks.metrics import hardly_better
from latentworks.repository.result import Result
from latentworks.system import disk
from latentworks.tracking.naming import data_name

RULE = "\n\n---\n\n"  # separates the decisions and the text about a result in a description
OUTS = ("prepared", "samples", "metrics", "figures")
SECTIONS = ("dataset", "model", "train")
SAMPLES = "pictures/samples.png"  # a file of the run


def is_possible(result: Result) -> bool:
    """True if a result has the outs and params that the description is about."""
    return result.outs.keys() >= {*OUTS} and result.params.keys() >= {*SECTIONS}


def about(result: Result, run_id: str) -> str:
    """Return Markdown about a result that was scored.

    MLflow's pages resolve the address of the picture relative to their own.
    """
    scores = disk.read_json(result.outs["metrics"])
    parts = [_sentence(result), _warning(scores.get("test", {})), _table(scores)]
    if (result.outs["figures"] / Path(SAMPLES).name).is_file():
        address = f"get-artifact?{urlencode({'path': SAMPLES, 'run_uuid': run_id})}"
        parts.append(
            f"Samples, not hand-picked (`{SAMPLES}` of this run):\n\n![Samples]({address})"
        )
    return "\n\n".join(filter(None, parts))


def _sentence(result: Result) -> str:
    model, train = result.params["model"], result.params["train"]
    profile = disk.read_json(result.outs["prepared"] / "profile.json")
    height, width, channels = profile["image_shape"]
    size = f" with {model['latent_dim']} latents" if "latent_dim" in model else ""
    return (
        f"`{model['kind']}`{size}, trained for at most {train['epochs']} epochs on "
        f"{profile['splits']['train']['images']:,} images of {data_name(result.params['dataset'])} "
        f"({height}x{width}x{channels})."
    )


def _warning(test: Mapping[str, Any]) -> str:
    """Return a warning if the reconstructions are poor; else "". Results from before are not."""
    if "mse_mean_image" in test and hardly_better(test["mse"], test["mse_mean_image"]):
        return "**The reconstructions are hardly better than the mean image.**"
    return ""


def _table(scores: Mapping[str, Any]) -> str:
    """Return a Markdown table of the five scores that matter first, as far as they exist."""
    test, latents, samples = (scores.get(part, {}) for part in ("test", "latents", "samples"))
    rows = [
        ("reconstruction error (mse)", _of(test, "mse"), "lower", _of(test, "mse_mean_image")),
        ("Fréchet distance", _of(samples, "frechet"), "lower", _of(samples, "frechet_floor")),
        (
            "precision, recall",
            _of(samples, "precision", "recall"),
            "higher",
            _of(samples, "precision_real", "recall_real"),
        ),
        ("latents in use", _of(latents, "active_units"), "higher", ""),
        ("memorisation", _of(samples, "memorisation"), "near 1", "0: copies of training images"),
    ]
    sources = ("the mean image: ", "real images: ", "real images: ", "", "")
    lines = ["| score | value | better | for comparison |", "|---|---:|---|---|"]
    for (name, value, better, other), source in zip(rows, sources, strict=True):
        if value:
            lines.append(f"| {name} | {value} | {better} | {other and source}{other} |")
    return "\n".join(lines)


def _of(scores: Mapping[str, Any], *names: str) -> str:
    """Return scores as text; "" if one is missing."""
    if not {*names} <= scores.keys():
        return ""
    return ", ".join(f"{scores[name]:.3g}" for name in names)
