"""The MLflow run of a result is complete, equal when written again, and disturbs no command."""

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.entities import Run

from checkouts import ROOT, Checkout, Project
from latentworks.artifacts.curves import read_curves
from latentworks.repository import dag
from latentworks.repository.result import Result, recorded_result
from latentworks.system import disk
from latentworks.tracking import outbox
from latentworks.tracking.live import Live
from latentworks.tracking.uri import without_password
from servers import dead_proxy, mlflow_server

LIVE = ("images/", "system/")  # logged only during a training: no file holds them


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
    """Return the contents of a run, without those that are logged only during a training."""
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
        "data": sorted((i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs),
        "tags": {
            n: v for n, v in run.data.tags.items() if not n.startswith(("mlflow.", "train", "run."))
        },
        "status": run.info.status,
    }


def test_the_run_has_all_params_metrics_curves_files_and_tags(finished: Checkout) -> None:
    store = finished.database
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
        "prior",
        "sample",
    }
    scores = disk.read_json(finished.path / "reports/metrics.json")
    assert run.data.tags["features.kind"] == scores["samples"].pop("features") == "trained"
    for group, values in scores.items():
        for name, value in values.items():
            assert run.data.metrics[f"{group}/{name}"] == value
    for stage in ("fetch", "prepare", "features", "train", "encode", "prior", "sample", "evaluate"):
        assert run.data.metrics[f"seconds/{stage}"] > 0
        assert run.data.metrics[f"peak_memory_mb/{stage}"] > 0
    curves = read_curves(finished.path / "reports/curves.csv")
    for name in ("loss", "val_loss", "learning_rate"):
        history = client.get_metric_history(run.info.run_id, f"train/{name}")
        assert [(m.step, m.value) for m in history] == [(int(e["epoch"]), e[name]) for e in curves]

    assert run.info.run_name == "2d · 4 epochs · digits.npz · gaussian_mixture"
    assert run.data.tags["mlflow.note.content"].startswith("`autoencoder` with 2 latents, trained")
    assert len(run.inputs.dataset_inputs) == 3

    assert files(client, run) >= {
        "digests.json",
        "description/samples.png",
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
    assert len([name for name in live if name.endswith(".png")]) == 4  # a picture for each epoch
    lock = client.download_artifacts(run.info.run_id, "dvc.lock")
    assert Path(lock).read_bytes() == (finished.path / "dvc.lock").read_bytes()
    commit = finished.run("git", "rev-parse", "HEAD").stdout.strip()
    assert run.data.tags["git.commit"] == commit
    assert run.data.tags["git.dirty"] == "false"
    profile = disk.read_json(finished.path / "data/prepared/profile.json")
    assert run.data.tags["data.fingerprint"] == profile["fingerprint"]


def test_sync_writes_a_deleted_store_again_from_the_files(
    finished: Checkout, tmp_path: Path
) -> None:
    expected = contents(finished.database)
    checkout = finished.copy(tmp_path / "checkout")
    (checkout.path / "mlflow.db").unlink()
    shutil.rmtree(checkout.path / "mlartifacts")
    # In a subfolder, too, the command uses the store at the root of the checkout.
    store = checkout.database
    done = Checkout(checkout.path / "src").run("latentworks", "sync")
    assert done.stdout == f"MLflow has this result: {store}\n"
    assert contents(store) == expected
    checkout.run("latentworks", "sync")
    assert contents(store) == expected


def test_sync_without_a_result_writes_nothing(untouched: Checkout) -> None:
    done = untouched.run("latentworks", "sync")
    assert "Nothing to write: dvc.lock records no trained model" in done.stdout
    assert not (untouched.path / "mlflow.db").exists()


@pytest.mark.cold
def test_a_command_that_makes_the_store_prints_its_own_lines_alone(
    untouched: Checkout, tmp_path: Path
) -> None:
    """MLflow sets the levels of its loggers when it is imported, so the start must be cold."""
    done = untouched.copy(tmp_path / "checkout").run("latentworks", "history")
    assert done.stdout.startswith("No decision about autoencoder exists yet.")
    assert done.stderr == ""


def test_an_incomplete_result_has_no_outs_of_an_earlier_result(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "seed: 0", "seed: 1")
    checkout.run("dvc", "repro", "--single-item", "train", MLFLOW_TRACKING_URI="sqlite:///x.db")
    result = recorded_result(checkout.path)
    assert result is not None
    # Latents, samples and pictures on disk are still those of the earlier model.
    made = ("data/raw", "data/prepared", "models/features", "models/autoencoder")
    assert result.outs == Result.of(*map(checkout.path.joinpath, made)).outs
    assert result.params["seed"] == 1


@pytest.mark.parametrize(
    "content", ["<<<<<<< HEAD\nstages:\n=======\n", "", "[1]", "stages:\n", "stages: {train: {}}"]
)
def test_sync_reports_a_damaged_dvc_lock_in_one_line(
    finished: Checkout, tmp_path: Path, content: str
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    (checkout.path / "dvc.lock").write_text(content)
    done = checkout.run("latentworks", "sync", expected=1)
    (said,) = (done.stdout + done.stderr).splitlines()
    assert said.startswith("dvc.lock ")


def test_a_stage_whose_outs_differ_from_dvc_lock_is_left_out(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    assert list(dag.recorded(checkout.path)) == list(dag.stages(checkout.path))
    with (checkout.path / "models/autoencoder/model.keras").open("ab") as file:
        file.write(b"other")
    assert "train" not in dag.recorded(checkout.path)


@pytest.mark.parametrize("content", ["", "{", "3", '{"stage": "train"}'])
def test_timings_leaves_out_a_damaged_record(
    finished: Checkout, tmp_path: Path, content: str
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    (checkout.path / ".latentworks/records/train.json").write_text(content)
    listed = checkout.run("latentworks", "timings").stdout
    assert "encode" in listed
    assert "train" not in listed


def test_sync_completes_a_run_after_a_kill_despite_a_cut_off_picture(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    store = checkout.database
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


def test_sync_names_the_cure_of_a_deleted_experiment_alone(
    finished: Checkout, tmp_path: Path
) -> None:
    project = Project.copied(finished, tmp_path / "checkout")
    client, run = the_run(project.server)
    client.delete_experiment(run.info.experiment_id)
    told = project.ours("sync", expected=1)
    assert "The experiment 'latentworks' was deleted in MLflow. Restore it: " in told
    assert told.endswith(" in the environment.\n")
    (advice,) = re.findall("`(.+)`", told)
    project.run(*advice.split())
    assert project.ours("sync") == f"MLflow has this result: {project.server}\n"


def test_a_copied_store_writes_artifacts_beside_its_own_database(
    finished: Checkout, tmp_path: Path
) -> None:
    path = tmp_path / "another place"
    shutil.copytree(finished.path, path)  # as a user copies a checkout
    Checkout(path).run("latentworks", "sync")
    client, run = the_run(f"sqlite:///{path / 'mlflow.db'}")
    beside = (path / "mlartifacts").as_uri()
    assert run.info.artifact_uri.startswith(f"{beside}/")
    assert client.get_experiment(run.info.experiment_id).artifact_location == beside
    assert files(client, run, "model")


OLDER = "451aebb31d03"  # a version of the schema in MLflow 1


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (OLDER, "was made by an older MLflow. Run `latentworks backup FILE`, then run `mlflow db"),
        ("abcdef", f"was made by a newer MLflow than {mlflow.__version__}"),
    ],
)
def test_a_database_of_another_mlflow_is_refused_with_the_cure(
    untouched: Checkout, tmp_path: Path, schema: str, told: str
) -> None:
    """MLflow itself brings a database up to date that lacks tables, and refuses others."""
    project = Project(untouched.copy(tmp_path / "it").path, "")
    project.server = project.database
    project.ours("history")
    with closing(sqlite3.connect(project.path / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (schema,))
    assert told in project.ours("history", expected=6)


def test_the_password_in_a_tracking_uri_is_not_shown() -> None:
    assert without_password("http://me:secret@host/x") == "http://host/x"
    assert without_password("sqlite:////a/b@c.db") == "sqlite:////a/b@c.db"
    text = "http://127.0.0.1:8000 follows autoencoder@champion"
    assert without_password(text) == text


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=1))
def test_no_password_is_shown_whatever_its_characters(password: str) -> None:
    said = f"MLflow at http://me:{password}@host:5000/x failed: no route to host"
    assert without_password(said) == "MLflow at http://host:5000/x failed: no route to host"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with mlflow_server(tmp_path) as url:
        yield url


def test_setting_mlflow_tracking_uri_moves_the_run_to_a_server(
    server: str, finished: Checkout, tmp_path: Path
) -> None:
    expected = contents(finished.database)
    checkout = finished.copy(tmp_path / "checkout")
    (checkout.path / "mlflow.db").unlink()
    done = checkout.run("latentworks", "sync", MLFLOW_TRACKING_URI=server)
    assert done.stdout == f"MLflow has this result: {server}\n"
    assert not (checkout.path / "mlflow.db").exists()
    assert contents(server) == expected
    _, run = the_run(server)
    told = checkout.run("python", str(ROOT / "scripts/ui.py"), MLFLOW_TRACKING_URI=server).stdout
    assert told.startswith(f"Open {server}/#/experiments/{run.info.experiment_id}/runs?")


def test_a_proxy_is_not_asked_for_an_mlflow_server_on_this_machine(candidate: Project) -> None:
    done = candidate.run("latentworks", "history", **dead_proxy())
    assert f"No decision about {candidate.name} exists yet" in done.stdout


def test_a_second_training_with_an_equal_model_keeps_the_first_run(
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


def test_the_run_of_a_failed_training_has_the_status_failed(
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
