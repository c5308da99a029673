"""`latentworks repro` as a process of its own, and the training in it."""

import subprocess
from contextlib import suppress
from itertools import islice
from pathlib import Path

import psutil
from mlflow import MlflowClient

from checkouts import Checkout

LONG = 5000  # epochs; more than any test waits for


def start(checkout: Checkout, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["latentworks", "repro"],
        cwd=checkout.path,
        env=checkout.environment(PYTHONPATH=str(checkout.path / "src"), **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def repro(checkout: Checkout, expected: int = 0, **changes: str) -> str:
    done = checkout.run("latentworks", "repro", expected=expected, **changes)
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def long_training(finished: Checkout, path: Path) -> Checkout:
    checkout = finished.copy(path)
    checkout.edit("params.yaml", "epochs: 4", f"epochs: {LONG}")
    checkout.edit("params.yaml", "patience: 3", f"patience: {LONG}")
    return checkout


def trains(run: "subprocess.Popen[str]") -> None:
    """Wait until the training has finished two epochs."""
    assert run.stdout is not None
    assert len([*islice((line for line in run.stdout if line.startswith("Epoch ")), 3)]) == 3


def in_training(run: "subprocess.Popen[str]") -> psutil.Process:
    """Wait until the training has finished two epochs, and return the process of the stage.

    The stage is a child of the run only if it starts cold.
    """
    trains(run)
    children = psutil.Process(run.pid).children(recursive=True)
    (stage,) = [each for each in children if {"latentworks.stages", "train"} <= words(each)]
    return stage


def words(process: psutil.Process) -> set[str]:
    """Return the words of a process's command line; none if the process has just ended."""
    with suppress(psutil.NoSuchProcess):
        return {*process.cmdline()}
    return set()


def rest(run: "subprocess.Popen[str]") -> str:
    assert run.stdout is not None
    with run.stdout:
        return run.stdout.read()


def states(checkout: Checkout) -> list[str]:
    """Return the statuses of the runs in MLflow, sorted."""
    client = MlflowClient(checkout.database)
    (experiment,) = client.search_experiments(filter_string="name = 'latentworks'")
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))
