"""Real servers of MLflow, Prefect and `latentworks serve`, and queries of the registry."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from mlflow import MlflowClient
from urllib3.util import Retry

from checkouts import environment, owner, turn
from latentworks.registry.decisions import DECISIONS
from latentworks.registry.versions import SHA256

DEADLINE = 300.0  # seconds to wait for a condition, also on a slow machine that does other work


def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """Wait until `condition` returns a true value, and return the value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dead_proxy() -> dict[str, str]:
    """Environment variables that name a proxy for all addresses, which does not exist."""
    names, proxy = ("http_proxy", "https_proxy", "all_proxy"), f"http://127.0.0.1:{closed_port()}"
    return {**dict.fromkeys(names, proxy), "no_proxy": "example.org", "NO_PROXY": "example.org"}


def for_servers(**changes: str) -> dict[str, str]:
    safe = ("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION")
    return environment(**{**dict.fromkeys(safe, "false"), **changes})


@contextmanager
def serving(call: list[str], port: int, path: str, folder: Path, **changes: str) -> Iterator[str]:
    """Start a server with `call`, wait until it answers at `path`, and yield its address.

    The server ends with the block.
    """
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            call,
            cwd=folder,
            env=for_servers(**changes),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield answering(port, path, folder)
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the workers of the server, too
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # a worker of Prefect can wait for ever
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answering(port: int, path: str, folder: Path) -> str:
    """Wait until the server of `folder` answers at `path`, and return its address."""
    url = f"http://127.0.0.1:{port}"
    session = requests.Session()
    retry = Retry(total=240, backoff_factor=0.5, backoff_max=0.5)
    session.mount(url, requests.adapters.HTTPAdapter(max_retries=retry))
    assert session.get(f"{url}{path}", timeout=5).ok, (folder / "server.log").read_text()
    return url


def mlflow_call(folder: Path, port: int, database: str = "server.db") -> list[str]:
    """The command of an MLflow server that keeps its files in `folder`."""
    call = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    call += ["--backend-store-uri", f"sqlite:///{folder / database}"]
    return [*call, "--artifacts-destination", str(folder / "served")]


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run a real MLflow server on a port of its own, and yield its address.

    It is for tests that count all runs of a server, or stop the server. Others share `server`.
    """
    port = closed_port()
    with serving(mlflow_call(folder, port), port, "/health", folder) as url:
        yield url


@contextmanager
def prefect_server(folder: Path, **settings: str) -> Iterator[str]:
    """Run a real Prefect server on a port of its own, and yield the address of its API.

    The server keeps its files in `folder`.
    """
    port = closed_port()
    call = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_HOME": str(folder / "prefect")}
    with serving(call, port, "/api/health", folder, **quiet, **settings) as url:
        yield f"{url}/api"


@contextmanager
def server_of(uri: str, home: Path, *options: str) -> Iterator[str]:
    """Run a server that follows the champion at `uri`. Yield its address once it is ready."""
    port = closed_port()
    call = ["latentworks", "serve", "--port", str(port), "--every", "0.2", *options]
    home.mkdir(exist_ok=True)
    with serving(call, port, "/live", home, MLFLOW_TRACKING_URI=uri) as url:
        until(lambda: requests.get(f"{url}/ready", timeout=5).ok)
        yield url


# Ends a server when the main process of the tests has ended, even if that was killed.
SHARED = """
echo $$ >pid
"$@" &
while kill -0 $OWNER 2>/dev/null; do sleep 1; done
trap '' TERM
kill 0
sleep 10
kill -KILL 0
"""


def shared_mlflow_server(folder: Path) -> str:
    """Return the address of the MLflow server of all workers; the first call starts it."""
    with turn(folder):
        address = folder / "address"
        if not address.exists():
            port = closed_port()
            call = ["sh", "-c", SHARED, "server", *mlflow_call(folder, port)]
            with (folder / "server.log").open("w") as log:
                subprocess.run(
                    ["setsid", "--fork", *call],
                    cwd=folder,
                    env=for_servers(OWNER=str(owner())),
                    stdout=log,
                    stderr=log,
                    check=True,
                )
            address.write_text(answering(port, "/health", folder))
        return address.read_text()


def end_shared_server(folder: Path) -> None:
    """End the shared MLflow server, if a test has started it."""
    if not (folder / "pid").exists():
        return
    group = int((folder / "pid").read_text())
    deadline = time.monotonic() + 10
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGTERM)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)


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


def sha256(server: str, name: str, number: str) -> str:
    return str(MlflowClient(server).get_model_version(name, number).tags[SHA256])
