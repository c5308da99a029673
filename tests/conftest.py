"""Fixtures of all tests, and hooks: which tests run, in which order, and what they report."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before their import, so that a failed assert in them shows its values.
pytest.register_assert_rewrite("checkouts", "servers", "faults", "stage_runs", "families")

from checkouts import KEYS, NAME, WARM, Checkout, Project, made_once, small_checkout, trained
from latentworks.registry import signatures
from latentworks.repository.result import Result, recorded_result
from servers import end_shared_server, server_of, shared_mlflow_server

# `make faults` and the nightly tests run long tests in full. Every push runs a short version.
FULL = "LATENTWORKS_FULL" in os.environ
LEFT_OUT = pytest.StashKey[list[str]]()
LONG = (  # the longest; the first four also need few results of other tests
    "topology",
    *("retraining", "deployments", "scoring", "races", "runner", "unreliable_server", "pipeline"),
    *("registry", "server", "verification", "training", "drift", "refusals", "backups", "faults"),
    *("registry_states", "fuzz", "worktree", "tracking", "learned_priors", "signatures", "http"),
    *("experiments", "sweep_trials", "own_project", "openapi", "servable", "features", "temporary"),
)


@pytest.fixture(autouse=True)
def interpreters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start programs cold in tests about processes."""
    if request.node.get_closest_marker("cold"):
        monkeypatch.setenv("LATENTWORKS_COLD", "1")


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which no stage has run. Copy it before changing anything."""
    return small_checkout(tmp_path_factory.mktemp("checkouts") / "untouched")


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


# --- an MLflow server, and models to register -----------------------------------------------------


@pytest.fixture(scope="session")
def served() -> Path:
    """The folder in which the shared MLflow server keeps its files."""
    return Path(os.environ[WARM]) / "mlflow-server"


@pytest.fixture(scope="session")
def server(served: Path) -> str:
    """The address of a real MLflow server that all workers share.

    Each test registers models under names of its own.
    """
    return shared_mlflow_server(served)


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
        checkout.commit()
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


# --- a server of `latentworks serve` --------------------------------------------------------------


@pytest.fixture(scope="session")
def champion(good: Checkout) -> Checkout:
    """A checkout with a champion in a store of its own. Copy it before changing anything."""

    def make(path: Path) -> None:
        project = Project.copied(good, path).named(NAME)
        project.ours("register")
        project.ours("promote")

    return made_once("champion", make)


@pytest.fixture(scope="module")
def project(champion: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.copied(champion, tmp_path_factory.mktemp("project") / "checkout")


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
    os.environ[signatures.FOLDER] = str(KEYS)
    if not hasattr(config, "workerinput"):
        signatures.Keys(KEYS).make()
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
