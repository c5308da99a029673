"""Fixtures of all tests: real data that needs no network, and a small checkout run by real DVC."""

import fcntl
import hashlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from sklearn.datasets import load_digits
from urllib3.util import Retry

from latentworks.registry.decisions import DECISIONS
from latentworks.registry.versions import SHA256
from latentworks.repository.result import Result, recorded_result
from latentworks.tracking.local_store import follow_move

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NAME = "autoencoder"  # of the registered models
# `make faults` and the nightly tests run long tests in full. Every push runs a short version.
FULL = "LATENTWORKS_FULL" in os.environ
# Seconds after which a test gives up. They are enough on a slow machine that does other work.
DEADLINE = 300.0  # for a condition that a server brings about
HANGS = 900.0  # for a program that does not end
LEFT_OUT = pytest.StashKey[list[str]]()
WARM = "LATENTWORKS_WARM"  # environment variable of the tests: the folder of `warm`
LONG = (  # the longest; the first three also need few results of other tests
    *("retraining", "deployments", "scoring", "races", "runner", "unreliable_server", "pipeline"),
    *("registry", "server", "verification", "drift", "refusals", "faults", "worktree", "tracking"),
)
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
    "warmup_steps: 200": "warmup_steps: 5",
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
    return {**kept, "PATH": path, "COLUMNS": "200", **changes}


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

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.path / name
        text = path.read_text()
        assert old in text, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new))

    def copy(self, path: Path) -> "Checkout":
        """Make another checkout with the same files, outs, DVC cache and MLflow runs."""
        shutil.copytree(self.path, path, symlinks=True)
        if (path / "mlflow.db").exists():
            follow_move(path / "mlflow.db")
        return Checkout(path)


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


@pytest.fixture(autouse=True)
def interpreters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start programs cold in tests about processes."""
    if request.node.get_closest_marker("cold"):
        monkeypatch.setenv("LATENTWORKS_COLD", "1")


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
    checkout.run("git", "add", "--all")
    author = ("-c", "user.name=Tests", "-c", "user.email=tests@example.org")
    checkout.run("git", *author, "commit", "--quiet", "--message", "small")
    return checkout


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which no stage has run. Copy it before changing anything."""
    return small_checkout(tmp_path_factory.mktemp("checkouts") / "untouched")


@cache
def results() -> Path:
    """The folder of results that tests only read. Other code or libraries have another folder."""
    digest = hashlib.sha256(platform.platform().encode() + sys.version.encode())
    inputs = (*COPIED, "requirements/latentworks.txt", "tests/conftest.py", "tests/warm")
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


@pytest.fixture(scope="session")
def finished(untouched: Checkout) -> Checkout:
    """A checkout after `dvc repro`. Copy it before changing anything."""

    def make(path: Path) -> None:
        checkout = untouched.copy(path)
        checkout.run("dvc", "repro")
        checkout.run("latentworks", "sync")

    return made_once("finished", make)


@pytest.fixture
def result(finished: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """The files of a result, in a checkout that is the working directory."""
    checkout = finished.copy(tmp_path / "checkout")
    monkeypatch.chdir(checkout.path)
    found = recorded_result(checkout.path)
    assert found is not None
    return found


def until(condition: Callable[[], Any]) -> Any:
    """Wait until `condition` returns a true value, and return the value."""
    deadline = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def for_servers(**changes: str) -> dict[str, str]:
    return environment(**{"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **changes})


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


def mlflow_call(folder: Path, port: int) -> list[str]:
    """The command of an MLflow server that keeps its files in `folder`."""
    call = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    call += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
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


# --- an MLflow server, and models to register -----------------------------------------------------


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


@pytest.fixture(scope="session")
def served() -> Path:
    """The folder in which the shared MLflow server keeps its files."""
    return Path(os.environ[WARM]) / "mlflow-server"


@pytest.fixture(scope="session")
def server(served: Path) -> str:
    """The address of a real MLflow server that all workers share.

    Each test registers models under names of its own. The first test that needs the server starts
    it.
    """
    with turn(served):
        address = served / "address"
        if not address.exists():
            port = closed_port()
            call = ["sh", "-c", SHARED, "server", *mlflow_call(served, port)]
            with (served / "server.log").open("w") as log:
                subprocess.run(
                    ["setsid", "--fork", *call],
                    cwd=served,
                    env=for_servers(OWNER=str(owner())),
                    stdout=log,
                    stderr=log,
                    check=True,
                )
            address.write_text(answering(port, "/health", served))
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


class Project(Checkout):
    """A checkout whose tracking store is the MLflow server."""

    name = NAME  # of the registered model

    def __init__(self, path: Path, server: str) -> None:
        super().__init__(path)
        self.server = server

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


def trained(finished: Checkout, path: Path, epochs: int) -> Checkout:
    """Make a copy of `finished` in `path` whose model has trained for longer."""
    checkout = finished.copy(path)
    checkout.edit("params.yaml", "epochs: 4", f"epochs: {epochs}")
    checkout.run("dvc", "repro", MLFLOW_TRACKING_URI=f"sqlite:///{path / 'mlflow.db'}")
    return checkout


@pytest.fixture(scope="session")
def good(finished: Checkout) -> Checkout:
    return made_once("good", lambda path: trained(finished, path, 20))


@pytest.fixture(scope="session")
def better(finished: Checkout) -> Checkout:
    return made_once("better", lambda path: trained(finished, path, 60))


@pytest.fixture(scope="session")
def experiment(finished: Checkout) -> Checkout:
    """A checkout after a DVC experiment with more latents. Its commit has `finished`'s result."""

    def make(path: Path) -> None:
        checkout = finished.copy(path)
        author = ("-c", "user.name=Tests", "-c", "user.email=tests@example.org")
        checkout.run("git", "add", "--all")
        checkout.run("git", *author, "commit", "--quiet", "--message", "a result")
        store = f"sqlite:///{path / 'mlflow.db'}"
        checkout.run("dvc", "exp", "run", "-S", "model.latent_dim=16", MLFLOW_TRACKING_URI=store)

    return made_once("experiment", make)


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest,
    server: str,
    good: Checkout,
    better: Checkout,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """A checkout of a model with two versions; the second is champion, the first previous."""
    folder = tmp_path_factory.mktemp("pair")
    name = f"pair-{request.module.__name__}"
    first = Project(good.copy(folder / "first").path, server).named(name)
    second = Project(better.copy(folder / "second").path, server).named(name)
    for each in (first, second):
        each.ours("register")
        each.ours("promote")
    return second


@pytest.fixture
def candidate(server: str, finished: Checkout, tmp_path: Path) -> Project:
    """A checkout with a result that is not registered, and a name of the test's own."""
    return Project(finished.copy(tmp_path / "checkout").path, server).named(tmp_path.name)


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


# --- a server of `latentworks serve` --------------------------------------------------------------


@pytest.fixture(scope="session")
def champion(good: Checkout) -> Checkout:
    """A checkout with a champion in a store of its own. Copy it before changing anything."""

    def make(path: Path) -> None:
        project = Project(good.copy(path).path, f"sqlite:///{path / 'mlflow.db'}").named(NAME)
        project.ours("register")
        project.ours("promote")

    return made_once("champion", make)


@pytest.fixture(scope="module")
def project(champion: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Project:
    path = tmp_path_factory.mktemp("project") / "checkout"
    return Project(champion.copy(path).path, f"sqlite:///{path / 'mlflow.db'}")


@contextmanager
def server_of(uri: str, home: Path, *options: str) -> Iterator[str]:
    """Run a server that follows the champion at `uri`. Yield its address once it is ready."""
    port = closed_port()
    call = ["latentworks", "serve", "--port", str(port), "--every", "0.2", *options]
    home.mkdir(exist_ok=True)
    with serving(call, port, "/live", home, MLFLOW_TRACKING_URI=uri) as url:
        until(lambda: requests.get(f"{url}/ready", timeout=5).ok)
        yield url


@pytest.fixture(scope="module")
def url(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server_of(project.server, tmp_path_factory.mktemp("serving")) as url:
        yield url


# --- a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, a `selenium.webdriver.Chrome` that can reach this host alone."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    for argument in (
        "--headless=new",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--no-sandbox",  # Chromium needs this as root, and the pages are the project's own
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


# --- running the tests ----------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[WARM] = tempfile.mkdtemp(prefix="latentworks-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        folder = Path(os.environ.pop(WARM))
        end_shared_server(folder / "mlflow-server")
        shutil.rmtree(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, so that no worker is left alone with a long file at the end."""
    names = [f"test_{name}" for name in LONG]
    items.sort(key=lambda item: [*names, item.path.stem].index(item.path.stem))


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        if "system" in item.keywords:
            item.config.stash.setdefault(LEFT_OUT, []).append(item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = session.config.stash.get(LEFT_OUT, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep the names of the tests that a worker left out. The main process reports them."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left out", [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """List the tests that `make test` leaves to `make test-system`."""
    for name in config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(f"left to `make test-system`: {name}")
