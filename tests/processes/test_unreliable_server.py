"""A training and `register` use a tracking server that is dead, silent, slow or failing."""

import math
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.entities import Run

from checkouts import Checkout, Project
from latentworks.artifacts.curves import read_curves
from latentworks.errors import Unavailable
from latentworks.repository.result import recorded_result
from latentworks.system import console
from latentworks.tracking import bounded, outbox
from proxies import TRIES, proxy
from servers import closed_port, decisions, mlflow_call, mlflow_server, serving

PATIENCE = 11.5  # ten seconds, and the time for hashing on a machine that does other work
LOCAL = 120.0  # seconds for the work of a command between its calls, on such a machine


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


TRAINING = """
import sys, time
from pathlib import Path
import numpy as np
from latentworks.artifacts.curves import read_curves
from latentworks.repository.result import Result, recorded_result
from latentworks.tracking.outbox import live_run

began, waited = 0.0, 0.0

def moment(name):  # the one who reads this does to the server what is to happen now
    global waited
    reached = time.monotonic()
    if name != "start":
        deadline = reached + 5
        while live.outbox.num_waiting() and time.monotonic() < deadline:
            time.sleep(0.05)
    print(name, flush=True)
    sys.stdin.readline()
    waited += time.monotonic() - reached  # by the test, and not for the server

result = recorded_result(Path())
moment("start")
began, waited = time.monotonic(), 0.0
with live_run(sys.argv[1], Result.of(result.outs["prepared"])) as live:
    for number, epoch in enumerate(read_curves(result.outs["autoencoder"] / "curves.csv")):
        if number == 1:
            moment("middle")
        live.log_epoch(epoch, np.full((8, 8, 3), number, dtype=np.uint8))
    moment("end")
    live.finish(result.outs["autoencoder"])
print(time.monotonic() - began - waited, flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "moments"),
    [
        ("dead", "start"),
        ("dead", "middle"),
        ("dead", "end"),
        ("silent", "start"),
        ("silent", "middle"),
        ("silent", "end"),
        ("silent", "start middle end"),
        ("slow", "start middle end"),
        ("refusing", "start middle end"),
        ("forgetting", "start middle end"),
    ],
)
def test_server_failures_lose_and_double_nothing_of_a_run(
    kind: str,
    moments: str,
    upstream: str,
    finished: Checkout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    fingerprint = f"{kind} {moments}"
    curves = read_curves(checkout.path / "models/autoencoder/curves.csv")
    with proxy(upstream) as server:
        ours = checkout.environment(MLFLOW_TRACKING_URI=server.url)
        with subprocess.Popen(
            ["python", "-c", TRAINING, fingerprint],
            cwd=checkout.path,
            env=ours,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as training:
            assert training.stdin is not None
            assert training.stdout is not None
            for moment in ("start", "middle", "end"):
                assert training.stdout.readline() == f"{moment}\n"
                server.kind = kind if moment in moments else "sound"
                training.stdin.write("\n")
                training.stdin.flush()
            assert float(training.stdout.readline()) <= PATIENCE

        server.kind = "sound"
        server.released.set()
        checkout.run("latentworks", "sync", MLFLOW_TRACKING_URI=server.url)  # sync by hand
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)  # sync as the next repro
        result = recorded_result(checkout.path)
        assert result is not None
        assert outbox.sync(result, checkout.path) is None
    run = the_run(upstream)
    client = mlflow.MlflowClient(upstream)
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in points) == [
        (int(epoch["epoch"]), epoch["loss"]) for epoch in curves
    ]
    names = [entry.path for entry in client.list_artifacts(run.info.run_id, "images")]
    pictures = [name.split("+")[2] for name in names if name.endswith(".png")]
    assert sorted(pictures) == [str(int(epoch["epoch"])) for epoch in curves]
    assert {entry.path for entry in client.list_artifacts(run.info.run_id)} >= {
        *("dvc.lock", "params.yaml", "model", "sampler", "latents", "reports", "pictures")
    }
    client.delete_run(run.info.run_id)  # the next test writes a run of the same model


def the_run(url: str) -> Run:
    client = mlflow.MlflowClient(url)
    experiment = client.get_experiment_by_name("latentworks")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return run


@pytest.mark.parametrize("kind", ["refusing", "forgetting"])
def test_a_result_is_registered_once(
    kind: str, upstream: str, better: Checkout, tmp_path: Path
) -> None:
    """Repeated commands and lost requests or answers make no second version."""
    checkout = better.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "model_name: autoencoder", f"model_name: {kind}")
    client = mlflow.MlflowClient(upstream)
    with proxy(upstream) as server:
        server.kind = kind
        ours = {"MLFLOW_TRACKING_URI": server.url, "PYTHONPATH": str(checkout.path / "src")}
        for _ in range(3):
            done = checkout.run("latentworks", "register", expected=None, **ours)
            assert done.returncode in (0, 69), done.stderr
            if done.returncode == 69:
                assert "`latentworks register` again" in done.stderr.splitlines()[-1]
        server.kind = "sound"
        checkout.run("latentworks", "register", **ours)
    assert len(client.search_model_versions(f"name = '{kind}'")) == 1
    experiment = client.get_experiment_by_name("latentworks")
    assert experiment is not None
    models = client.search_logged_models([experiment.experiment_id], f"name = '{kind}'")
    assert [model.status for model in models].count("READY") == 1
    assert "PENDING" not in [model.status for model in models]


def test_two_simultaneous_syncs_write_one_run(
    upstream: str, good: Checkout, tmp_path: Path
) -> None:
    checkout = good.copy(tmp_path / "checkout")
    client = mlflow.MlflowClient(upstream)
    known = {run.info.run_id for run in all_runs(client)}
    environment = checkout.environment(MLFLOW_TRACKING_URI=upstream)
    both = [
        subprocess.Popen(["latentworks", "sync"], cwd=checkout.path, env=environment)
        for _ in range(2)
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    assert len({run.info.run_id for run in all_runs(client)} - known) == 1


def all_runs(client: mlflow.MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name("latentworks")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


@pytest.mark.parametrize(
    "command", ["sync", "register", "history", "compare 1 2", "drift", "verify"]
)
def test_a_command_ends_although_an_answer_never_does(
    better: Checkout, upstream: str, tmp_path: Path, command: str
) -> None:
    """Each piece of the answer comes in time, so no timeout of the connection helps."""
    checkout = better.copy(tmp_path / "checkout")
    with proxy(upstream) as server:
        server.kind = "dripping"
        settings = {"MLFLOW_TRACKING_URI": server.url, bounded.SECONDS: "3"}
        settings["PYTHONPATH"] = str(checkout.path / "src")
        expected = 1 if command == "sync" else 69
        done = checkout.run("latentworks", *command.split(), expected=expected, **settings)
    assert f"MLflow at {server.url} did not complete a call within 3 seconds" in done.stderr
    assert "Traceback" not in done.stderr


def test_repro_ends_with_its_result_although_an_answer_never_does(
    better: Checkout, upstream: str, tmp_path: Path
) -> None:
    """The lock of the checkout is free afterwards, and the next command writes the run."""
    checkout = better.copy(tmp_path / "checkout")
    shutil.rmtree(checkout.path / "data/samples")
    with proxy(upstream) as server:
        server.kind = "dripping"
        settings = {"MLFLOW_TRACKING_URI": server.url, "PYTHONPATH": str(checkout.path / "src")}
        done = checkout.run("latentworks", "repro", **settings, **{bounded.SECONDS: "3"})
        said = f"MLflow at {server.url} did not complete a call within 3 seconds"
        assert f"warning: MLflow at {server.url} was not updated: {said}" in done.stderr
        assert "Traceback" not in done.stderr
        assert recorded_result(checkout.path) is not None
        assert (checkout.path / "data/samples").is_dir()
        server.kind = "sound"
        done = checkout.run("latentworks", "repro", **settings)
        assert f"MLflow has this result: {server.url}" in done.stdout


def test_all_calls_of_a_command_have_one_deadline(
    upstream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is answered before its own deadline, which is two seconds."""
    monkeypatch.setenv(bounded.SECONDS, "0.2")
    with proxy(upstream) as server:
        server.kind = "slow"
        server.pause = 0.5

        def call(times: float = 1) -> None:
            ask = partial(requests.get, f"{server.url}/health", timeout=30)
            while times > 0:
                assert bounded.within(server.url, bounded.FILES, ask).ok
                times -= 1

        said = (
            f"MLflow at {server.url} did not complete all calls of this command within 12 seconds, "
            "60 times the deadline of one call (LATENTWORKS_MLFLOW_SECONDS sets another deadline. "
            "Received: 0.2)."
        )
        began, budget = time.monotonic(), bounded.Budget()
        with pytest.raises(Unavailable, match=f"^{re.escape(said)}$"), bounded.together(budget):
            call(math.inf)
        assert 12 <= time.monotonic() - began < LOCAL
        with pytest.raises(Unavailable), bounded.together(budget):
            call()
        with bounded.together(bounded.Budget()):  # the next command, or the next check of an alias
            call()
        call()
    console.abandoned.clear()  # the last call of the first command, which has ended


def test_register_and_promote_end_although_every_call_is_late(
    good: Checkout, upstream: str, tmp_path: Path
) -> None:
    """A repeat completes a command that ended too early."""
    checkout = Project(good.copy(tmp_path / "checkout").path, upstream).named("late")
    with proxy(upstream) as server:
        server.kind = "slow"
        server.pause = 0.5
        settings = {"MLFLOW_TRACKING_URI": server.url, bounded.SECONDS: "1"}
        for command, codes in (("register", (69,)), ("promote", (0, 69))):
            began = time.monotonic()
            done = checkout.run("latentworks", command, expected=None, **settings)
            assert done.returncode in codes, done.stderr
            assert time.monotonic() - began < bounded.ALL + LOCAL
            checkout.ours("register")
    client = mlflow.MlflowClient(upstream)
    if "champion" not in client.get_registered_model("late").aliases:
        checkout.ours("promote")
    assert len(client.search_model_versions("name = 'late'")) == 1
    assert len(decisions(upstream, "late")) == 1


def test_a_command_ends_although_a_download_never_does(
    good: Checkout, upstream: str, tmp_path: Path
) -> None:
    """MLflow downloads with threads of its own, which Python would join at the end."""
    checkout = Project(good.copy(tmp_path / "checkout").path, upstream).named("downloaded")
    checkout.ours("register")
    shutil.rmtree(checkout.path / ".latentworks/versions", ignore_errors=True)
    with proxy(upstream) as server:
        server.kind = "dripping files"
        settings = {"MLFLOW_TRACKING_URI": server.url, bounded.SECONDS: "1"}
        done = checkout.run("latentworks", "promote", expected=69, **settings)
    assert "did not complete a call within 10 seconds" in done.stderr


def test_files_that_have_arrived_are_not_asked_for_again(
    good: Checkout, upstream: str, tmp_path: Path
) -> None:
    checkout = Project(good.copy(tmp_path / "checkout").path, upstream).named("losing")
    checkout.ours("register")
    shutil.rmtree(checkout.path / ".latentworks/versions", ignore_errors=True)
    with proxy(upstream) as server:
        server.kind = "losing files"
        checkout.run("latentworks", "promote", MLFLOW_TRACKING_URI=server.url)
        numbers = [*server.asked.values()]
        assert set(numbers[::2]) == {1}
        assert set(numbers[1::2]) == {TRIES + 1}


def test_a_missing_login_is_not_called_a_passing_fault(
    good: Checkout, upstream: str, tmp_path: Path
) -> None:
    checkout = good.copy(tmp_path / "checkout")
    with proxy(upstream) as server:
        server.kind = "locked"
        settings = {"MLFLOW_TRACKING_URI": server.url, "PYTHONPATH": str(checkout.path / "src")}
        for command, exit_code in (("history", 6), ("sync", 1)):
            done = checkout.run("latentworks", command, expected=exit_code, **settings)
            assert "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in done.stderr
            assert done.stderr.endswith(" or MLFLOW_TRACKING_TOKEN.\n")  # not: try again


LOGIN = """[mlflow]
database_uri = sqlite:///{folder}/users.db
admin_username = admin
admin_password = the admin of the tests
default_permission = NO_PERMISSIONS
"""


def test_a_model_that_the_login_may_not_read_is_not_said_to_be_missing(
    good: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow answers 403 as for a model that does not exist, and lists neither."""
    (tmp_path / "login.ini").write_text(LOGIN.format(folder=tmp_path))
    settings = {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "login.ini")}
    settings["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "of the tests"
    port = closed_port()
    call = [*mlflow_call(tmp_path, port), "--app-name", "basic-auth"]
    with serving(call, port, "/health", tmp_path, **settings) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "the admin of the tests")
        requests.post(
            f"{url}/api/2.0/mlflow/users/create",
            json={"username": "ada", "password": "ada of the tests"},
            auth=("admin", "the admin of the tests"),
            timeout=30,
        ).raise_for_status()
        mlflow.MlflowClient(url).create_registered_model("autoencoder")
        checkout = Project(good.copy(tmp_path / "checkout").path, url)
        for user, doubt in (("ada", ", or this login may not read the model"), ("admin", "")):
            login = {"MLFLOW_TRACKING_USERNAME": user}
            login["MLFLOW_TRACKING_PASSWORD"] = f"{'the ' * (user == 'admin')}{user} of the tests"
            for command, said in (
                (("promote",), "has no version with the alias challenger"),
                (("promote", "3"), "has no version 3"),
                (("drift",), "has no champion"),
            ):
                done = checkout.run("latentworks", *command, expected=6, **login)
                assert f"{said}{doubt}. " in done.stderr


@pytest.mark.parametrize("uri", ["127.0.0.1:5000", "localhost:5000", "./mlruns", "databricks"])
def test_an_address_that_no_server_has_is_refused(good: Checkout, uri: str) -> None:
    settings = {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(good.path / "src")}
    said = "MLFLOW_TRACKING_URI is an address such as http://127.0.0.1:5000"
    for command, exit_code in (("history", 1), ("sync", 1)):
        done = good.run("latentworks", command, expected=exit_code, **settings)
        assert said in done.stderr


def test_an_unreachable_database_is_reported_with_its_driver_s_reason(
    good: Checkout, tmp_path: Path
) -> None:
    checkout = good.copy(tmp_path / "checkout")
    database = f"127.0.0.1:{closed_port()}/mlflow"
    for password, exit_code, said in (
        ("secret", 69, "Connection refused"),
        ("se@cret", 1, "Write @ in the password of MLFLOW_TRACKING_URI as %40."),
    ):
        uri = f"postgresql://user:{password}@{database}"
        settings = {"MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(checkout.path / "src")}
        done = checkout.run("latentworks", "history", expected=exit_code, **settings)
        assert said in done.stderr
        assert "cret" not in done.stderr


def test_a_command_ends_although_a_database_never_answers(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts connections
        database = f"127.0.0.1:{silent.getsockname()[1]}/mlflow"
        settings = {"MLFLOW_TRACKING_URI": f"postgresql://user:secret@{database}"}
        settings |= {"PYTHONPATH": str(checkout.path / "src"), bounded.SECONDS: "3"}
        done = checkout.run("latentworks", "history", expected=69, **settings)
        silent.settimeout(0)
        connection, _ = silent.accept()
        assert connection.recv(8)  # the greeting of the driver
        connection.close()
    said = f"MLflow at postgresql://{database} did not complete a call within 3 seconds"
    assert said in done.stderr
    assert "secret" not in done.stderr
