"""The description of a run on its page in MLflow: the model, five scores, and samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image

from latentworks.metrics import hardly_better
from latentworks.repository.result import Result
from latentworks.system import disk
from latentworks.tracking.naming import data_name

RULE = "\n\n---\n\n"  # separates the decisions and the text about a result in a description
OUTS = ("prepared", "samples", "metrics", "figures")
SECTIONS = ("dataset", "model", "train")
PICTURE = "description/samples.png"  # a file of the run, for its description
WIDTH = 560  # pixels


def is_possible(result: Result) -> bool:
    """True if a result has the outs and params that the description is about."""
    return result.outs.keys() >= {*OUTS} and result.params.keys() >= {*SECTIONS}


def about(result: Result, run_id: str) -> str:
    """Return Markdown about a result that was scored.

    MLflow's pages resolve the address of the picture relative to their own.
    """
    scores = disk.read_json(result.outs["metrics"])
    dim = result.params["model"].get("latent_dim")
    parts = [_sentence(result), _warning(scores.get("test", {})), _table(scores, dim)]
    if samples(result) is not None:
        address = f"get-artifact?{urlencode({'path': PICTURE, 'run_uuid': run_id})}"
        said = "Samples, not hand-picked; the run has them larger as `pictures/samples.png`:"
        parts.append(f"{said}\n\n![Samples]({address})")
    return "\n\n".join(filter(None, parts))


def samples(result: Result) -> Path | None:
    """Return the picture of samples; None if a result has none."""
    path = result.outs["figures"] / "samples.png"
    return path if path.is_file() else None


def smaller(picture: Path) -> Image.Image:
    """Return a picture that fits beside the column of facts on MLflow's page."""
    with Image.open(picture) as opened:
        opened.thumbnail((WIDTH, WIDTH))
        return opened.copy()


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


def _table(scores: Mapping[str, Any], dim: int | None) -> str:
    """Return a Markdown table of the five scores that matter first, as far as they exist.

    `dim` is the number of latents; None for codes.
    """
    test, latents, samples = (scores.get(part, {}) for part in ("test", "latents", "samples"))
    units = _of(latents, "active_units")
    rows = [
        ("reconstruction error (mse)", _of(test, "mse"), "lower", _of(test, "mse_mean_image")),
        ("Fréchet distance", _of(samples, "frechet"), "lower", _of(samples, "frechet_floor")),
        (
            "precision, recall",
            _of(samples, "precision", "recall"),
            "higher",
            _of(samples, "precision_real", "recall_real"),
        ),
        ("latents in use", units and f"{units} of {dim}" if dim else units, "higher", ""),
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
