"""A learned prior goes through all stages of a checkout, into its MLflow run and its servable."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from checkouts import Checkout
from families import OF_KIND
from latentworks.artifacts.curves import read_curves
from latentworks.artifacts.latents import write_latents
from latentworks.artifacts.samples import read_samples
from latentworks.params import recipes
from latentworks.serving import servable
from latentworks.system import disk
from stage_runs import repro

TRAINING = {
    "width": 16,
    "num_blocks": 1,
    "label_dropout": 0.2,
    "epochs": 2,
    "batch_size": 64,
    "learning_rate": 0.002,
    "warmup_steps": 2,
    "schedule": "cosine",
    "patience": 2,
    "num_threads": 2,
}
PRIORS = {
    # Its velocities begin as zero, and must learn to depend on the class.
    "autoencoder": {"kind": "flow", **TRAINING, "epochs": 8, "learning_rate": 0.02, "num_steps": 4},
    "codes": {"kind": "transformer", **TRAINING, "num_heads": 2},
}
SAMPLER = {"kind": "learned", "guidance": 1.5, "temperature": 1.0}


def with_prior(checkout: Checkout, family: str) -> Checkout:
    """Write the sections of a small learned prior into params.yaml."""
    path = checkout.path / "params.yaml"
    sections: dict[str, Any] = {
        "prior": PRIORS[family],
        "sample": {"num_images": 300, "sampler": SAMPLER},
    }
    if family != "autoencoder":
        sections["model"] = OF_KIND[family].model_dump(mode="json")
    path.write_text(recipes.merge(path.read_text(), sections))
    return checkout


@pytest.mark.parametrize("family", PRIORS)
def test_a_learned_prior_reaches_the_samples_the_run_and_the_servable(
    finished: Checkout, tmp_path: Path, family: str
) -> None:
    checkout = with_prior(finished.copy(tmp_path / "checkout"), family)
    client = MlflowClient(checkout.database)
    (experiment,) = client.search_experiments(filter_string="name = 'latentworks'")
    (former,) = client.search_runs([experiment.experiment_id])
    said = repro(checkout)
    assert "sample: learned, from the stage prior; 300 images decoded" in said

    samples = read_samples(checkout.path / "data/samples")
    assert samples.labels is not None
    assert set(samples.labels) == set(range(10))
    columns = set(pd.read_parquet(checkout.path / "data/latents.parquet"))
    assert ("c0" in columns, "z0" in columns) == (family == "codes", family != "codes")
    scores = disk.read_json(checkout.path / "reports/metrics.json")["samples"]
    assert 0 < scores["label_agreement"] <= 1
    pictures = {file.stem for file in (checkout.path / "reports/figures").iterdir()}
    assert {"class_samples", "traversals", "latent_scatter"} <= pictures

    assert client.get_run(former.info.run_id).data.metrics == former.data.metrics
    asked = f"params.`prior.kind` = '{PRIORS[family]['kind']}'"
    (run,) = client.search_runs([experiment.experiment_id], asked)
    shown = client.get_metric_history(run.info.run_id, "prior/loss")
    curves = read_curves(checkout.path / "models/prior/curves.csv")
    assert [(point.step, point.value) for point in shown] == [
        (epoch["epoch"], epoch["loss"]) for epoch in curves
    ]

    exported = servable.load(checkout.path / "models/servable")
    call = {"num": 3, "label": "7", "seed": 1}
    images = exported.call("sample", None, call)
    np.testing.assert_array_equal(images, exported.call("sample", None, call | {"guidance": 1.5}))
    assert (images != exported.call("sample", None, call | {"guidance": 9.0})).any()
    assert (images != exported.call("sample", None, call | {"temperature": 0.1})).any()
    assert np.isfinite(exported.call("log_density", images, {})).all()


@pytest.mark.parametrize("rows", ["no validation image", "a class without training images"])
def test_the_stage_prior_takes_latents_with_such_rows(
    finished: Checkout, tmp_path: Path, rows: str
) -> None:
    checkout = with_prior(finished.copy(tmp_path / "checkout"), "codes")
    path = checkout.path / "data/latents.parquet"
    table = pd.read_parquet(path)
    codes = np.random.default_rng(0).integers(0, 12, (len(table), 4))
    for number, column in enumerate(codes.T):
        table[f"c{number}"] = column.astype(np.int16)
    if rows == "no validation image":
        table = table[table["split"] != "val"]
    else:
        table.loc[(table["split"] == "train") & (table["label"] == 9), "label"] = pd.NA
        assert ((table["split"] == "val") & (table["label"] == 9)).any()
    write_latents(path, [table.drop(columns=["z0", "z1"])], (4, 3))
    folders = ("models/autoencoder", "data/latents.parquet", "models/prior")
    said = checkout.run("python", "-m", "latentworks.stages", "prior", *folders).stdout
    assert re.search(r"prior: \d+ latents, 2 epochs; (val_)?loss \d", said)


def test_a_learned_sampler_needs_a_prior_and_a_prior_needs_it(
    untouched: Checkout, tmp_path: Path
) -> None:
    checkout = with_prior(untouched.copy(tmp_path / "checkout"), "codes")
    checkout.run("latentworks", "validate")
    path = checkout.path / "params.yaml"
    learned = path.read_text()
    for section, said in (
        ({"prior": {"kind": "none"}}, "sampler.kind learned needs a prior. Received: prior.kind n"),
        (
            {"sample": {"num_images": 300, "sampler": {"kind": "gaussian"}}},
            "prior.kind transformer is of use to the sampler learned alone. Received: sample.sam",
        ),
        (
            {"model": OF_KIND["autoencoder"].model_dump(mode="json")},
            "prior.kind transformer needs codes. Received: model.kind autoencoder.",
        ),
    ):
        path.write_text(recipes.merge(learned, section))
        done = checkout.run("latentworks", "validate", expected=2)
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
