"""The services of docker/compose.yaml, run as processes on loopback, retrain, promote and swap.

The tests read commands, settings, health checks and their order from the file. They replace hosts,
ports and folders. PostgreSQL is Debian's, and the S3 store is moto's.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from checkouts import ROOT, Checkout, environment
from servers import closed_port, serving, until

pytestmark = pytest.mark.system

PORTS = {  # inside the containers; each is replaced
    "postgres": 5432,
    "artifacts": 7070,
    "mlflow": 5000,
    "prefect": 4200,
    "worker": 8080,
    "serve": 8000,
}
AUTHOR = ("-c", "user.name=Tests", "-c", "user.email=tests@example.org")
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text().replace("\\\n", "")
TEXT = (ROOT / "docker/compose.yaml").read_text()


class Clone(Checkout):
    """A checkout whose commands have the settings of compose.yaml and the image, and no more."""

    def environment(self, **changes: str) -> dict[str, str]:
        return environment(**changes)


def password(variable: str) -> str:
    return f"{variable.lower()} of/the@tests"  # with characters that an address cannot hold


class Service:
    """A service of compose.yaml and the Dockerfile, adapted to this machine."""

    def __init__(self, name: str, written: dict[str, Any], ports: dict[int, int], folder: Path):
        self.name = name
        self.folder = folder / name
        self.project = folder / "project"
        self.ports = ports
        self.needs: dict[str, dict[str, str]] = written.get("depends_on", {})
        target = written.get("build", {}).get("target", "base")
        image = DOCKERFILE.partition(f"AS {target}\n")[2].partition("\nFROM ")[0]
        entrypoint = self._of_image("ENTRYPOINT", image)
        self.call = entrypoint + self._here(written.get("command") or self._of_image("CMD", image))
        checked = written.get("healthcheck", {}).get("test", ())[1:]  # without the word CMD
        self.health = self._here(checked) if checked else self._of_image("HEALTHCHECK.* CMD", image)
        defaults = dict(re.findall(r"(\w+)=(/project\S+)", image))
        given = {**defaults, **written.get("environment", {})}
        self.environment = dict(zip(given, self._here(given.values()), strict=True))
        self.works_in_project = any("/project" in str(each) for each in written.get("volumes", ()))

    def _of_image(self, instruction: str, image: str) -> list[str]:
        found = re.search(rf"^{instruction} (\[.*\])$", image, flags=re.MULTILINE)
        return self._here(json.loads(found[1])) if found else []

    def _here(self, words: Any) -> list[str]:
        """Fill passwords into words of the file, and hosts, ports and folders of this machine."""
        text = "\0".join(words)
        text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: password(found[1]), text)
        text = re.sub(rf"\b({'|'.join(PORTS)}|localhost)(?=:\d)|0\.0\.0\.0", "127.0.0.1", text)
        text = re.sub(r"\b\d{4}\b", lambda found: str(self.ports[int(found[0])]), text)
        text = text.replace("/var/lib/latentworks", str(self.folder))
        text = re.sub("(?<![^\0])/keys(?![^\0])", str(self.project.parent / "keys"), text)
        return text.replace("/project", str(self.project)).split("\0")

    @property
    def port(self) -> int:
        return self.ports[PORTS[self.name]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the process until the end of the block, which begins after the health check."""
        self.folder.mkdir(exist_ok=True)
        (path,) = re.findall(r"http://127\.0\.0\.1:\d+(/[^'\s]+)", self.health[-1])
        place = ["env", "-C", str(self.project)] if self.works_in_project else []
        if self.name == "artifacts":  # moto's server instead
            self.call = ["moto_server", "-H", "127.0.0.1", "-p", str(self.port)]
            path = "/moto-api/"
        with serving([*place, *self.call], self.port, path, self.folder, **self.environment):
            if self.name != "artifacts":
                subprocess.run(self.health, env=environment(), check=True)
            yield


@contextmanager
def postgres(service: Service) -> Iterator[None]:
    """Run Debian's PostgreSQL with the databases of databases.sh, as a user that is not root."""
    binaries = max(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    ours = service.environment | {"PGHOST": "127.0.0.1", "PGPORT": str(service.port)}
    ours |= {"PGPASSWORD": ours["POSTGRES_PASSWORD"], "PATH": f"{binaries}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # open to that user, too
        folder = Path(name)
        (folder / "password").write_text(ours["POSTGRES_PASSWORD"])
        for path in (folder, folder / "password") if user else ():
            shutil.chown(path, "postgres", "postgres")
        made = [binaries / "initdb", "--username=postgres", "--auth=scram-sha-256", "--no-sync"]
        made += [f"--pwfile={folder / 'password'}", f"--pgdata={folder / 'data'}"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **user)
        call = [binaries / "postgres", "-D", folder / "data", "-p", str(service.port)]
        call += ["-h", "127.0.0.1", "-k", folder]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(call, cwd=folder, stderr=log, **user)
        try:
            until(lambda: subprocess.run(service.health, env=ours).returncode == 0)
            script = ROOT / "docker/databases.sh"
            subprocess.run([script], env=environment(**ours), check=True)
            yield
        finally:
            process.send_signal(signal.SIGINT)  # at SIGTERM PostgreSQL would wait for its clients
            process.wait(30)


class Topology:
    """All services, started in the order and on the conditions of the file."""

    def __init__(self, folder: Path) -> None:
        written = yaml.safe_load(TEXT)["services"]
        ports = {port: closed_port() for port in PORTS.values()}
        self.project = Clone(folder / "project")
        self.services = {name: Service(name, each, ports, folder) for name, each in written.items()}

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    @contextmanager
    def running(self) -> Iterator["Topology"]:
        order = TopologicalSorter({name: each.needs for name, each in self.services.items()})
        conditions = {
            need: how["condition"] for each in self.services.values()
            for need, how in each.needs.items()
        }  # fmt: skip
        with ExitStack() as stack:
            for name in order.static_order():
                service = self[name]
                if name == "postgres":
                    stack.enter_context(postgres(service))
                elif conditions.get(name) == "service_completed_successfully":
                    self.project.run(*service.call, **service.environment)
                else:
                    stack.enter_context(service.running())
            yield self

    def retrain(self, epochs: int) -> None:
        """Commit a longer training, and have the worker run it."""
        text = (self.project.path / "params.yaml").read_text()
        (now,) = re.findall(r"^  epochs: \d+", text, flags=re.MULTILINE)
        self.project.edit("params.yaml", now, f"  epochs: {epochs}")
        self.project.run("git", *AUTHOR, "commit", "--quiet", "--all", "--message", "longer")
        call = ("prefect", "deployment", "run", "retrain/retrain", "--watch")
        self.project.run(*call, **self["deploy"].environment)

    def served(self) -> int | None:
        """The number of the version that answers; None while no version answers."""
        answer = requests.get(f"{self['serve'].url}/version", timeout=10)
        return int(answer.json()["version"]) if answer.ok else None

    def swaps(self) -> float:
        """The number of times that the server process has swapped to another version."""
        text = requests.get(f"{self['serve'].url}/metrics", timeout=10).text
        (found,) = re.findall(r"^latentworks_swaps (\S+)$", text, flags=re.MULTILINE)
        return float(found)


@pytest.fixture(scope="module")
def topology(good: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    folder = tmp_path_factory.mktemp("topology")
    project = good.copy(folder / "project")
    project.edit("params.yaml", "    mse: 0.5  #", "    mse: 0.95  #")
    for cron in ("0 3 * * *", "*/10 * * * *", "0 1 * * *"):
        project.edit("prefect.yaml", f'"{cron}"', '"0 0 29 2 *"')  # never while a test runs
    with Topology(folder).running() as running:
        yield running


def test_prefect_asks_for_the_password(topology: Topology) -> None:
    url = f"{topology['prefect'].url}/api/admin/version"
    right = ("latentworks", password("PREFECT_PASSWORD"))
    assert requests.get(url, auth=right, timeout=10).status_code == 200
    for wrong in (None, ("latentworks", "wrong")):
        assert requests.get(url, auth=wrong, timeout=10).status_code == 401


def test_mlflow_answers_only_under_its_own_host_names(topology: Topology) -> None:
    url = f"{topology['mlflow'].url}/api/2.0/mlflow/experiments/search?max_results=1"
    assert requests.get(url, timeout=10).status_code == 200
    stranger = {"Host": "attacker.example"}
    assert requests.get(url, headers=stranger, timeout=10).status_code == 403


def test_mlflow_makes_a_version_of_nothing_but_a_logged_model(topology: Topology) -> None:
    url = f"{topology['mlflow'].url}/api/2.0/mlflow"
    requests.post(f"{url}/registered-models/create", json={"name": "x"}, timeout=10)
    version = {"name": "x", "source": "mlflow-artifacts:/1/models"}
    answer = requests.post(f"{url}/model-versions/create", json=version, timeout=10)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("Invalid model version source")


def test_a_database_admits_only_its_own_server(topology: Topology) -> None:
    address = f"postgresql://mlflow@127.0.0.1:{topology['postgres'].port}"
    known = password("MLFLOW_DATABASE_PASSWORD")
    for database, word, said in (
        ("mlflow", known, "1"),
        ("mlflow", "wrong", "password authentication failed"),
        ("prefect", known, "permission denied"),
    ):
        call = ["psql", "-Atc", "select 1", f"{address}/{database}"]
        done = subprocess.run(
            call, env=environment(PGPASSWORD=word), capture_output=True, text=True
        )
        assert said in done.stdout + done.stderr, database


def test_a_retrained_model_is_promoted_and_the_server_swaps_to_it(topology: Topology) -> None:
    assert topology.served() is None
    topology.retrain(20)  # as `good` was trained: DVC has the stages in its cache
    until(lambda: topology.served() == 1)
    topology.retrain(60)
    until(lambda: topology.served() == 2)
    assert topology.swaps() == 1
    objects = requests.get(f"{topology['artifacts'].url}/mlflow?list-type=2", timeout=10).text
    assert "decoder.onnx</Key>" in objects
    local = [path for path in topology["mlflow"].folder.rglob("*") if path.suffix == ".onnx"]
    assert not local
