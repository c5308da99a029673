"""The run in MLflow: complete, the same when written again, and never in the way."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.entities import Run

from conftest import Checkout, mlflow_server
from latentworks.artifacts.curves import read_curves
from latentworks.repository import dag
from latentworks.repository.result import Result, recorded_result
from latentworks.system import disk
from latentworks.tracking import outbox
from latentworks.tracking.live import Live
from latentworks.tracking.uri import without_password

LIVE = ("images/", "system/")  # seen only while it happens: no file holds it


def the_run(store: str) -> tuple[mlflow.MlflowClient, Run]:
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("latentworks")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def files(client: mlflow.MlflowClient, run: Run, folder: str | None = None) -> set[str]:
    found = set()
    for entry in client.list_artifacts(run.info.run_id, folder):
        found |= files(client, run, entry.path) if entry.is_dir else {entry.path}
    return found


def contents(store: str) -> dict[str, Any]:
    """All that a run shows, apart from what is seen only while it happens."""
    client, run = the_run(store)
    lasting = [name for name in run.data.metrics if not name.startswith(LIVE)]
    return {
        "params": run.data.params,
        "metrics": {name: run.data.metrics[name] for name in lasting},
        "curves": {
            name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in lasting
        },
        "files": {name for name in files(client, run) if not name.startswith(LIVE)},
        "data": [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs],
        "tags": {
            n: v for n, v in run.data.tags.items() if not n.startswith(("mlflow.", "train", "run."))
        },
        "status": run.info.status,
    }


def test_run_is_complete(finished: Checkout) -> None:
    store = f"sqlite:///{finished.path / 'mlflow.db'}"
    client, run = the_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.latent_dim"] == "2"
    assert run.data.params["sample.sampler.kind"] == "gaussian_mixture"
    assert {name.split(".")[0] for name in run.data.params} == {
        "seed",
        "dataset",
        "prepare",
        "model",
        "train",
        "sample",
    }
    scores = disk.read_json(finished.path / "reports/metrics.json")
    assert run.data.tags["features.kind"] == scores["samples"].pop("features") == "trained"
    for group, values in scores.items():
        for name, value in values.items():
            assert run.data.metrics[f"{group}.{name}"] == value
    for stage in ("fetch", "prepare", "features", "train", "encode", "sample", "evaluate"):
        assert run.data.metrics[f"seconds.{stage}"] > 0
        assert run.data.metrics[f"peak_memory_mb.{stage}"] > 0
    curves = read_curves(finished.path / "reports/curves.csv")
    for name in ("loss", "val_loss", "learning_rate"):
        history = client.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in history] == [(int(e["epoch"]), e[name]) for e in curves]

    assert files(client, run) >= {
        "dvc.lock",
        "params.yaml",
        "model/model.keras",
        "model/config.json",
        "sampler/sampler.npz",
        "latents/latents.parquet",
        "reports/metrics.json",
        "reports/atlas.html",
        "pictures/latent_grid.png",
        "pictures/reconstructions.png",
    }
    live = [name for name in files(client, run) if name.startswith("images/reconstructions")]
    assert len([name for name in live if name.endswith(".png")]) == 4  # one for each epoch
    lock = client.download_artifacts(run.info.run_id, "dvc.lock")
    assert Path(lock).read_bytes() == (finished.path / "dvc.lock").read_bytes()
    commit = finished.run("git", "rev-parse", "HEAD").stdout.strip()
    assert run.data.tags["git.commit"] == commit
    assert run.data.tags["git.dirty"] == "false"
    profile = disk.read_json(finished.path / "data/prepared/profile.json")
    assert run.data.tags["data.fingerprint"] == profile["fingerprint"]


def test_deleted_store_is_written_again_from_the_files(finished: Checkout, tmp_path: Path) -> None:
    expected = contents(f"sqlite:///{finished.path / 'mlflow.db'}")
    checkout = finished.copy(tmp_path / "checkout")
    (checkout.path / "mlflow.db").unlink()
    shutil.rmtree(checkout.path / "mlartifacts")
    # From a folder inside: the store is still the one at the root of the checkout.
    store = f"sqlite:///{checkout.path / 'mlflow.db'}"
    done = Checkout(checkout.path / "src").run("latentworks", "sync")
    assert done.stdout == f"MLflow has this result: {store}\n"
    assert contents(store) == expected
    checkout.run("latentworks", "sync")
    assert contents(store) == expected


def test_sync_without_a_result(untouched: Checkout) -> None:
    done = untouched.run("latentworks", "sync")
    assert "Nothing to write: dvc.lock records no trained model" in done.stdout
    assert not (untouched.path / "mlflow.db").exists()


def test_a_result_that_is_only_half_there_is_not_mixed_with_another(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "seed: 0", "seed: 1")
    checkout.run("dvc", "repro", "--single-item", "train", MLFLOW_TRACKING_URI="sqlite:///x.db")
    result = recorded_result(checkout.path)
    assert result is not None
    # Latents, samples and pictures on disk are still those of the model before.
    made = ("data/raw", "data/prepared", "models/features", "models/autoencoder")
    assert result.outs == Result.of(*map(checkout.path.joinpath, made)).outs
    assert result.params["seed"] == 1


@pytest.mark.parametrize(
    "content", ["<<<<<<< HEAD\nstages:\n=======\n", "", "[1]", "stages:\n", "stages: {train: {}}"]
)
def test_damaged_lock_is_one_line(finished: Checkout, tmp_path: Path, content: str) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    (checkout.path / "dvc.lock").write_text(content)
    done = checkout.run("latentworks", "sync", expected=None)
    assert len((done.stdout + done.stderr).splitlines()) == 1


def test_files_of_another_lock_are_not_taken_for_its_result(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    assert list(dag.recorded(checkout.path)) == list(dag.stages(checkout.path))
    with (checkout.path / "models/autoencoder/model.keras").open("ab") as file:
        file.write(b"other")
    assert "train" not in dag.recorded(checkout.path)


@pytest.mark.parametrize("content", ["", "{", "3", '{"stage": "train"}'])
def test_damaged_records_count_for_nothing(
    finished: Checkout, tmp_path: Path, content: str
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    (checkout.path / ".latentworks/records/train.json").write_text(content)
    listed = checkout.run("latentworks", "timings").stdout
    assert "encode" in listed
    assert "train" not in listed


def test_what_a_kill_left_open_or_half_written_is_settled(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    store = f"sqlite:///{checkout.path / 'mlflow.db'}"
    client, run = the_run(store)
    client.update_run(run.info.run_id, status="RUNNING")
    live = Live(checkout.path, store)
    live.begin("a training")
    for step in (1, 2):
        live.add(step, np.zeros((64, 64, 1), np.uint8))
    spoiled = live.pictures()[1]
    spoiled.write_bytes(spoiled.read_bytes()[:60])
    live.became(disk.file_digest(checkout.path / "models/autoencoder/model.keras"))
    assert "warning" not in checkout.run("latentworks", "sync").stderr
    _, run = the_run(store)
    assert run.info.status == "FINISHED"
    assert not live.pictures()


def test_a_store_that_was_copied_goes_on_beside_its_database(
    finished: Checkout, tmp_path: Path
) -> None:
    path = tmp_path / "another place"
    shutil.copytree(finished.path, path)  # as a person copies a checkout
    Checkout(path).run("latentworks", "sync")
    client, run = the_run(f"sqlite:///{path / 'mlflow.db'}")
    beside = (path / "mlartifacts").as_uri()
    assert run.info.artifact_uri.startswith(f"{beside}/")
    assert client.get_experiment(run.info.experiment_id).artifact_location == beside
    assert files(client, run, "model")


def test_a_password_is_not_shown() -> None:
    assert without_password("http://me:secret@host/x") == "http://host/x"
    assert without_password("sqlite:////a/b@c.db") == "sqlite:////a/b@c.db"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with mlflow_server(tmp_path) as url:
        yield url


def test_one_variable_moves_everything_to_a_server(
    server: str, finished: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(f"sqlite:///{finished.path / 'mlflow.db'}")
    checkout = finished.copy(tmp_path / "checkout")
    (checkout.path / "mlflow.db").unlink()
    done = checkout.run("latentworks", "sync", MLFLOW_TRACKING_URI=server)
    assert done.stdout == f"MLflow has this result: {server}\n"
    assert not (checkout.path / "mlflow.db").exists()
    assert contents(server) == expected


def test_an_equal_model_keeps_the_run_it_has(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    ids = []
    for fingerprint in ("first", "second"):
        with outbox.live_run(fingerprint, Result.of(result.outs["prepared"])) as live:
            live.finish(result.outs["autoencoder"])
        ids.append(the_run(store)[1].info.run_id)
    assert ids[0] == ids[1]


def test_a_training_that_fails_leaves_a_failed_run(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with (
        pytest.raises(ZeroDivisionError),
        outbox.live_run("a fingerprint", Result.of(result.outs["prepared"])),
    ):
        raise ZeroDivisionError
    assert the_run(store)[1].info.status == "FAILED"
