"""Runs in MLflow, written from files that the tests make: no stage and no server runs."""

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from PIL import Image

from checkouts import ROOT
from latentworks.artifacts.curves import write_curves
from latentworks.registry.candidates import Candidate
from latentworks.registry.store import RegistryStore
from latentworks.registry.versions import Version
from latentworks.repository import git
from latentworks.repository.result import Result
from latentworks.system import disk
from latentworks.tracking import datasets, pages
from latentworks.tracking.description import RULE
from latentworks.tracking.naming import metric_name, run_name, without_samples
from latentworks.tracking.source import origin_tags
from latentworks.tracking.store import MODEL, SAMPLES, Store

PARAMS: dict[str, Any] = {
    "seed": 0,
    "dataset": {"kind": "emoji", "path": "data/raw/emoji"},
    "model": {"kind": "autoencoder", "latent_dim": 64},
    "train": {"epochs": 9},
    "prior": {"kind": "none"},
    "sample": {"sampler": {"kind": "gaussian_mixture", "num_components": 50}},
}
SCORES = {
    "test": {"mse": 0.02, "ssim": 0.6, "mse_mean_image": 0.066},
    "latents": {"active_units": 64},
    "samples": {
        "memorisation": 0.79,
        "features": "shipped",
        "frechet": 3.5,
        "frechet_floor": 0.18,
        "precision": 0.9,
        "recall": 0.8,
        "precision_real": 0.94,
        "recall_real": 0.93,
    },
}
CURVES = [{"epoch": n, "loss": 1 / n, "val_loss": 2 / n, "learning_rate": 0.1} for n in (1, 2, 3)]
PROFILE = {
    "image_shape": [64, 64, 3],
    "splits": {"train": {"images": 3346}, "val": {"images": 40}, "test": {"images": 366}},
    "fingerprint": 64 * "f",
    "source": 64 * "e",
}
Make = Callable[..., Result]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stages of the project and a store of its own, without git."""
    root = tmp_path_factory.mktemp("project")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root / name)
    return root


@pytest.fixture(scope="module")
def store(root: Path) -> RegistryStore:
    return RegistryStore(f"sqlite:///{root / 'mlflow.db'}", root)


@pytest.fixture
def make(root: Path, tmp_path: Path) -> Make:
    """Write the files of a result, whose model no other test has."""

    def result(scores: dict[str, Any] = SCORES, model: str = str(tmp_path)) -> Result:
        made = tmp_path / "made"
        autoencoder, prepared, sampler, samples, figures = (
            made / name for name in ("autoencoder", "prepared", "sampler", "samples", "figures")
        )
        for folder in (autoencoder, prepared, sampler, samples, figures):
            folder.mkdir(parents=True, exist_ok=True)
        (autoencoder / "model.keras").write_text(model)
        write_curves(autoencoder / "curves.csv", CURVES)
        disk.write_json(prepared / "profile.json", PROFILE)
        (sampler / "sampler.npz").write_text("a sampler")
        np.save(samples / "latents.npy", np.zeros(3))
        Image.new("RGB", (1200, 900), "teal").save(figures / "samples.png")
        disk.write_json(made / "metrics.json", scores)
        outs = (autoencoder, prepared, sampler, samples, figures, made / "metrics.json")
        return replace(Result.of(*outs), params=PARAMS)

    return result


def the_run(store: Store, result: Result) -> Run:
    run_id = store.find(result)
    assert run_id is not None
    return store.client.get_run(run_id)


def content(store: Store, run: Run) -> dict[str, Any]:
    """Return all of a run that a user of MLflow sees, with the time of each point."""
    run = store.client.get_run(run.info.run_id)
    history = {
        name: [(m.timestamp, m.step, m.value) for m in points(store, run, name)]
        for name in run.data.metrics
    }
    inputs = sorted((i.dataset.name, i.tags[0].value) for i in run.inputs.dataset_inputs)
    files = {path: path.stat().st_mtime_ns for path in artifacts(run).rglob("*")}
    return {"run": run.data.to_dictionary(), "points": history, "inputs": inputs, "files": files}


def points(store: Store, run: Run, name: str) -> list[Metric]:
    return list(store.client.get_metric_history(run.info.run_id, name))


def artifacts(run: Run) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"))


def note(store: Store, result: Result) -> str:
    return the_run(store, result).data.tags[MLFLOW_RUN_NOTE]


# --- a run of today ------------------------------------------------------------------------------


def test_metrics_have_the_slash_by_which_mlflow_groups_them(
    store: RegistryStore, make: Make
) -> None:
    result = make()
    store.store.write(result)
    run = the_run(store.store, result)
    assert run.data.metrics["test/mse"] == 0.02
    assert run.data.metrics["samples/frechet"] == 3.5
    assert not [name for name in run.data.metrics if "/" not in name]
    curve = [(m.step, m.value) for m in points(store.store, run, "train/loss")]
    assert curve == [(epoch["epoch"], epoch["loss"]) for epoch in CURVES]
    before = content(store.store, run)
    store.store.write(result)
    assert content(store.store, run) == before


def test_a_run_tells_its_user_its_repository_and_its_data(store: RegistryStore, make: Make) -> None:
    result = make()
    store.store.write(result)
    run = the_run(store.store, result)
    assert run.info.run_name == "64d · 9 epochs · emoji · gaussian_mixture"
    assert run.data.tags["mlflow.user"] == run.info.user_id != "unknown"
    assert run.data.tags["mlflow.source.name"] == store.store.root.name
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    inputs = [(i.dataset.name, i.tags[0].value) for i in run.inputs.dataset_inputs]
    assert sorted(inputs) == [(f"emoji {name}", name) for name in ("test", "train", "val")]
    digests = disk.read_json(artifacts(run) / "digests.json")
    assert {"files.autoencoder", "files.metrics", "files.figures"} <= digests.keys()
    assert not [tag for tag in run.data.tags if tag.startswith("files.")]


def test_a_name_that_a_user_gave_stays(store: RegistryStore, make: Make) -> None:
    result = make()
    store.store.write(result)
    run = the_run(store.store, result)
    store.client.update_run(run.info.run_id, name="my best")
    store.store.write(result)
    assert the_run(store.store, result).info.run_name == "my best"


def test_a_changed_file_is_logged_again_after_a_damaged_list_of_digests(
    store: RegistryStore, make: Make
) -> None:
    result = make()
    store.store.write(result)
    folder = artifacts(the_run(store.store, result))
    (folder / "digests.json").write_text("{")
    (folder / "model/model.keras").unlink()
    store.store.write(result)
    assert (folder / "model/model.keras").is_file()
    assert "files.autoencoder" in disk.read_json(folder / "digests.json")


# --- descriptions --------------------------------------------------------------------------------


def test_the_description_has_five_scores_and_a_picture(store: RegistryStore, make: Make) -> None:
    result = make()
    store.store.write(result)
    text = note(store.store, result)
    assert text.startswith("`autoencoder` with 64 latents, trained for at most 9 epochs on 3,346 ")
    assert "| reconstruction error (mse) | 0.02 | lower | the mean image: 0.066 |" in text
    assert "| precision, recall | 0.9, 0.8 | higher | real images: 0.94, 0.93 |" in text
    assert "| latents in use | 64 of 64 | higher |  |" in text
    assert "hardly better" not in text
    run = the_run(store.store, result)
    assert f"get-artifact?path=description%2Fsamples.png&run_uuid={run.info.run_id}" in text
    with Image.open(artifacts(run) / "description/samples.png") as picture:
        assert picture.size == (560, 420)  # larger ones hide the facts beside the description


def test_the_description_follows_the_scores_and_warns_of_poor_ones(
    store: RegistryStore, make: Make
) -> None:
    store.store.write(make())
    poor = make({**SCORES, "test": {"mse": 0.034, "mse_mean_image": 0.066}})
    store.store.write(poor)
    text = note(store.store, poor)
    assert "**The reconstructions are hardly better than the mean image.**" in text
    assert "| 0.034 |" in text


def test_decisions_above_the_description_and_a_text_of_the_user_stay(
    store: RegistryStore, make: Make
) -> None:
    result = make()
    store.store.write(result)
    run_id = the_run(store.store, result).info.run_id
    about = note(store.store, result)
    store.client.set_tag(run_id, MLFLOW_RUN_NOTE, f"Promoted: better{RULE}{about}")
    poor = make({**SCORES, "test": {"mse": 0.034, "mse_mean_image": 0.066}})
    store.store.write(poor)
    assert note(store.store, poor).startswith(f"Promoted: better{RULE}`autoencoder`")
    assert "hardly better" in note(store.store, poor)
    store.client.set_tag(run_id, MLFLOW_RUN_NOTE, "the one with good collars")
    store.store.write(result)
    assert note(store.store, result) == "the one with good collars"
    # A decision about a version whose run has no description yet.
    store.client.set_tag(run_id, MLFLOW_RUN_NOTE, f"Promoted: better{RULE}")
    store.store.write(result)
    assert note(store.store, result).startswith(f"Promoted: better{RULE}`autoencoder`")


# --- runs from before ----------------------------------------------------------------------------


def test_a_run_from_before_metrics_were_grouped_is_completed_under_its_names(
    store: RegistryStore, make: Make
) -> None:
    result = make()
    client = MlflowClient(store.uri)
    tags = {
        MODEL: result.model_digest(),
        SAMPLES: str(result.samples_digest()),
        "run.key": "before",
        "files.metrics": 64 * "0",
    }
    experiment = store.store.experiment_id
    old = client.create_run(experiment, tags=tags, run_name="autoencoder-emoji-64d")
    for name, value, step in (
        *(("test.mse", 0.02, 0), ("samples.frechet", 99.0, 0), ("seconds.train", 7.0, 0)),
        *(("loss", 1.0, 1), ("val_loss", 2.0, 1), ("learning_rate", 0.1, 1)),
    ):
        client.log_metric(old.info.run_id, name, value, step=step)
    client.set_terminated(old.info.run_id)
    (before,) = points(store.store, old, "test.mse")

    store.store.write(result)
    run = the_run(store.store, result)
    assert run.info.run_id == old.info.run_id
    assert run.info.run_name == "autoencoder-emoji-64d"
    assert "test/mse" not in run.data.metrics
    (now,) = points(store.store, run, "test.mse")
    assert now.timestamp == before.timestamp
    assert run.data.metrics["samples.frechet"] == 3.5  # it had another value
    assert run.data.metrics["test/ssim"] == 0.6  # it had none
    for name in ("loss", "val_loss"):
        assert [m.step for m in points(store.store, run, name)] == [1, 2, 3]
    assert not [name for name in run.data.metrics if name.startswith("train/")]
    assert MLFLOW_RUN_NOTE in run.data.tags
    written = content(store.store, run)
    store.store.write(result)
    assert content(store.store, run) == written

    # A version of this run, whose scores are linked under the names of today.
    model = store.client.create_logged_model(experiment, "old", run.info.run_id)
    version = Version("old", 1, model.model_id, run.info.run_id, {}, "")
    store.link_scores(version, Candidate(store.store.root, result, "", ""))
    linked = {m.key for m in store.client.get_logged_model(model.model_id).metrics or ()}
    assert {"test/mse", "test/ssim", "samples/frechet"} <= linked
    assert "test.mse" not in linked
    written = content(store.store, run)
    store.store.write(result)
    assert content(store.store, run) == written


def test_an_experiment_from_before_gets_the_kind_and_the_columns(store: RegistryStore) -> None:
    before = store.store.experiment("an older one")
    pages.complete(store.client, before)
    tags = store.store.experiment("an older one").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    columns = json.loads(tags["mlflow.sharedViewState.scores"])["selectedColumns"]
    assert columns[0] == "metrics.`test/mse`"
    assert len(columns) == 5


# --- logged models -------------------------------------------------------------------------------


def test_the_best_logged_model_is_found_by_its_score(store: RegistryStore, make: Make) -> None:
    ids = []
    experiment = store.store.experiment_id
    for mse in (0.03, 0.01, 0.02):
        result = make({**SCORES, "test": {**SCORES["test"], "mse": mse}}, f"model of {mse}")
        store.store.write(result)
        run = the_run(store.store, result)
        model = store.client.create_logged_model(experiment, "linked", run.info.run_id)
        version = Version("linked", 1, model.model_id, run.info.run_id, {}, "")
        candidate = Candidate(store.store.root, result, "", "")
        before = content(store.store, run)
        for _ in range(2):
            store.link_scores(version, candidate)
        assert content(store.store, run) == before  # the points of the run are linked, not repeated
        outputs = the_run(store.store, result).outputs
        assert outputs is not None
        assert [output.model_id for output in outputs.model_outputs] == [model.model_id]
        # MLflow answers a repeated request like this, and `link_scores` accepts it.
        with pytest.raises(MlflowException) as refused:
            store.client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])
        assert refused.value.error_code == "BAD_REQUEST"
        ids.append(model.model_id)
    found = store.client.search_logged_models(
        [experiment],
        "name = 'linked'",
        order_by=[
            {"field_name": "metrics.test/mse", "ascending": True, "dataset_name": "emoji test"}
        ],
    )
    assert [model.model_id for model in found] == [ids[1], ids[2], ids[0]]
    linked = {metric.key: metric for metric in found[0].metrics or ()}
    assert linked.keys() >= {"test/mse", "samples/frechet", "latents/active_units"}
    assert linked["test/mse"].dataset_digest == PROFILE["fingerprint"][: datasets.DIGEST]  # type: ignore[index]


def test_a_version_without_a_run_is_linked_with_nothing(store: RegistryStore, make: Make) -> None:
    result = make()
    store.store.write(result)
    run_id = the_run(store.store, result).info.run_id
    model = store.client.create_logged_model(store.store.experiment_id, "alone", run_id)
    store.client.delete_run(run_id)
    candidate = Candidate(store.store.root, result, "", "")
    for run in (run_id, "", "None"):  # a version that a client of MLflow made may have no run
        store.link_scores(Version("alone", 1, model.model_id, run, {}, ""), candidate)
    assert not store.client.get_logged_model(model.model_id).metrics


# --- names and addresses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("test.mse", (), "test/mse"),
        ("seconds.train", (), "seconds/train"),
        ("prior.val_loss", (), "prior/val_loss"),
        ("loss", (), "train/loss"),
        ("loss", ("loss", "test.mse"), "loss"),
        ("test.mse", ("loss", "test.mse"), "test.mse"),
        ("test.ssim", ("loss", "test.mse"), "test/ssim"),
        ("test.mse", ("test/mse",), "test/mse"),
        ("test.mse", ("test.mse", "test/mse"), "test/mse"),
    ],
)
def test_metric_names(name: str, known: tuple[str, ...], expected: str) -> None:
    assert metric_name(name, known) == expected


def test_run_names_tell_results_apart() -> None:
    assert run_name(without_samples(PARAMS)) == "64d · 9 epochs · emoji"
    codes = {
        "seed": 3,
        "dataset": {"kind": "image_folder", "path": "/home/you/cats"},
        "model": {"kind": "codes", "levels": [8, 6, 5]},
        "train": {"epochs": 2, "refine": {"steps": 150}},
        "prior": {"kind": "transformer"},
        "sample": {"sampler": {"kind": "learned"}},
    }
    assert run_name(codes) == "codes · 2 epochs · 150 refining steps · cats · transformer · seed 3"
    assert run_name({}) == ""


@pytest.mark.parametrize(
    ("origin", "name", "kind"),
    [
        ("https://me:secret@host.example/team/faces.git", "faces.git", "PROJECT"),
        ("git@host.example:team/faces.git", "faces", "LOCAL"),
        ("/home/me/faces", "faces", "LOCAL"),
        ("", "checkout", "LOCAL"),
    ],
)
def test_the_source_of_a_run_is_its_repository(
    tmp_path: Path, origin: str, name: str, kind: str
) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    git.run(root, "init", "--quiet")
    if origin:
        git.run(root, "remote", "add", "origin", origin)
    tags = origin_tags(root)
    assert tags["mlflow.source.name"].rpartition("/")[2] == name
    assert tags["mlflow.source.type"] == kind
    assert "secret" not in json.dumps(tags)


def test_make_ui_takes_the_next_free_port() -> None:
    port = pages.free_port("127.0.0.1")
    with socket.create_server(("127.0.0.1", port)):
        assert pages.free_port("127.0.0.1") > port
    assert pages.address("http://127.0.0.1:5000/", "7") == (
        "http://127.0.0.1:5000/#/experiments/7/runs"
        "?workflowType=machine_learning&viewStateShareKey=scores"
    )
