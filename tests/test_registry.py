"""From a result to a version, to the alias, and back: on a real MLflow server, by real commands."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image

from conftest import ROOT, Checkout, closed_port, environment, mlflow_server, serving
from latentworks import artifacts, locks
from latentworks.registry import Registry
from latentworks.registry_store import DECISIONS, SHA256, Entry
from latentworks.scores import Scores
from latentworks.serving import packaging

DEADLINE = 60.0  # seconds that another process may take to do what is waited for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


class Project(Checkout):
    """A checkout whose MLflow is the server."""

    def __init__(self, path: Path, server: str) -> None:
        super().__init__(path)
        self.server = server

    def environment(self, **changes: str) -> dict[str, str]:
        ours = {"MLFLOW_TRACKING_URI": self.server, "PYTHONPATH": str(self.path / "src")}
        return super().environment(**{**ours, **changes})

    def ours(self, *call: str, expected: int | None = 0) -> str:
        """What a command of ours says."""
        done = self.run("latentworks", *call, expected=expected)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def named(self, name: str) -> "Project":
        """The same, with its versions under another name and a limit that such models reach."""
        self.edit("params.yaml", "model_name: autoencoder", f"model_name: {name}")
        self.edit("params.yaml", "    mse: 0.5  #", "    mse: 0.95  #")
        return self


def trained(finished: Checkout, path: Path, epochs: int) -> Checkout:
    """A checkout whose model has trained for longer."""
    checkout = finished.copy(path)
    checkout.edit("params.yaml", "epochs: 4", f"epochs: {epochs}")
    checkout.run("dvc", "repro", MLFLOW_TRACKING_URI=f"sqlite:///{path / 'mlflow.db'}")
    return checkout


@pytest.fixture(scope="module")
def good(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return trained(finished, tmp_path_factory.mktemp("good") / "checkout", 20)


@pytest.fixture(scope="module")
def better(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return trained(finished, tmp_path_factory.mktemp("better") / "checkout", 60)


def aliases(server: str, name: str) -> dict[str, int]:
    known = MlflowClient(server).get_registered_model(name).aliases
    return {alias: int(number) for alias, number in known.items()}


def decisions(server: str, name: str) -> list[dict[str, str]]:
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(DECISIONS)
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id],
        f"tags.`model.name` = '{name}'",
        order_by=["attributes.start_time ASC"],
    )
    assert all(run.info.status == "FINISHED" for run in runs)
    return [run.data.tags for run in runs]


# --- the way of a model --------------------------------------------------------------------------


def test_from_a_result_to_the_champion_and_back(
    server: str, good: Checkout, better: Checkout, tmp_path: Path
) -> None:
    name = "way"
    first = Project(good.copy(tmp_path / "first").path, server).named(name)
    second = Project(better.copy(tmp_path / "second").path, server).named(name)
    client = MlflowClient(server)

    assert f"nothing was decided about {name} yet" in first.ours("history")
    assert f"{name} version 1 is registered" in first.ours("register")
    assert "`latentworks promote 1`" in first.ours("register")  # the same, once
    assert aliases(server, name) == {"challenger": 1}
    said = first.ours("promote")
    assert "Promoted: a first model" in said
    assert f"{name} version 1 is champion" in said
    assert aliases(server, name) == {"champion": 1}
    assert "is champion already" in first.ours("promote", "1", expected=6)

    second.ours("register")
    assert aliases(server, name) == {"champion": 1, "challenger": 2}
    said = second.ours("promote")
    assert re.search(r"Promoted: mse 0\.\d+ against 0\.\d+, better by [\d.]+ % \(95 % band", said)
    assert aliases(server, name) == {"champion": 2, "previous": 1}
    version = client.get_model_version(name, "2")
    assert version.tags["decision"] == "promoted"
    assert said.splitlines()[2] in str(version.description)  # the table's head
    assert "Code: `" in str(version.description)  # and what was there before

    # The one that is worse does not come back by itself.
    assert "Refused: mse is worse" in first.ours("promote", "1", expected=7)
    assert aliases(server, name) == {"champion": 2, "previous": 1}

    assert "version 1 is champion again" in second.ours("rollback", "--reason", "blurred")
    assert aliases(server, name) == {"champion": 1, "previous": 2}
    assert "was rolled back: blurred" in second.ours("promote", "2", expected=7)
    second.ours("rollback")
    assert aliases(server, name) == {"champion": 2, "previous": 1}
    text = str(client.get_model_version(name, "2").description)
    assert text.startswith("Restored: version 1 was withdrawn\n")
    assert "better by" in text  # the numbers it was promoted with are still there

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


@pytest.fixture(scope="module")
def pair(
    server: str, good: Checkout, better: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A checkout of a model with two versions; the second one is champion, the first previous."""
    folder = tmp_path_factory.mktemp("pair")
    first = Project(good.copy(folder / "first").path, server).named("pair")
    second = Project(better.copy(folder / "second").path, server).named("pair")
    for each in (first, second):
        each.ours("register")
        each.ours("promote")
    return second


def sha256(server: str, name: str, number: str) -> str:
    return str(MlflowClient(server).get_model_version(name, number).tags[SHA256])


def test_compare_shows_numbers_and_images(server: str, pair: Project) -> None:
    said = pair.ours("compare", "1", "2")
    versions = pair.path / ".latentworks/versions"
    scores = [
        artifacts.read_json(versions / sha256(server, "pair", number) / "scores.json")
        for number in ("1", "2")
    ]
    first, second = (each["metrics"]["mse"]["value"] for each in scores)
    (line,) = (line for line in said.splitlines() if line.startswith("mse"))
    change = f"{(second - first) / first:+.1%}"
    assert line.split()[1:] == [f"{first:.4g}", f"{second:.4g}", change]
    picture = np.asarray(Image.open(pair.path / "comparison.png").convert("L"))
    assert picture.shape[1] > 700
    assert len(np.unique(picture)) > 50  # images, not an empty page
    assert "has no version 9. Expected one of: 1, 2" in pair.ours("compare", "1", "9", expected=6)


def test_rollback_takes_seconds(pair: Project) -> None:
    times = []
    for _ in range(4):  # there and back again, twice
        shutil.rmtree(pair.path / ".latentworks/versions", ignore_errors=True)  # nothing at hand
        start = time.monotonic()
        pair.ours("rollback")
        times.append(time.monotonic() - start)
    assert statistics.median(times) <= 5, times  # the machine is shared


def test_without_a_server(good: Checkout, tmp_path: Path) -> None:
    checkout = good.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "    mse: 0.5  #", "    mse: 0.95  #")
    (checkout.path / "mlflow.db").unlink()  # whose files are in the checkout that was copied
    store = f"sqlite:///{checkout.path / 'mlflow.db'}"
    for call in ("register", "promote", "history"):
        done = checkout.run("latentworks", call, PYTHONPATH=str(checkout.path / "src"))
    assert done.stdout.startswith("autoencoder: champion is version 1\n")
    assert aliases(store, "autoencoder") == {"champion": 1}
    # Who loads from the files of the store leaves bytecode there, which harms nobody.
    (folder,) = (file.parent for file in (checkout.path / "mlartifacts").rglob("MLmodel"))
    script = f"import mlflow; mlflow.pyfunc.load_model({str(folder)!r})"
    checkout.run("python", "-c", script, PYTHONDONTWRITEBYTECODE="")
    assert [*folder.rglob("__pycache__")]
    shutil.rmtree(checkout.path / ".latentworks/versions")
    assert "champion already" in checkout.run("latentworks", "promote", "1", expected=6).stderr


# --- data that has grown -------------------------------------------------------------------------


def test_both_are_scored_on_the_challengers_data(
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
    author = ("-c", "user.name=Tests", "-c", "user.email=tests@example.org")
    new.run("git", *author, "commit", "--quiet", "--all", "--message", "fewer digits")
    new.run("dvc", "repro", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'new.db'}")
    new.ours("register")
    # From the old checkout the champion cannot be scored on data that is not there.
    assert "Run this in the checkout that made it" in old.ours("promote", "2", expected=6)
    # The same training images and seed, so the same model: no better on any data.
    assert "is not better" in new.ours("promote", expected=7)
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name(DECISIONS)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`model.name` = '{name}'")
    (run,) = (run for run in found if run.data.tags["decision"] == "refused")
    assert run.data.metrics["mse.champion"] == run.data.metrics["mse.challenger"]
    folder = new.path / ".latentworks/versions" / sha256(server, name, "1")
    recorded = artifacts.read_json(folder / "scores.json")["metrics"]["mse"]["value"]
    assert run.data.metrics["mse.champion"] != recorded


def test_a_first_model_meets_limits(server: str, finished: Checkout, tmp_path: Path) -> None:
    checkout = Project(finished.copy(tmp_path / "checkout").path, server).named("first")
    checkout.ours("register")
    # Four epochs on these few images: worse than always answering with the mean image.
    assert "Refused: mse is not within its limit" in checkout.ours("promote", expected=7)
    assert aliases(server, "first") == {"challenger": 1}


# --- what was interrupted, or asked for in odd ways -----------------------------------------------


def test_a_decision_that_was_interrupted_is_carried_out_once(
    server: str, pair: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process leaves it that is killed when it has written what it decided."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    store = Registry(pair.path).store
    before = aliases(server, "pair")
    for version, decision in ((before["previous"], "restored"), (before["champion"], "restored")):
        champion = aliases(server, "pair")["champion"]
        reason = "collars"
        text = f"Restored: {reason}"
        entry = Entry(uuid.uuid4().hex, "pair", version, decision, reason, champion, version, text)
        store.record(entry, {})
        assert "under way, or interrupted" in pair.ours("history")
        # Asked for again, it is what was asked for, not one step further back.
        assert f"version {version} is champion again" in pair.ours("rollback")
        assert aliases(server, "pair")["champion"] == version
    assert aliases(server, "pair") == before
    decisions(server, "pair")  # all of them finished

    gone = Entry(uuid.uuid4().hex, "pair", 77, "promoted", "?", before["champion"], 77, "?")
    store.record(gone, {})
    pair.ours("rollback")
    pair.ours("rollback")
    assert aliases(server, "pair") == before
    assert "(never done)" in pair.ours("history")
    client = MlflowClient(server)
    client.delete_run(store.decisions("pair")[-3].run_id)  # the one that nobody made


def test_odd_requests_are_one_line_and_change_nothing(
    server: str, pair: Project, tmp_path: Path
) -> None:
    before = aliases(server, "pair")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").write_text("precious")
    assert "is the name of a PNG file" in pair.ours(
        "compare", "1", "2", "--picture", str(folder), expected=1
    )
    assert (folder / "file").read_text() == "precious"
    assert "at most 500 characters" in pair.ours("rollback", "--reason", "x" * 501, expected=6)
    client = MlflowClient(server)
    recorded = sha256(server, "pair", "1")
    client.set_model_version_tag("pair", "1", SHA256, str(folder))
    assert "has no recorded sha256" in pair.ours("rollback", expected=6)
    assert (folder / "file").exists()
    client.set_model_version_tag("pair", "1", SHA256, recorded)
    assert aliases(server, "pair") == before


def test_code_of_another_checkout_is_not_registered(candidate: Project, pair: Project) -> None:
    other = str(pair.path / "src")
    done = candidate.run("latentworks", "register", expected=7, PYTHONPATH=other)
    assert "the code that runs is not that of this checkout" in done.stderr


def test_a_damaged_version_is_registered_anew(candidate: Project, server: str) -> None:
    candidate.edit("params.yaml", "model_name: refused", "model_name: anew")
    candidate.ours("register")
    client = MlflowClient(server)
    client.set_model_version_tag("anew", "1", SHA256, "0" * 64)
    assert "anew version 2 is registered" in candidate.ours("register")
    client.delete_registered_model_alias("anew", "challenger")  # a kill before it was set
    assert "anew version 2 is registered" in candidate.ours("register")
    assert aliases(server, "anew") == {"challenger": 2}


# --- what is refused -----------------------------------------------------------------------------


def refused(checkout: Project, said: str, code: int = 7) -> None:
    told = checkout.ours("register", expected=code)
    assert said in told, told
    assert len(told.splitlines()) == 1, told


def commit_outputs(checkout: Project) -> None:
    """Make dvc.lock true of the files that are there, as a careless person can."""
    checkout.run("dvc", "commit", "--force")


@pytest.fixture
def candidate(server: str, finished: Checkout, tmp_path: Path) -> Project:
    return Project(finished.copy(tmp_path / "checkout").path, server).named("refused")


def test_code_that_is_not_committed(candidate: Project) -> None:
    with (candidate.path / "src/latentworks/cli.py").open("a") as file:
        file.write("# an edit\n")
    refused(candidate, "the code differs from its commit: src/latentworks/cli.py. Commit it")
    candidate.run("git", "checkout", "--quiet", "src")
    (candidate.path / "src/latentworks/samplers/new.py").write_text("")
    refused(candidate, "the code differs from its commit: src/latentworks/samplers/new.py")


def test_what_is_kept_with_the_run_may_differ(candidate: Project) -> None:
    with (candidate.path / "params.yaml").open("a") as file:
        file.write("# a note\n")
    assert "is registered" in candidate.ours("register")


def test_a_result_of_other_parameters_or_files(candidate: Project) -> None:
    candidate.edit("params.yaml", "epochs: 4", "epochs: 5")
    refused(candidate, "stage train: params.yaml train modified")
    candidate.edit("params.yaml", "epochs: 5", "epochs: 4")
    with (candidate.path / "models/autoencoder/model.keras").open("ab") as file:
        file.write(b"other")
    refused(candidate, "models/autoencoder modified")


def test_a_training_that_diverged(candidate: Project) -> None:
    path = candidate.path / "models/autoencoder/curves.csv"
    path.write_text(re.sub(r"^(4\.0),[^,]*", r"\1,nan", path.read_text(), flags=re.MULTILINE))
    commit_outputs(candidate)
    refused(candidate, "the training diverged: loss is nan after epoch 4")


def test_data_without_a_fingerprint(candidate: Project) -> None:
    path = candidate.path / "data/prepared/profile.json"
    profile = artifacts.read_json(path)
    del profile["fingerprint"]
    artifacts.write_json(path, profile)
    commit_outputs(candidate)
    refused(candidate, "has no data fingerprint")


def test_a_servable_that_does_not_answer_as_keras_did(candidate: Project, server: str) -> None:
    graph = candidate.path / "models/servable/decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-2000])
    commit_outputs(candidate)
    before = len(MlflowClient(server).search_model_versions("name = 'refused'"))
    refused(candidate, "pre-flight: ", code=6)
    assert len(MlflowClient(server).search_model_versions("name = 'refused'")) == before


def test_another_interface_is_another_name(server: str, finished: Checkout, tmp_path: Path) -> None:
    name = "faces"
    Project(finished.copy(tmp_path / "one").path, server).named(name).ours("register")
    other = Project(finished.copy(tmp_path / "other").path, server).named(name)
    other.edit("params.yaml", "latent_dim: 2", "latent_dim: 3")
    other.run("dvc", "repro", MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'other.db'}")
    refused(other, "holds models of 8x8x1 images, 2 latents, and its clients rely on that")
    other.edit("params.yaml", f"model_name: {name}", "model_name: faces-3d")
    assert "faces-3d version 1 is registered" in other.ours("register")


def test_a_server_that_is_down_is_one_line(finished: Checkout, tmp_path: Path) -> None:
    away = Project(finished.copy(tmp_path / "checkout").path, f"http://127.0.0.1:{closed_port()}")
    for call in ("register", "promote", "rollback", "history"):
        start = time.monotonic()
        told = away.ours(call, expected=6)
        assert time.monotonic() - start < 30
        assert told.startswith("MLflow at http://127.0.0.1:"), told
        assert len(told.splitlines()) == 1, told


# --- files that were changed after registration --------------------------------------------------


def stored(server_folder: Path, model_id: str, name: str) -> Path:
    (path,) = server_folder.rglob(f"{model_id}/artifacts/{name}")
    return path


def test_changed_files_are_never_loaded(good: Checkout, better: Checkout, tmp_path: Path) -> None:
    name = "changed"
    folder = tmp_path / "server"
    folder.mkdir()
    with mlflow_server(folder) as server:
        first = Project(good.copy(tmp_path / "first").path, server).named(name)
        second = Project(better.copy(tmp_path / "second").path, server).named(name)
        first.ours("register")
        first.ours("promote")
        second.ours("register")

        client = MlflowClient(server)
        ids = [client.get_model_version(name, number).source for number in ("1", "2")]
        paths = [
            stored(folder, str(source).removeprefix("models:/"), "pyfunc.py") for source in ids
        ]
        texts = [path.read_text() for path in paths]
        # Code that would leave a trace if anything loaded it.
        trace = tmp_path / "trace"
        paths[1].write_text(f"open({str(trace)!r}, 'w')\n{texts[1]}")
        told = second.ours("promote", expected=7)
        assert f"{name} version 2: pyfunc.py does not match its sha256" in told
        assert not trace.exists()
        assert aliases(server, name) == {"champion": 1, "challenger": 2}
        assert decisions(server, name)[-1]["decision"] == "refused"

        paths[1].write_text(texts[1])
        second.ours("promote")
        shutil.rmtree(second.path / ".latentworks/versions")
        paths[0].write_text(f"open({str(trace)!r}, 'w')\n{texts[0]}")
        told = second.ours("rollback", expected=6)
        assert f"{name} version 1: pyfunc.py does not match its sha256" in told
        assert not trace.exists()
        assert aliases(server, name) == {"champion": 2, "previous": 1}


def test_a_damaged_local_copy_is_fetched_again(server: str, pair: Project) -> None:
    pair.ours("compare", "1", "2")
    folder = pair.path / ".latentworks/versions" / sha256(server, "pair", "1")
    (folder / "pyfunc.py").write_text("damaged")
    pair.ours("compare", "1", "2")
    packaging.verify(folder, folder.name, "it")


# --- many at once, and kills ---------------------------------------------------------------------

NUM_PROCESSES = 8
NUM_ROUNDS = 50


@pytest.fixture(scope="module")
def ladder(server: str, good: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A model with a version for each process, each of them better than the one before by far.

    They are one model with scores recorded in another amount: the race is about the choice.
    """
    path = tmp_path_factory.mktemp("ladder") / "checkout"
    checkout = Project(good.copy(path).path, server).named("ladder")
    checkout.ours("register")
    client = MlflowClient(server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server)
        store = Registry(path).store
        version = store.get("ladder", 1)
        folder = path.with_name("version")
        for rung in range(1, NUM_PROCESSES):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(store.fetch(version), folder)
            scores = Scores.from_json(artifacts.read_json(folder / packaging.SCORES))
            mse = scores.metrics["mse"]
            assert mse.replicates is not None
            lower = replace(mse, value=mse.value * 0.8**rung, replicates=mse.replicates * 0.8**rung)
            better = replace(scores, metrics={**scores.metrics, "mse": lower})
            artifacts.write_json(folder / packaging.SCORES, better.to_json())
            tags = {**version.tags, SHA256: packaging.seal(folder)}
            model = client.create_logged_model(store.store.experiment_id, "ladder")
            client.log_model_artifacts(model.model_id, str(folder))
            client.finalize_logged_model(model.model_id, "READY")
            source = f"models:/{model.model_id}"
            client.create_model_version("ladder", source, tags=tags, model_id=model.model_id)
    return checkout


def promote_in_every_round(
    root: Path, server: str, number: int, start: Barrier, end: Barrier
) -> None:
    """What one process does: promote its version as soon as a round begins."""
    os.environ["MLFLOW_TRACKING_URI"] = server
    os.chdir(root)
    registry = Registry(root)
    for _ in range(NUM_ROUNDS):
        start.wait(timeout=300)
        registry.promote(number)
        end.wait(timeout=300)


def test_the_best_is_champion_whoever_comes_first(server: str, ladder: Project) -> None:
    client = MlflowClient(server)
    context = multiprocessing.get_context("spawn")
    start, end = (context.Barrier(NUM_PROCESSES + 1) for _ in range(2))
    processes = [
        context.Process(
            target=promote_in_every_round, args=(ladder.path, server, number, start, end)
        )
        for number in range(1, NUM_PROCESSES + 1)
    ]
    for process in processes:
        process.start()
    try:
        champions = []
        for _ in range(NUM_ROUNDS):
            for alias in aliases(server, "ladder"):
                client.delete_registered_model_alias("ladder", alias)
            start.wait(timeout=300)
            end.wait(timeout=300)
            champions.append(aliases(server, "ladder")["champion"])
    finally:
        for process in processes:
            process.join(timeout=DEADLINE if process.is_alive() else 0)
            process.kill()
    assert champions == [NUM_PROCESSES] * NUM_ROUNDS
    entries = decisions(server, "ladder")
    assert len(entries) == NUM_PROCESSES * NUM_ROUNDS  # one for each decision
    # Each entry begins where the one before ended; a round begins without a champion.
    rounds = [entries[n : n + NUM_PROCESSES] for n in range(0, len(entries), NUM_PROCESSES)]
    for told in rounds:
        before = ["", *(tags["champion.after"] for tags in told[:-1])]
        assert [tags["champion.before"] for tags in told] == before
        assert sorted(tags["model.version"] for tags in told) == [
            str(number) for number in range(1, NUM_PROCESSES + 1)
        ]


def holder(lock: Path) -> int | None:
    text = lock.read_text() if lock.exists() else ""
    found = re.match(r"process (\d+) on .*, to promote ladder version", text)
    return int(found[1]) if found else None


def start_promote(project: Project, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["latentworks", "promote", str(number)],
        cwd=project.path,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_holder_that_is_killed_frees_the_lock(
    server: str, ladder: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = MlflowClient(server)
    registry = Registry(ladder.path)
    lock = locks.FOLDER / f"{registry.store.identity('ladder')}.lock"
    rng = random.Random(0)
    num_stopped = 0
    for _ in range(6):
        for alias in aliases(server, "ladder"):
            client.delete_registered_model_alias("ladder", alias)
        first = start_promote(ladder, 1)
        deadline = time.monotonic() + DEADLINE
        while holder(lock) != first.pid:
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()[0]
        time.sleep(rng.uniform(0, 0.15))  # somewhere in the middle of it, another place each time
        first.send_signal(signal.SIGSTOP)
        stopped_inside = holder(lock) == first.pid
        num_stopped += stopped_inside
        second = start_promote(ladder, 8)
        if stopped_inside:
            assert second.stdout is not None
            assert f"waiting for process {first.pid} on " in second.stdout.readline()
            assert second.poll() is None
        first.kill()
        first.communicate()
        told = second.communicate(timeout=DEADLINE)[0]
        assert "version 8 is champion" in told, told
        # What the first one had decided is as it says, or was never written.
        entries = decisions(server, "ladder")
        assert entries[-1]["champion.after"] == "8"
        assert entries[-1]["champion.before"] in ("", "1")
        assert aliases(server, "ladder")["champion"] == 8
        assert client.get_model_version("ladder", "8").tags["decision"] == "promoted"
    assert num_stopped >= 3  # else this test has not tried what it is for


# --- clients -------------------------------------------------------------------------------------


def test_the_example_of_the_readme(pair: Project, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(import mlflow.*?)```", text, flags=re.DOTALL)
    # The images of these tests are smaller.
    for old, new in {"autoencoder@": "pair@", "32, 32": "8, 8", "128, 128": "32, 32"}.items():
        assert old in example
        example = example.replace(old, new)
    pair.run("python", "-c", f"import os; os.chdir({str(tmp_path)!r})\n{example}")
    picture = np.asarray(Image.open(tmp_path / "16.png"))
    assert picture.shape == (32, 32)
    assert len(np.unique(picture)) > 50


def test_mlflow_models_serve(server: str, pair: Project, tmp_path: Path) -> None:
    port = closed_port()
    call = ["mlflow", "models", "serve", "--model-uri", "models:/pair@champion"]
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
        for answer, said in (
            (ask([], verb="sample", sede=0), "Did you mean seed?"),
            (ask([[[0.5]]]), "whole numbers from 0 to 255"),
            (ask([], verb="paint"), "verb is one of"),
        ):
            assert answer.status_code == 400
            assert said in json.loads(answer.text)["message"]


@pytest.mark.system
def test_a_client_needs_the_pinned_requirements_alone(
    server: str, pair: Project, tmp_path: Path
) -> None:
    """In an environment of its own, made from what the version says it needs."""
    away = tmp_path / "away"
    away.mkdir()
    python = away / "env/bin/python"
    pair.ours("compare", "1", "2")
    folder = pair.path / ".latentworks/versions" / sha256(server, "pair", "2")
    install = ["uv", "pip", "install", "--quiet", "--python", str(python), "--requirements"]
    for call in (
        ["uv", "venv", "--quiet", str(away / "env")],
        [*install, str(folder / "requirements.txt")],
    ):
        subprocess.run(call, check=True, env=environment())
    script = (
        "import mlflow, sys; model = mlflow.pyfunc.load_model('models:/pair@champion'); "
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
    call = [str(python), "-m", "mlflow", "models", "serve", "-m", "models:/pair@champion"]
    call += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{python.parent}:/usr/bin:/bin"
    with serving(call, port, "/ping", away, MLFLOW_TRACKING_URI=server, PATH=path) as url:
        body = {"inputs": [], "params": {"verb": "sample", "num": 2}}
        answer = requests.post(f"{url}/invocations", json=body, timeout=30)
        assert np.shape(answer.json()["predictions"]) == (2, 8, 8, 1)
