"""Checkouts of the project with small data, and results that tests share."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from latentworks.registry import signatures
from latentworks.tracking.local_store import follow_move

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NAME = "autoencoder"  # of the registered models
KEYS = ROOT / ".cache/keys"  # the versions in kept results are signed with it
WARM = "LATENTWORKS_WARM"  # environment variable: the folder of the warm programs
HANGS = 900.0  # seconds until a program counts as hung, also on a slow machine that does other work
COPIED = (
    *("src", "recipes", "pipeline", "dvc.yaml", "params.yaml", "prefect.yaml"),
    *(".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"),
    *("data/.gitignore", "models/.gitignore", "reports/.gitignore"),
)
# Edits that make the committed params small: 8x8 digits, a model that trains in a second.
SMALL = {
    "kind: fashion_mnist ": "kind: npz ",
    "data/raw/fashion-mnist": "digits.npz",
    "image_size: 32": "image_size: 8",
    "val_fraction: 0.02": "val_fraction: 0.1",
    "filters: [32, 64, 128]": "filters: [8, 16]",
    "epochs: 9": "epochs: 4",
    "batch_size: 128": "batch_size: 64",
    "warmup: 0.05": "warmup: 0.1",
    "num_images: 10000": "num_images: 300",
    "num_components: 50": "num_components: 5",
}


def environment(**changes: str) -> dict[str, str]:
    """The environment of a user who activated the project's virtual environment.

    Settings of MLflow, DVC and Prefect are left out.
    """
    theirs = ("MLFLOW", "DVC", "PREFECT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    path = f"{BIN}{os.pathsep}{kept['PATH']}"
    return {**kept, "PATH": path, "COLUMNS": "200", signatures.FOLDER: str(KEYS), **changes}


class Checkout:
    """A folder with the project's code and small data, under git."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(
        self, *call: str, expected: int | None = 0, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout. Fail with its output at another exit code."""
        done = subprocess.run(
            call,
            cwd=self.path,
            env=self.environment(**changes),
            capture_output=True,
            text=True,
            timeout=HANGS,
        )
        if expected is not None and done.returncode != expected:
            pytest.fail(f"{call} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def environment(self, **changes: str) -> dict[str, str]:
        ours = environment(DVC_SITE_CACHE_DIR=str(self.path / ".dvc/site_cache"), **changes)
        if WARM in os.environ:
            ours["PATH"] = f"{warm()}{os.pathsep}{ours['PATH']}"
        return ours

    @property
    def database(self) -> str:
        """The URI of the checkout's own MLflow store."""
        return f"sqlite:///{self.path / 'mlflow.db'}"

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.path / name
        text = path.read_text()
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new))

    def commit(self, *added: str) -> str:
        """Commit what `git add` adds with these arguments, by default all; return the commit."""
        self.run("git", "add", *(added or ("--all",)))
        author = ("-c", "user.name=Tests", "-c", "user.email=tests@example.org")
        self.run("git", *author, "commit", "--quiet", "--allow-empty", "--message", "a change")
        return self.run("git", "rev-parse", "HEAD").stdout.strip()

    def copy(self, path: Path) -> "Checkout":
        """Make another checkout with the same files, outs, DVC cache and MLflow runs."""
        shutil.copytree(self.path, path, symlinks=True)
        if (path / "mlflow.db").exists():
            follow_move(path / "mlflow.db")
        return Checkout(path)


class Project(Checkout):
    """A checkout whose tracking store is at `server`."""

    name = NAME  # of the registered model

    def __init__(self, path: Path, server: str) -> None:
        super().__init__(path)
        self.server = server

    @staticmethod
    def copied(checkout: Checkout, path: Path) -> "Project":
        """Make a copy of a checkout in `path`, whose tracking store is its own database."""
        copy = checkout.copy(path)
        return Project(copy.path, copy.database)

    def environment(self, **changes: str) -> dict[str, str]:
        ours = {"MLFLOW_TRACKING_URI": self.server, "PYTHONPATH": str(self.path / "src")}
        return super().environment(**{**ours, **changes})

    def ours(self, *call: str, expected: int | None = 0) -> str:
        """Run a `latentworks` command, and return its output. A traceback fails the test."""
        done = self.run("latentworks", *call, expected=expected)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def named(self, name: str) -> "Project":
        """Set the name of the registered model, and a limit of the gate that small models reach."""
        self.name = name
        self.edit("params.yaml", "model_name: autoencoder", f"model_name: {name}")
        self.edit("params.yaml", "    mse: 0.5  #", "    mse: 0.95  #")
        return self


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Let one worker at a time make something in `folder`."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def owner() -> int:
    """The process id of the tests' main process, with which shared programs end."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


def warm() -> Path:
    """The folder `bin` of the programs that start warm; see tests/warm/client.py."""
    folder = Path(os.environ[WARM])
    with turn(folder):
        if not (folder / "bin").exists():
            start = ROOT / "tests/warm/start.py"
            call = [BIN / "python", start, folder, str(owner())]
            subprocess.run(call, env=environment(), check=True)
    return folder / "bin"


def write_digits(path: Path) -> None:
    """Write the 1797 real 8x8 digits that come with scikit-learn."""
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


def small_checkout(path: Path) -> Checkout:
    """Make a checkout of the project with small data in `path`, and commit it. No stage has run."""
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
    checkout.commit()
    return checkout


def trained(finished: Checkout, path: Path, epochs: int) -> Checkout:
    """Make a copy of `finished` in `path` whose model has trained for longer."""
    checkout = finished.copy(path)
    checkout.edit("params.yaml", "epochs: 4", f"epochs: {epochs}")
    checkout.run("dvc", "repro", MLFLOW_TRACKING_URI=checkout.database)
    return checkout


@cache
def results() -> Path:
    """The folder of results that tests only read. Other code or libraries have another folder."""
    digest = hashlib.sha256(platform.platform().encode() + sys.version.encode())
    inputs = (
        *COPIED,
        "requirements/latentworks.txt",
        "tests/conftest.py",
        "tests/checkouts.py",
        "tests/warm",
    )
    for path in map(ROOT.joinpath, inputs):
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    folder = ROOT / ".cache/results"
    own = folder / digest.hexdigest()[:16]
    own.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other != own:
            shutil.rmtree(other, ignore_errors=True)
    return own


def made_once(name: str, make: Callable[[Path], object]) -> Checkout:
    """Return a checkout that all workers, and later runs of the tests, share.

    The first worker that needs the checkout makes it.
    """
    shared = results()
    with (shared / f"{name}.lock").open("a+") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        turn.seek(0)
        if not turn.read():
            shutil.rmtree(shared / name, ignore_errors=True)
            make(shared / name)
            turn.write("made")
    return Checkout(shared / name)
