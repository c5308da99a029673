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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import mlflow.artifacts
import pytest
import requests
import yaml
from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

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
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text().replace("\\\n", "")
TEXT = (ROOT / "docker/compose.yaml").read_text()
API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"


class Clone(Checkout):
    """A checkout whose commands have the settings of compose.yaml and the image, and no more."""

    def environment(self, **changes: str) -> dict[str, str]:
        return environment(**changes)


def password(variable: str) -> str:
    return f"{variable.lower()} of/the@tests"  # with characters that an address cannot hold


def login_of(user: str) -> tuple[str, str]:
    """A user of MLflow, and the password."""
    return user, password(f"MLFLOW_{user.upper()}_PASSWORD")


class Service:
    """A service of compose.yaml and the Dockerfile, adapted to this machine."""

    def __init__(self, name: str, written: dict[str, Any], ports: dict[int, int], folder: Path):
        self.name = name
        self.folder = folder / name
        self.project = folder / "project"
        self.ports = ports
        self.needs: dict[str, dict[str, str]] = written.get("depends_on", {})
        self.mounted = {  # a file of docker/ by its path in the container
            path: name
            for each in map(str, written.get("volumes", ()))
            for name, path in re.findall(r"^\./([^:]+):([^:]+):ro$", each)
        }
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
        for path, name in self.mounted.items():
            text = text.replace(path, str(self.folder / name))
        return text.replace("/project", str(self.project)).split("\0")

    def mount(self) -> None:
        """Make the service's folder, with the files of docker/ that the service mounts."""
        self.folder.mkdir(exist_ok=True)
        for name in self.mounted.values():
            (text,) = self._here([(ROOT / "docker" / name).read_text()])
            (self.folder / name).write_text(text)

    @property
    def port(self) -> int:
        return self.ports[PORTS[self.name]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the process until the end of the block, which begins after the health check."""
        self.mount()
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
                    service.mount()
                    self.project.run(*service.call, **service.environment)
                else:
                    stack.enter_context(service.running())
            yield self

    def retrain(self, epochs: int) -> None:
        """Commit a longer training, and have the worker run it."""
        text = (self.project.path / "params.yaml").read_text()
        (now,) = re.findall(r"^  epochs: \d+", text, flags=re.MULTILINE)
        self.project.edit("params.yaml", now, f"  epochs: {epochs}")
        self.project.commit("--update")
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


@pytest.mark.parametrize("login", [None, ("admin", "password1234"), ("serve", "wrong")])
def test_mlflow_asks_for_a_login(topology: Topology, login: tuple[str, str] | None) -> None:
    """`password1234` was the admin's password in MLflow's own settings."""
    url = topology["mlflow"].url
    for path in ("/", FILES, f"{API}/experiments/search?max_results=1", f"{API}/users/list"):
        assert requests.get(f"{url}{path}", auth=login, timeout=30).status_code == 401, path
    assert requests.put(f"{url}{FILES}/1/x", data=b"x", auth=login, timeout=30).status_code == 401
    assert requests.get(f"{url}/health", auth=login, timeout=30).status_code == 200


def test_mlflow_answers_only_under_its_own_host_names(topology: Topology) -> None:
    url = f"{topology['mlflow'].url}{API}/experiments/search?max_results=1"
    for user in ("admin", "worker", "serve"):
        assert requests.get(url, auth=login_of(user), timeout=30).status_code == 200
    stranger = {"Host": "attacker.example"}
    refused = requests.get(url, headers=stranger, auth=login_of("admin"), timeout=30)
    assert refused.status_code == 403


def test_mlflow_makes_a_version_of_nothing_but_a_logged_model(topology: Topology) -> None:
    url = f"{topology['mlflow'].url}{API}"
    worker: dict[str, Any] = {"auth": login_of("worker"), "timeout": 30}
    requests.post(f"{url}/registered-models/create", json={"name": "x"}, **worker)
    version = {"name": "x", "source": "mlflow-artifacts:/1/models"}
    answer = requests.post(f"{url}/model-versions/create", json=version, **worker)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("Invalid model version source")


@pytest.fixture
def client(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], MlflowClient]:
    """Make a client of MLflow that has a user's login; an earlier client has it, too."""

    def of(user: str) -> MlflowClient:
        for name, value in zip(("USERNAME", "PASSWORD"), login_of(user), strict=True):
            monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", topology["mlflow"].url)
        return MlflowClient(topology["mlflow"].url)

    return of


def test_serve_can_read_from_mlflow_and_the_worker_can_write(
    topology: Topology, client: Callable[[str], MlflowClient], tmp_path: Path
) -> None:
    url = topology["mlflow"].url
    worker = client("worker")
    experiment = worker.create_experiment("written by the worker")
    run = worker.create_run(experiment).info.run_id
    worker.log_metric(run, "mse", 0.5)
    worker.log_text(run, "words", "notes.txt")
    model = worker.create_logged_model(experiment, name="m", source_run_id=run)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("numbers")
    worker.log_model_artifacts(model.model_id, str(tmp_path / "model"))
    worker.finalize_logged_model(model.model_id, "READY")
    worker.create_registered_model("m")
    source = f"models:/{model.model_id}"
    worker.create_model_version("m", source, run_id=run, model_id=model.model_id)
    worker.set_registered_model_alias("m", "champion", "1")

    serve = client("serve")
    assert serve.get_model_version_by_alias("m", "champion").version == "1"
    assert [each.version for each in serve.search_model_versions("name = 'm'")] == ["1"]
    assert [each.info.run_id for each in serve.search_runs([experiment])] == [run]
    location = serve.get_logged_model(model.model_id).artifact_location
    copy = mlflow.artifacts.download_artifacts(location, dst_path=str(tmp_path / "copy"))
    assert (Path(copy) / "weights").read_text() == "numbers"
    for write in (
        lambda: serve.create_registered_model("new"),
        lambda: serve.create_model_version("m", source, model_id=model.model_id),
        lambda: serve.set_registered_model_alias("m", "champion", "1"),
        lambda: serve.delete_registered_model_alias("m", "champion"),
        lambda: serve.set_model_version_tag("m", "1", "sha256", "0"),
        lambda: serve.update_model_version("m", "1", "words"),
        lambda: serve.delete_model_version("m", "1"),
        lambda: serve.delete_registered_model("m"),
        lambda: serve.create_experiment("new"),
        lambda: serve.delete_experiment(experiment),
        lambda: serve.create_run(experiment),
        lambda: serve.log_metric(run, "mse", 0.1),
        lambda: serve.log_batch(run, tags=[RunTag("decision", "promoted")]),
        lambda: serve.set_terminated(run),
        lambda: serve.delete_run(run),
        lambda: serve.create_logged_model(experiment),
        lambda: serve.delete_logged_model(model.model_id),
        lambda: serve.create_webhook("new", "https://example.org", ["registered_model.created"]),
    ):
        with pytest.raises(MlflowException) as refused:
            write()
        assert refused.value.get_http_status_code() == 403
    file = f"{url}{FILES}/{location.partition(':/')[2]}/weights"
    logged_in: dict[str, Any] = {"auth": login_of("serve"), "timeout": 30}
    assert requests.put(file, data=b"others", **logged_in).status_code == 403
    assert requests.delete(file, **logged_in).status_code == 403
    assert requests.get(file, **logged_in).text == "numbers"

    worker = client("worker")
    worker.delete_registered_model_alias("m", "champion")
    worker.delete_model_version("m", "1")
    worker.delete_registered_model("m")
    worker.delete_logged_model(model.model_id)
    worker.delete_run(run)
    worker.delete_experiment(experiment)


@pytest.mark.parametrize("user", ["worker", "serve"])
def test_only_the_admin_manages_the_users_of_mlflow(topology: Topology, user: str) -> None:
    url = f"{topology['mlflow'].url}{API}"
    new = {"username": "new", "password": password("NEW")}
    others = {"username": "admin", "password": password("NEW")}
    admin = {"username": user, "is_admin": True}
    listed = requests.get(f"{url}/users/list", auth=login_of("admin"), timeout=30).json()
    assert {each["username"] for each in listed["users"]} == {"admin", "worker", "serve"}
    for method, path, body in (
        ("POST", "users/create", new),
        ("PATCH", "users/update-password", others),
        ("PATCH", "users/update-admin", admin),
        ("DELETE", "users/delete", {"username": "admin"}),
    ):
        answer = requests.request(
            method, f"{url}/{path}", json=body, auth=login_of(user), timeout=30
        )
        assert answer.status_code == 403, path


def test_a_changed_password_counts_after_the_next_start(topology: Topology) -> None:
    login = topology["login"]
    url = f"{topology['mlflow'].url}{API}/experiments/search?max_results=1"
    topology.project.run(
        *login.call, **{**login.environment, "MLFLOW_SERVE_PASSWORD": "another password"}
    )
    assert requests.get(url, auth=("serve", "another password"), timeout=30).status_code == 200
    topology.project.run(*login.call, **login.environment)
    assert requests.get(url, auth=login_of("serve"), timeout=30).status_code == 200


def test_a_wrong_password_of_the_admin_is_reported_in_one_line(topology: Topology) -> None:
    login = topology["login"]
    wrong = {**login.environment, "MLFLOW_TRACKING_PASSWORD": "wrong"}
    done = topology.project.run(*login.call, expected=1, **wrong)
    assert "set MLFLOW_ADMIN_PASSWORD in docker/.env" in done.stderr
    assert "Traceback" not in done.stderr


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


def test_serve_waits_for_the_first_champion(topology: Topology) -> None:
    """To serve's user, MLflow answers 403 for a model that does not exist."""
    ready = f"{topology['serve'].url}/ready"
    until(lambda: "no version with the alias champion" in requests.get(ready, timeout=10).text)


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
