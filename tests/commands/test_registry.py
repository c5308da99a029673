"""A result becomes a version, then champion, and is rolled back: real commands, real MLflow."""

import json
import re
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image

from checkouts import NAME, ROOT, Checkout, Project, environment
from latentworks.registry.decisions import DECISIONS, Entry
from latentworks.registry.registry import Registry
from latentworks.registry.store import UPLOAD
from latentworks.registry.versions import SHA256
from latentworks.serving import checksums
from latentworks.system import disk
from servers import aliases, closed_port, decisions, serving, sha256

# --- from registration to rollback ---------------------------------------------------------------


def test_a_result_is_registered_promoted_and_rolled_back(
    server: str, good: Checkout, better: Checkout, tmp_path: Path
) -> None:
    name = "way"
    first = Project(good.copy(tmp_path / "first").path, server).named(name)
    second = Project(better.copy(tmp_path / "second").path, server).named(name)
    client = MlflowClient(server)

    assert f"No decision about {name} exists yet" in first.ours("history")
    assert f"{name} version 1 is registered" in first.ours("register")
    assert "`latentworks promote 1`" in first.ours("register")  # no second version
    assert aliases(server, name) == {"challenger": 1}
    said = first.ours("promote")
    assert "Promoted: a first model" in said
    assert f"{name} version 1 is champion" in said
    assert aliases(server, name) == {"champion": 1}
    assert "it is champion already" in first.ours("promote", "1", expected=6)
    assert "version 1 is registered; it is champion\n" in first.ours("register")

    second.ours("register")
    assert aliases(server, name) == {"champion": 1, "challenger": 2}
    said = second.ours("promote")
    assert re.search(r"Promoted: mse 0\.\d+ against 0\.\d+, better by [\d.]+ % \(95 % band", said)
    assert aliases(server, name) == {"champion": 2, "previous": 1}
    version = client.get_model_version(name, "2")
    assert version.tags["decision"] == "promoted"
    assert said.splitlines()[2] in str(version.description)  # the header of the table
    assert "Code: `" in str(version.description)  # the earlier text stays
    about = client.get_run(str(version.run_id)).data.tags["mlflow.note.content"]
    assert about.startswith(f"{name} version 2. Promoted: mse ")
    assert "latents, trained for at most 60 epochs" in about
    experiment = client.get_experiment_by_name("latentworks")
    assert experiment is not None
    order = {"field_name": "metrics.test/mse", "ascending": True}
    models = client.search_logged_models(
        [experiment.experiment_id], f"name = '{name}'", order_by=[order]
    )
    assert models[0].source_run_id == version.run_id  # the best one first

    # The gate refuses the worse model, although it was champion before.
    assert "Refused: mse is worse" in first.ours("promote", "1", expected=7)
    assert aliases(server, name) == {"champion": 2, "previous": 1}

    assert "version 1 is champion again" in second.ours("rollback", "--reason", "blurred")
    assert aliases(server, name) == {"champion": 1, "previous": 2}
    assert "was rolled back: blurred" in second.ours("promote", "2", expected=7)
    second.ours("rollback")
    assert aliases(server, name) == {"champion": 2, "previous": 1}
    text = str(client.get_model_version(name, "2").description)
    assert text.startswith("Restored: version 1 was withdrawn\n")
    assert "better by" in text  # the numbers of its promotion are kept

    told = first.ours("history").splitlines()
    assert told[0] == f"{name}: champion is version 2"
    rows = [line.split()[2:5] for line in told[3:]]
    assert rows == [
        ["1", "promoted", "1"],
        ["2", "promoted", "2"],
        ["1", "refused", "2"],
        ["1", "restored", "1"],
        ["2", "refused", "1"],
        ["2", "restored", "2"],
    ]
    recorded = decisions(server, name)
    assert [(tags["champion.before"], tags["champion.after"]) for tags in recorded] == [
        ("", "1"),
        ("1", "2"),
        ("2", "2"),
        ("2", "1"),
        ("1", "1"),
        ("1", "2"),
    ]
    client.set_registered_model_alias(name, "champion", "1")
    assert "moved by hand: the last decision was for 2" in first.ours("history")


def test_compare_shows_numbers_and_images(server: str, pair: Project) -> None:
    said = pair.ours("compare", "1", "2")
    versions = pair.path / ".latentworks/versions"
    scores = [
        disk.read_json(versions / sha256(server, pair.name, number) / "scores.json")
        for number in ("1", "2")
    ]
    first, second = (each["metrics"]["mse"]["value"] for each in scores)
    (line,) = (line for line in said.splitlines() if line.startswith("mse"))
    change = f"{(second - first) / first:+.1%}"
    assert line.split()[1:] == [f"{first:.4g}", f"{second:.4g}", change, "better"]
    picture = np.asarray(Image.open(pair.path / "comparison.png").convert("L"))
    assert picture.shape[1] > 700
    assert len(np.unique(picture)) > 50  # the picture has images and is no empty page
    assert "has no version 9. Expected one of: 1, 2" in pair.ours("compare", "1", "9", expected=6)


def test_registration_and_promotion_work_without_an_mlflow_server(
    good: Checkout, tmp_path: Path
) -> None:
    checkout = good.copy(tmp_path / "my checkout")  # MLflow quotes the space in some places
    checkout.edit("params.yaml", "    mse: 0.5  #", "    mse: 0.95  #")
    (checkout.path / "mlflow.db").unlink()  # its artifacts are in the checkout that was copied
    store = checkout.database
    code = {"PYTHONPATH": str(checkout.path / "src")}
    checkout.run("latentworks", "register", **code)
    # No alias moves before the decision is on record: here MLflow refuses to record it.
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(DECISIONS)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    told = checkout.run("latentworks", "promote", expected=6, **code).stderr
    assert f"The experiment '{DECISIONS}' was deleted in MLflow." in told
    assert aliases(store, "autoencoder") == {"challenger": 1}
    client.restore_experiment(experiment.experiment_id)
    checkout.run("latentworks", "promote", **code)
    done = checkout.run("latentworks", "history", **code)
    assert done.stdout.startswith("autoencoder: champion is version 1\n")
    assert aliases(store, "autoencoder") == {"champion": 1}
    # A client that loads from the files of the store leaves bytecode there, which is harmless.
    (folder,) = (file.parent for file in (checkout.path / "mlartifacts").rglob("MLmodel"))
    script = f"import mlflow; mlflow.pyfunc.load_model({str(folder)!r})"
    checkout.run("python", "-c", script, PYTHONDONTWRITEBYTECODE="")
    assert [*folder.rglob("__pycache__")]
    shutil.rmtree(checkout.path / ".latentworks/versions")
    assert "champion already" in checkout.run("latentworks", "promote", "1", expected=6).stderr


def test_a_damaged_local_copy_is_fetched_again(server: str, pair: Project) -> None:
    pair.ours("compare", "1", "2")
    folder = pair.path / ".latentworks/versions" / sha256(server, pair.name, "1")
    (folder / "pyfunc.py").write_text("damaged")
    pair.ours("compare", "1", "2")
    checksums.verify(folder, folder.name, "it")


# --- other data, and a first model ---------------------------------------------------------------


def test_champion_and_challenger_are_scored_on_the_challengers_data(
    server: str, good: Checkout, tmp_path: Path
) -> None:
    name = "grown"
    old = Project(good.copy(tmp_path / "old").path, server).named(name)
    old.ours("register")
    old.ours("promote")
    new = Project(good.copy(tmp_path / "new").path, server).named(name)
    with np.load(new.path / "digits.npz") as digits:
        arrays = dict(digits)
    arrays["x_test"], arrays["y_test"] = arrays["x_test"][:200], arrays["y_test"][:200]
    np.savez(new.path / "digits.npz", **arrays)
    new.commit("--update")
    new.run("dvc", "repro", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'new.db'}")
    new.ours("register")
    # The old checkout lacks the challenger's data, so that it cannot score the champion on them.
    assert "Run the command in the checkout that made" in old.ours("promote", "2", expected=6)
    # The same training images and seed make the same model, which is better on no data.
    assert "is not better" in new.ours("promote", expected=7)
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(DECISIONS)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`model.name` = '{name}'")
    (run,) = (run for run in found if run.data.tags["decision"] == "refused")
    assert run.data.metrics["mse/champion"] == run.data.metrics["mse/challenger"]
    folder = new.path / ".latentworks/versions" / sha256(server, name, "1")
    recorded = disk.read_json(folder / "scores.json")["metrics"]["mse"]["value"]
    assert run.data.metrics["mse/champion"] != recorded


def test_a_first_model_beyond_its_limit_is_not_promoted(
    server: str, finished: Checkout, tmp_path: Path
) -> None:
    checkout = Project(finished.copy(tmp_path / "checkout").path, server).named("first")
    checkout.ours("register")
    # After four epochs on these few images, the model is worse than a constant mean image.
    assert "Refused: mse is not within its limit" in checkout.ours("promote", expected=7)
    assert aliases(server, "first") == {"challenger": 1}


# --- interrupted decisions and invalid requests ---------------------------------------------------


def test_an_interrupted_decision_is_carried_out_once(
    server: str, pair: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test records decisions as a process does that is killed before it moves the aliases."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    store = Registry(pair.path).store
    before = aliases(server, pair.name)
    for version, decision in ((before["previous"], "restored"), (before["champion"], "restored")):
        champion = aliases(server, pair.name)["champion"]
        reason = "collars"
        text = f"Restored: {reason}"
        scores = {"mse/challenger": 0.25 * version, "mse/champion": 0.5}
        entry = Entry(
            *(uuid.uuid4().hex, pair.name, version, decision, reason, champion, version, text),
            metrics=scores,
        )
        run_id = store.decisions.record(entry).run_id
        assert "in progress, or interrupted" in pair.ours("history")
        # The repeated rollback completes the interrupted rollback, and goes no step further.
        assert f"version {version} is champion again" in pair.ours("rollback")
        assert aliases(server, pair.name)["champion"] == version
        assert MlflowClient(server).get_run(run_id).data.metrics == scores
    assert aliases(server, pair.name) == before
    decisions(server, pair.name)  # asserts that all are finished

    gone = Entry(uuid.uuid4().hex, pair.name, 77, "promoted", "?", before["champion"], 77, "?")
    store.decisions.record(gone)
    pair.ours("rollback")
    pair.ours("rollback")
    assert aliases(server, pair.name) == before
    assert "(never carried out)" in pair.ours("history")
    client = MlflowClient(server)
    client.delete_run(store.decisions.of(pair.name)[-3].run_id)  # the decision never carried out


def test_invalid_requests_are_refused_and_change_nothing(
    server: str, pair: Project, tmp_path: Path
) -> None:
    before = aliases(server, pair.name)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("precious")
    assert "must be the name of a PNG file" in pair.ours(
        "compare", "1", "2", "--picture", str(folder), expected=1
    )
    assert (folder / "file").read_text() == "precious"
    assert "at most 500 characters" in pair.ours("rollback", "--reason", "x" * 501, expected=6)
    client = MlflowClient(server)
    recorded = sha256(server, pair.name, "1")
    client.set_model_version_tag(pair.name, "1", SHA256, str(folder))
    assert "has no recorded sha256" in pair.ours("rollback", expected=6)
    assert (folder / "file").exists()
    client.set_model_version_tag(pair.name, "1", SHA256, recorded)
    assert aliases(server, pair.name) == before


def test_a_refused_version_does_not_win_by_the_deletion_of_the_champion(
    champion: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.copied(champion, tmp_path / "checkout")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.server)  # MLflow looks for the model there
    client = MlflowClient(project.server)
    first = client.get_model_version(NAME, "1")
    client.create_model_version(NAME, first.source, first.run_id, first.tags)
    client.delete_model_version_tag(NAME, "2", "decision")
    assert "not better beyond chance" in project.ours("promote", "2", expected=7)
    client.delete_model_version(NAME, "1")
    for _ in range(2):
        assert "it was refused against version 1, which" in project.ours("promote", "2", expected=7)
    assert client.get_registered_model(NAME).aliases == {}
    client.set_registered_model_alias(NAME, "champion", "2")
    experiment = client.get_experiment_by_name(DECISIONS)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    told = project.ours("history", expected=6)
    assert f"The experiment '{DECISIONS}' was deleted in MLflow. Restore it: " in told
    (advice,) = re.findall("`(.+)`", told)
    project.run(*advice.split())
    assert "refused" in project.ours("history")
    for run in client.search_runs([experiment.experiment_id]):
        client.delete_run(run.info.run_id)
    assert "champion is version 2, and no decision is on record" in project.ours("history")


def test_uploads_of_killed_registers_are_removed_after_a_day(
    champion: Checkout, tmp_path: Path
) -> None:
    project = Project.copied(champion, tmp_path / "checkout")
    registry, client = Registry(project.path, project.server), MlflowClient(project.server)
    experiment = registry.store.store.experiment_id
    complete = client.create_logged_model(experiment, NAME, tags={UPLOAD: "another key"})
    client.finalize_logged_model(complete.model_id, "READY")  # the kill came before the version
    killed = client.create_logged_model(experiment, NAME, tags={UPLOAD: "a key"})
    deleted = client.create_logged_model(experiment, NAME, tags={UPLOAD: "the last key"})
    file = tmp_path / "half"
    file.write_text("of a model")
    client.log_model_artifact(killed.model_id, str(file))
    client.log_model_artifact(deleted.model_id, str(file))
    client.delete_logged_model(deleted.model_id)  # by somebody, in MLflow
    copy, restorable = (
        Path(str(model.artifact_location).removeprefix("file://")) / "half"
        for model in (killed, deleted)
    )

    def known() -> set[str]:
        return {model.model_id for model in client.search_logged_models([experiment])}

    before = known()
    registry.tidy()
    assert known() == before
    assert copy.exists()
    registry.tidy(abandoned=0)
    assert known() == before - {killed.model_id, complete.model_id}
    assert not copy.exists()
    assert restorable.exists()
    project.run("mlflow", "gc", "--backend-store-uri", project.server)
    assert not restorable.exists()
    project.ours("verify")  # the files of the version are intact


def test_verify_reports_a_damaged_or_lost_database(champion: Checkout, tmp_path: Path) -> None:
    path = tmp_path / "checkout"
    project = Project.copied(champion, path)
    assert "1 version" in project.ours("verify")
    database = path / "mlflow.db"
    whole = database.read_bytes()
    half = len(whole) // 2
    for content, wrong in (
        (whole[:half], "malformed"),
        (b"garbage" * 1000, "file is not a database"),
        (whole[:4096] + bytes(half) + whole[4096 + half :], ""),
        (b"", "empty; it held 1 version"),
        (None, "missing; it held 1 version"),
    ):
        for file in path.glob("mlflow.db*"):
            file.unlink()
        if content is not None:
            database.write_bytes(content)
        said = project.ours("verify", expected=11)
        assert "mlflow.db in MLflow: " in said
        assert wrong in said
    database.write_bytes(whole)
    assert "1 version" in project.ours("verify")


def test_a_write_that_a_kill_interrupted_is_no_damage(champion: Checkout, tmp_path: Path) -> None:
    """SQLite undoes it by the journal that lies beside the database."""
    path = tmp_path / "checkout"
    project = Project.copied(champion, path)
    script = (
        "import os, sqlite3\n"
        "database = sqlite3.connect('mlflow.db')\n"
        "database.execute('PRAGMA cache_spill = 1')\n"
        "database.execute('PRAGMA cache_size = 1')\n"
        "database.execute('UPDATE model_version_tags SET value = hex(randomblob(9000))')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=path)
    assert killed.returncode == -signal.SIGKILL
    assert (path / "mlflow.db-journal").exists()
    assert "1 version" in project.ours("verify")


def test_register_refuses_running_code_of_another_checkout(
    candidate: Project, pair: Project
) -> None:
    other = str(pair.path / "src")
    done = candidate.run("latentworks", "register", expected=7, PYTHONPATH=other)
    assert "the running code is not from this checkout" in done.stderr


def test_the_result_of_a_damaged_version_is_registered_again(
    candidate: Project, server: str
) -> None:
    candidate.edit("params.yaml", f"model_name: {candidate.name}", "model_name: anew")
    candidate.ours("register")
    client = MlflowClient(server)
    client.set_model_version_tag("anew", "1", SHA256, "0" * 64)
    assert "anew version 2 is registered" in candidate.ours("register")
    client.delete_registered_model_alias("anew", "challenger")  # as after a kill before it was set
    assert "anew version 2 is registered" in candidate.ours("register")
    assert aliases(server, "anew") == {"challenger": 2}


# --- clients -------------------------------------------------------------------------------------


def test_the_python_example_of_the_readme_works(pair: Project, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(import mlflow.*?)```", text, flags=re.DOTALL)
    # The tests use smaller images.
    for old, new in {
        "autoencoder@": f"{pair.name}@",
        "32, 32": "8, 8",
        "128, 128": "32, 32",
    }.items():
        assert old in example
        example = example.replace(old, new)
    pair.run("python", "-c", f"import os; os.chdir({str(tmp_path)!r})\n{example}")
    picture = np.asarray(Image.open(tmp_path / "16.png"))
    assert picture.shape == (32, 32)
    assert len(np.unique(picture)) > 50


def test_mlflow_models_serve_serves_the_champion(
    server: str, pair: Project, tmp_path: Path
) -> None:
    port = closed_port()
    call = ["mlflow", "models", "serve", "--model-uri", f"models:/{pair.name}@champion"]
    call += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    away = tmp_path / "away"
    away.mkdir()
    with serving(call, port, "/ping", away, MLFLOW_TRACKING_URI=server) as url:

        def ask(inputs: Any, **params: Any) -> requests.Response:
            body = {"inputs": inputs, "params": params}
            return requests.post(f"{url}/invocations", json=body, timeout=30)

        samples = ask([], verb="sample", num=3, seed=0).json()["predictions"]
        assert np.shape(samples) == (3, 8, 8, 1)
        again = ask(samples).json()["predictions"]
        assert np.shape(again) == (3, 8, 8, 1)
        latents = ask(samples, verb="encode").json()["predictions"]
        assert ask(latents, verb="log_density").status_code == 200
        assert set(ask(samples, verb="anomaly_score").json()["predictions"][0]) == {
            "error",
            "percentile",
        }
        assert ask([], verb="sample", sede=0).ok  # MLflow drops unknown params, and warns
        for answer, said in (
            (ask([[[0.5]]]), "whole numbers from 0 to 255"),
            (ask([], verb="paint"), "verb is one of"),
        ):
            assert answer.status_code == 400
            assert said in json.loads(answer.text)["message"]


@pytest.mark.system
def test_a_client_needs_the_pinned_requirements_alone(
    server: str, pair: Project, tmp_path: Path
) -> None:
    """The client has an environment of its own, made from the version's requirements.txt."""
    away = tmp_path / "away"
    away.mkdir()
    python = away / "env/bin/python"
    pair.ours("compare", "1", "2")
    folder = pair.path / ".latentworks/versions" / sha256(server, pair.name, "2")
    install = ["uv", "pip", "install", "--quiet", "--python", str(python), "--requirements"]
    for call in (
        ["uv", "venv", "--quiet", str(away / "env")],
        [*install, str(folder / "requirements.txt")],
    ):
        subprocess.run(call, check=True, env=environment())
    script = (
        f"import mlflow, sys; model = mlflow.pyfunc.load_model('models:/{pair.name}@champion'); "
        "images = model.predict(None, params={'verb': 'sample', 'num': 16}); "
        "print(images.shape, 'tensorflow' in sys.modules); import latentworks"
    )
    done = subprocess.run(
        [python, "-c", script],
        cwd=away,
        env={"PATH": "/usr/bin:/bin", "MLFLOW_TRACKING_URI": server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(16, 8, 8, 1) False\n"
    assert "No module named 'latentworks'" in done.stderr
    port = closed_port()
    call = [str(python), "-m", "mlflow", "models", "serve", "-m", f"models:/{pair.name}@champion"]
    call += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{python.parent}:/usr/bin:/bin"
    with serving(call, port, "/ping", away, MLFLOW_TRACKING_URI=server, PATH=path) as url:
        body = {"inputs": [], "params": {"verb": "sample", "num": 2}}
        answer = requests.post(f"{url}/invocations", json=body, timeout=30)
        assert np.shape(answer.json()["predictions"]) == (2, 8, 8, 1)
