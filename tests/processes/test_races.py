"""Processes promote versions at the same time, and some are killed during a promotion."""

import multiprocessing
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from mlflow import MlflowClient

from checkouts import Checkout, Project
from conftest import FULL
from latentworks.registry.registry import Registry
from latentworks.registry.versions import SOURCE
from latentworks.system import locks
from servers import DEADLINE, aliases, decisions, mlflow_server
from versions import log_scaled

# --- simultaneous promotions, and kills ----------------------------------------------------------

NUM_PROCESSES = 8
NUM_ROUNDS = 50 if FULL else 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own: eight processes keep it busy."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="module")
def ladder(server: str, good: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A registered model with a version for each process, each far better than the last.

    All versions are one model and differ in the recorded scores: the race is about the choice.
    """
    path = tmp_path_factory.mktemp("ladder") / "checkout"
    checkout = Project(good.copy(path).path, server).named("ladder")
    checkout.ours("register")
    client = MlflowClient(server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server)
        store = Registry(path).store
        version = store.get("ladder", 1)
        for rung in range(1, NUM_PROCESSES):
            folder = path.with_name("version")
            model_id, tags = log_scaled(store, version, 0.8**rung, folder)
            source = f"{SOURCE}{model_id}"
            client.create_model_version("ladder", source, tags=tags, model_id=model_id)
    return checkout


def promote_in_every_round(
    root: Path, server: str, number: int, start: Barrier, end: Barrier
) -> None:
    """Promote version `number` as soon as a round begins: the work of one process."""
    os.environ["MLFLOW_TRACKING_URI"] = server
    os.chdir(root)
    registry = Registry(root)
    for _ in range(NUM_ROUNDS):
        start.wait(timeout=300)
        registry.promote(number)
        end.wait(timeout=300)


def test_the_best_is_champion_in_any_order(server: str, ladder: Project) -> None:
    client = MlflowClient(server)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["latentworks.registry.registry", "mlflow"])
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
    assert len(entries) == NUM_PROCESSES * NUM_ROUNDS  # an entry for each promotion
    # Each entry begins with the champion that the last entry made. A round begins with none.
    rounds = [entries[n : n + NUM_PROCESSES] for n in range(0, len(entries), NUM_PROCESSES)]
    for told in rounds:
        before = ["", *(tags["champion.after"] for tags in told[:-1])]
        assert [tags["champion.before"] for tags in told] == before
        assert sorted(tags["model.version"] for tags in told) == [
            str(number) for number in range(1, NUM_PROCESSES + 1)
        ]


def holder(lock: Path) -> int | None:
    """Return the process id that the holder of a lock wrote into its file."""
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


def test_a_killed_lock_holder_frees_the_lock(
    server: str, ladder: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = MlflowClient(server)
    registry = Registry(ladder.path)
    lock = locks.FOLDER / f"{registry.store.identity('ladder')}.lock"
    rng = random.Random(0)
    num_stopped = 0
    holders: set[int | None] = {None}  # a killed holder leaves its process id in the file
    for _ in range(6):
        for alias in aliases(server, "ladder"):
            client.delete_registered_model_alias("ladder", alias)
        first = start_promote(ladder, 1)
        deadline = time.monotonic() + DEADLINE
        while (pid := holder(lock)) in holders:
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()[0]
        assert pid is not None
        holders.add(pid)
        time.sleep(rng.uniform(0, 0.15))  # the promotion stops at another point in each round
        with suppress(ProcessLookupError):  # the promotion has just ended
            os.kill(pid, signal.SIGSTOP)
        stopped_inside = holder(lock) == pid
        num_stopped += stopped_inside
        second = start_promote(ladder, 8)
        if stopped_inside:
            assert second.stdout is not None
            waiting = second.stdout.readline()
            assert waiting.startswith("Waiting to ")
            assert f": process {pid} on " in waiting
            assert second.poll() is None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        first.communicate()
        told = second.communicate(timeout=DEADLINE)[0]
        assert "version 8 is champion" in told, told
        # The decision of the first process is complete, or was never written.
        entries = decisions(server, "ladder")
        assert entries[-1]["champion.after"] == "8"
        assert entries[-1]["champion.before"] in ("", "1")
        assert aliases(server, "ladder")["champion"] == 8
        assert client.get_model_version("ladder", "8").tags["decision"] == "promoted"
    assert num_stopped >= 3  # else too few lock holders were killed to test this
