"""What the tests share: real data that needs no network, and a small checkout run by real DVC."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from sklearn.datasets import load_digits
from urllib3.util import Retry

ROOT = Path(__file__).parents[1]
LEFT_OUT = pytest.StashKey[list[str]]()
COPIED = ("src", "recipes", "dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", ".dvc/config")

# The committed parameters, made small: 8x8 digits, a model that trains in a second.
SMALL = {
    "kind: fashion_mnist ": "kind: npz ",
    "data/raw/fashion-mnist": "digits.npz",
    "image_size: 32": "image_size: 8",
    "val_fraction: 0.02": "val_fraction: 0.1",
    "filters: [32, 64, 128]": "filters: [8, 16]",
    "epochs: 9": "epochs: 4",
    "batch_size: 128": "batch_size: 64",
    "warmup_steps: 200": "warmup_steps: 5",
    "num_images: 10000": "num_images: 300",
    "num_components: 50": "num_components: 5",
}


def environment(**changes: str) -> dict[str, str]:
    """The environment of a person who activated ours, with nothing of MLflow's or DVC's set."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "DVC"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "COLUMNS": "200", **changes}


class Checkout:
    """A folder with the project's code and small data, under git."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(
        self, *call: str, expected: int | None = 0, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout; fail with what it printed if it ends another way."""
        done = subprocess.run(
            call,
            cwd=self.path,
            env=self.environment(**changes),
            capture_output=True,
            text=True,
            timeout=300,
        )
        if expected is not None and done.returncode != expected:
            pytest.fail(f"{call} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def environment(self, **changes: str) -> dict[str, str]:
        return environment(DVC_SITE_CACHE_DIR=str(self.path / ".dvc/site_cache"), **changes)

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.path / name
        text = path.read_text()
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new))

    def copy(self, path: Path) -> "Checkout":
        """Another checkout with the same files, outputs, DVC cache and MLflow runs."""
        shutil.copytree(self.path, path, symlinks=True)
        return Checkout(path)


def write_digits(path: Path) -> None:
    """The 1797 real 8x8 digits that come with scikit-learn."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    train, test = slice(1400), slice(1400, None)
    np.savez(
        path,
        x_train=images[train],
        y_train=digits.target[train],
        x_test=images[test],
        y_test=digits.target[test],
    )


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which nothing was run yet. Copy it before changing anything."""
    path = tmp_path_factory.mktemp("checkouts") / "untouched"
    for name in COPIED:
        source, target = ROOT / name, path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    write_digits(path / "digits.npz")
    checkout = Checkout(path)
    for old, new in SMALL.items():
        checkout.edit("params.yaml", old, new)
    checkout.run("git", "init", "--quiet")
    checkout.run("git", "add", "--all")
    author = ("-c", "user.name=Tests", "-c", "user.email=tests@example.org")
    checkout.run("git", *author, "commit", "--quiet", "--message", "small")
    return checkout


@pytest.fixture(scope="session")
def finished(untouched: Checkout) -> Checkout:
    """A checkout after `dvc repro`. Copy it before changing anything."""
    checkout = untouched.copy(untouched.path.with_name("finished"))
    checkout.run("dvc", "repro")
    checkout.run("latentworks", "sync")
    return checkout


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(call: list[str], port: int, path: str, folder: Path, **changes: str) -> Iterator[str]:
    """The address of a server that `call` starts; it answers at `path`, and ends with the block."""
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            call,
            cwd=folder,
            env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **changes),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        session = requests.Session()
        retry = Retry(total=240, backoff_factor=0.5, backoff_max=0.5)
        session.mount(url, requests.adapters.HTTPAdapter(max_retries=retry))
        assert session.get(f"{url}{path}", timeout=5).ok, (folder / "server.log").read_text()
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its workers, too
        process.wait()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A real MLflow server on a port of its own."""
    port = closed_port()
    call = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    call += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    call += ["--artifacts-destination", str(folder / "served")]
    with serving(call, port, "/health", folder) as url:
        yield url


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        if "system" in item.keywords:
            item.config.stash.setdefault(LEFT_OUT, []).append(item.nodeid)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what `make test` leaves to `make test-system`."""
    for name in config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(f"left to `make test-system`: {name}")
