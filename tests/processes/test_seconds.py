"""Tests of bounds in seconds. `make test` runs this file last and alone."""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from selenium import webdriver
from test_http import FLOODS, Probe, answers, connect, flood
from test_server import asked

from atlas_page import Page, of_the_book, space
from checkouts import Checkout, Project, environment
from latentworks.artifacts.curves import read_curves
from latentworks.plots.decoder_program import DecoderProgram
from latentworks.repository import dvc
from latentworks.repository.result import Result
from latentworks.stages.__main__ import TOLD
from latentworks.system import disk
from latentworks.tracking import outbox
from prefect_pages import PrefectPages
from servers import closed_port, prefect_server, until
from stage_runs import in_training, long_training, repro, rest, start, states

pytestmark = pytest.mark.cold

START = 1.25  # seconds of "import mlflow" on the machine on which the bounds were set


@pytest.fixture(scope="module")
def slowness() -> float:
    """The start time of a program, relative to the machine on which bounds were set; at least 1.

    The bounds of commands that do little more than start are multiplied by this factor.
    """
    times = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import mlflow"], env=environment(), check=True)
        times.append(time.monotonic() - began)
    return max(1.0, statistics.median(times) / START)


def test_a_second_start_names_the_lock_holder_whose_kill_frees_the_lock(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = long_training(finished, tmp_path / "checkout")
    first = start(checkout)
    stage = in_training(first)
    began = time.monotonic()
    said = repro(checkout, expected=75)
    assert time.monotonic() - began < 2
    host = os.uname().nodename
    assert re.fullmatch(
        rf"Cannot run the stages: process {first.pid} on {re.escape(host)} holds the lock "
        r"since \d{4}-\d\d-\d\dT\S+\. Wait for it, or end it\.\n",
        said,
    )
    first.kill()
    rest(first)
    assert first.wait() == -signal.SIGKILL
    if sys.platform == "linux":
        psutil.wait_procs([stage], timeout=5)
        assert not stage.is_running()
    second = start(checkout)
    in_training(second)
    second.terminate()
    rest(second)
    second.wait()


def test_sigterm_ends_a_stage_within_ten_seconds_and_training_resumes(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = long_training(finished, tmp_path / "checkout")
    run = start(checkout)
    stage = in_training(run)
    began = time.monotonic()
    stage.terminate()  # the stage alone; DVC reports the exit code
    said = rest(run)
    assert time.monotonic() - began < 10
    assert run.wait() == 1
    told = "train was stopped by SIGTERM. Run the same command again to continue."
    assert said.splitlines()[-1].startswith(f"Stage train failed: {told}")
    assert said.count(told) == 1
    checkpoint = disk.read_arrays(checkout.path / ".latentworks/checkpoint.npz")
    finished_epochs = len(json.loads(checkpoint["note"].tobytes())["epochs"])
    assert finished_epochs >= 2

    run = start(checkout)
    assert run.stdout is not None
    goes_on = next(line for line in run.stdout if line.startswith("train: goes on"))
    assert int(goes_on.split()[5]) == finished_epochs
    next(line for line in run.stdout if line.startswith("Epoch "))
    # Without a terminal, a line every ten seconds tells the progress.
    next(line for line in run.stdout if re.match(r"train: epoch \d+ of \d+, step \d+ of ", line))
    until(lambda: states(checkout) == ["FINISHED", "RUNNING"])
    began = time.monotonic()
    run.terminate()  # the runner, which ends DVC and the stage
    said = rest(run)
    assert run.wait() == 143
    assert time.monotonic() - began < 10
    assert "train was stopped by SIGTERM" in said
    assert states(checkout) == ["FINISHED", "KILLED"]


BUSY_STAGE = """
import sys, types, numpy
from latentworks.stages.__main__ import main

matrix = numpy.random.default_rng(0).normal(size=(6000, 6000))

def busy():
    print("busy", flush=True)
    numpy.linalg.eigvals(matrix)

sys.modules["latentworks.stages.busy"] = types.SimpleNamespace(main=busy)
main("busy")
"""


def test_sigterm_ends_a_stage_that_is_in_one_long_call(tmp_path: Path) -> None:
    """Python handles the signal after the end of the call. The stage does not wait so long."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", BUSY_STAGE], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True
    ) as stage:
        assert stage.stdout is not None
        assert stage.stderr is not None
        assert stage.stdout.readline() == "busy\n"
        process = psutil.Process(stage.pid)
        before = process.cpu_times().user
        until(lambda: process.cpu_times().user > before + 2)  # in the call, after its checks
        began = time.monotonic()
        stage.terminate()
        assert stage.wait(20) == 143
        assert time.monotonic() - began < 10
        assert stage.stderr.read() == f"error: busy {TOLD}\n"


QUICK = 20.0  # seconds that a retraining with nothing to do may take


def test_a_retraining_with_nothing_to_do_ends_within_seconds(
    champion: Checkout, tmp_path: Path, slowness: float
) -> None:
    path = tmp_path / "project"
    project = Project.copied(champion, path)
    project.commit()
    with prefect_server(tmp_path) as api:  # its own: this file runs after the others
        pages = PrefectPages(api)
        for _ in range(2):  # the first retraining makes the worktree
            retrain = ("python", "-m", "pipeline", "retrain")
            said = project.run(*retrain, PREFECT_API_URL=api).stdout
            assert "Nothing new: autoencoder version 1 is this result already" in said
        run = pages.last_run()
        assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Nothing new")
        tasks = pages.tasks(run)
    assert {tasks[stage]["state_name"] for stage in dvc.needs(path)} == {"Unchanged"}
    first = min(datetime.fromisoformat(task["start_time"]) for task in tasks.values())
    took = datetime.fromisoformat(run["end_time"]) - first
    assert took.total_seconds() < QUICK * slowness


def test_plan_is_quick_and_imports_no_tensorflow_keras_or_mlflow(
    finished: Checkout, tmp_path: Path, slowness: float
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "epochs: 4", "epochs: 12")
    script = (
        "import sys; from latentworks import cli; "
        "cli.app(['plan'], standalone_mode=False); "
        "print(sorted({'tensorflow', 'keras', 'mlflow'} & set(sys.modules)))"
    )
    assert checkout.run(sys.executable, "-c", script).stdout.splitlines()[-1] == "[]"
    times = []
    for _ in range(3):
        start = time.monotonic()
        checkout.run("latentworks", "plan")
        times.append(time.monotonic() - start)
    assert statistics.median(times) < 3 * slowness


def test_commands_report_a_dead_mlflow_server_in_one_line(
    finished: Checkout, tmp_path: Path
) -> None:
    away = Project(finished.copy(tmp_path / "checkout").path, f"http://127.0.0.1:{closed_port()}")
    for call in ("register", "promote", "rollback", "history"):
        start = time.monotonic()
        told = away.ours(call, expected=69)  # EX_UNAVAILABLE
        assert time.monotonic() - start < 30
        assert told.startswith("MLflow at http://127.0.0.1:"), told
        assert len(told.splitlines()) == 1, told


def test_rollback_takes_seconds(pair: Project, slowness: float) -> None:
    times = []
    for _ in range(4):  # there and back again, twice
        shutil.rmtree(pair.path / ".latentworks/versions", ignore_errors=True)  # no local version
        start = time.monotonic()
        pair.ours("rollback")
        times.append(time.monotonic() - start)
    assert statistics.median(times) <= 5 * slowness, times  # other programs share the machine


HEAD = b"POST /decode HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"


def test_a_client_that_sends_too_slowly_gets_status_408(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            for _ in range(3)
        ]
        started = time.monotonic()
        for connection, begun in zip(connections, (HEAD + b"{", HEAD[:30], b""), strict=True):
            connection.sendall(begun)
        for connection in connections:
            answer = connection.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 408"), answer
            assert 8 < time.monotonic() - started < 20
            while b'"error":"' not in answer:
                more = connection.recv(10_000)
                assert more, answer
                answer += more
            assert b"\r\nx-content-type-options: nosniff\r\n" in answer.lower()
    assert asked(url, "sample", num=1)


def test_a_client_that_sends_a_byte_now_and_then_gets_status_408(url: str) -> None:
    """No byte renews the deadline, and the connection is closed soon after the answer."""

    def send(begun: bytes) -> None:
        with connect(url) as connection:
            started = time.monotonic()
            connection.sendall(begun)
            came = answers(connection, b" ")
            assert next(came, b"").startswith(b"HTTP/1.1 408")
            assert 8 < time.monotonic() - started < 20
            assert b"" in came
            assert time.monotonic() - started < 30

    with concurrent.futures.ThreadPoolExecutor() as pool:
        assert [*pool.map(send, (HEAD[:30], HEAD + b"{"))] == [None, None]
    assert asked(url, "sample", num=1)


def test_large_calls_do_not_hold_up_small_calls(url: str) -> None:
    """Small calls wait for moments, and not for the end of the large calls."""
    pages = [[[0] * 8] * 8] * 9000  # grey images
    large = {
        "log_density": {"inputs": pages},
        "sample": {"num": 10_000},
        "encode": {"inputs": pages},
    }
    with concurrent.futures.ThreadPoolExecutor(len(large)) as pool:
        begun = [
            pool.submit(requests.post, f"{url}/{verb}", json=body, timeout=120)
            for verb, body in large.items()
        ]
        num_small = 0
        while not all(each.done() for each in begun):
            assert asked(url, "decode", inputs=[[0.5, 0.5]])
            num_small += 1
        assert all(each.result().status_code == 200 for each in begun)
    assert num_small >= 10


def test_a_flood_of_large_bodies_does_not_delay_the_answer_that_the_server_lives(
    url: str, slowness: float
) -> None:
    with Probe(url) as probe:
        flood(url, FLOODS["all kinds"])
    print(probe, f"{slowness:.1f} times slower")
    assert set(probe.statuses) == {200}
    assert statistics.median(probe.seconds) < 0.05 * slowness, str(probe)


@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_a_dead_or_silent_mlflow_server_delays_a_stage_for_seconds_only(
    kind: str,
    result: Result,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        if kind == "silent":
            listener.listen()  # the kernel accepts connections, and no program answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        started = time.monotonic()
        outbox.log("encode", result)
        blocked = time.monotonic() - started
    assert blocked <= 10.5  # ten seconds, and half a second to hash the files
    said = capfd.readouterr().err
    assert "was not updated" in said
    assert "`latentworks sync` writes the run from the files" in said


def test_a_training_does_not_wait_for_a_silent_mlflow_server(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listener.getsockname()[1]}")
        curves = read_curves(result.outs["autoencoder"] / "curves.csv")
        started = time.monotonic()
        with outbox.live_run("a fingerprint", Result.of(result.outs["prepared"])) as live:
            for _ in range(500):
                live.log_epoch(curves[0], np.zeros((8, 8, 3), dtype="uint8"))
            trained = time.monotonic() - started
            live.finish(result.outs["autoencoder"])
        assert trained < 1
        assert time.monotonic() - started <= 11


@pytest.mark.system
def test_the_atlas_shows_ten_thousand_images_within_seconds(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """Drawing all images allows more than ten frames in a second, also without a GPU."""
    given = space(2, (32, 32, 1), 10_000)
    program = DecoderProgram.of(of_the_book(2, (32, 32, 1)))
    (tmp_path / "atlas.html").write_text(given.page(program))
    page = Page(browser)
    page.window(1280, 800)
    page.open(tmp_path / "atlas.html")
    assert int(page.script("return document.body.dataset.ready")) < 5000
    draw = "const began = performance.now(); draw(true); return performance.now() - began"
    assert np.median([page.script(draw) for _ in range(9)]) < 100
    times = []
    for point in range(9):
        page.script("take(arguments[0])", point)
        page.settle()
        times.append(page.script("return took"))
    assert np.median(times) < 100
