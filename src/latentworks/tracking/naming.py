"""Names in MLflow: of metrics and curves, which its pages group by the slash, and of runs."""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from latentworks.repository.result import flat

TRAINING = "train"  # group of the curves of a training, whose names have no dot
OF_SAMPLES = ("prior", "sample")  # stages, and sections of params.yaml, of samples alone
BOOKS = "autoencoder"  # the family that the name of a run leaves out
BETWEEN = " · "  # the parts of the name of a run


def metric_name(name: str, known: Container[str] = ()) -> str:
    """Return the name in MLflow of a score, a timing or a curve.

    `test.mse` is test/mse, and `loss` is train/loss. A run from before metrics were grouped goes on
    with its names; `known` are the names that a run has.
    """
    group, dot, rest = name.partition(".")
    grouped = f"{group}/{rest}" if dot else f"{TRAINING}/{name}"
    return name if name in known and grouped not in known else grouped


def data_name(dataset: Mapping[str, Any]) -> str:
    """Return the name of the images: of the file or folder that has them."""
    return Path(dataset["path"]).name or str(dataset["kind"])


def run_name(sections: Mapping[str, Any]) -> str:
    """Return params that tell runs apart, such as "64d · 9 epochs · emoji · gaussian_mixture".

    Equal params give equal names. Params that `sections` lacks are left out.
    """
    params = flat(sections)
    parts = []
    if (kind := params.get("model.kind", BOOKS)) != BOOKS:
        parts.append(kind)
    if "model.latent_dim" in params:
        parts.append(f"{params['model.latent_dim']}d")
    if "train.epochs" in params:
        parts.append(f"{params['train.epochs']} epochs")
    if params.get("train.refine.steps"):
        parts.append(f"{params['train.refine.steps']} refining steps")
    if "dataset" in sections:
        parts.append(data_name(sections["dataset"]))
    if "sample.sampler.kind" in params:
        learned = params["sample.sampler.kind"] == "learned"
        parts.append(params["prior.kind" if learned else "sample.sampler.kind"])
    if params.get("seed"):
        parts.append(f"seed {params['seed']}")
    return BETWEEN.join(map(str, parts))


def without_samples(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the sections of params.yaml that only samples depend on."""
    return {name: section for name, section in sections.items() if name not in OF_SAMPLES}
