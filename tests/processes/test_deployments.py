"""Deployments and automations on a real Prefect server, with its scheduler and its triggers."""

import json
import os
import re
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from ruamel.yaml import YAML
from urllib3.util import Retry
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from checkouts import ROOT, Checkout, environment
from servers import closed_port, serving, until

# Settings of a server that polls often, so that no test waits for minutes.
EAGER = {
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_FOREMAN_DEPLOYMENT_LAST_POLLED_TIMEOUT_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")  # types of states that end a flow run


class Server:
    """The Prefect server of `make prefect`, asked over HTTP with its password."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self.api = f"{url}/api"
        self.home = home
        self.auth = (home / "auth").read_text().strip()
        self.session = requests.Session()
        user, _, password = self.auth.partition(":")
        self.session.auth = (user, password)
        # Prefect's own client retries, too, since SQLite may be busy.
        busy = Retry(total=10, backoff_factor=0.2, status_forcelist=[503], allowed_methods=None)
        self.session.mount(url, requests.adapters.HTTPAdapter(max_retries=busy))

    def get(self, path: str) -> Any:
        answer = self.session.get(f"{self.api}/{path}", timeout=30)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, **body: Any) -> Any:
        answer = self.session.post(f"{self.api}/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def deployment(self, name: str) -> Any:
        return self.get(f"deployments/name/{name}")

    def start(self, deployment: str) -> str:
        """Create a flow run of a deployment that starts now, and return its id."""
        identity = self.deployment(deployment)["id"]
        state = {"type": "SCHEDULED"}
        return str(self.post(f"deployments/{identity}/create_flow_run", state=state)["id"])

    def state(self, run: str) -> tuple[str, str]:
        state = self.get(f"flow_runs/{run}")["state"]
        return state["type"], state["name"]

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Return the flow runs of a deployment that did not come from its schedule."""
        identity = self.deployment(deployment)["id"]
        found = self.post("flow_runs/filter", deployments={"id": {"any_": [identity]}})
        return [run for run in found if not run["auto_scheduled"]]

    def ended(self, run: str) -> tuple[str, str]:
        """Wait until a flow run has ended, and return its final state."""
        state: tuple[str, str] = until(lambda: (s := self.state(run))[0] in FINAL and s)
        return state

    def reaches(self, run: str, kind: str) -> None:
        """Wait until a flow run is in a state of type `kind`. Fail at once if it ends before."""
        try:
            until(lambda: self.state(run)[0] in (kind, *FINAL))
        finally:
            assert self.state(run)[0] == kind, self.get(f"flow_run_states/?flow_run_id={run}")

    def cancel_all(self) -> None:
        """Cancel the flow runs that a test has left open, so that their places are free."""
        for run in self.post("flow_runs/filter"):
            if run["state_type"] not in FINAL and not run["auto_scheduled"]:
                self.post(f"flow_runs/{run['id']}/set_state", state={"type": "CANCELLED"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prefect")
    port, home = closed_port(), folder / "home"
    ours = {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": str(port)}
    ours |= {"PYTHONPATH": str(ROOT), "PREFECT_SERVER_UI_ENABLED": "false"}
    call = ["python", "-m", "pipeline", "server"]  # the command of `make prefect`
    with serving(call, port, "/api/health", folder, **ours, **EAGER) as url:
        yield Server(url, home)


class Project(Checkout):
    """A checkout whose flow runs are recorded by a Prefect server."""

    def __init__(self, path: Path, server: Server) -> None:
        super().__init__(path)
        self.server = server

    def environment(self, **changes: str) -> dict[str, str]:
        """Return an environment with the port and the folder of the server.

        Programs find the server and its password as they do at the default port and folder.
        """
        ours = {
            "PREFECT_HOME": str(self.server.home),
            "PREFECT_SERVER_API_PORT": self.server.url.rpartition(":")[2],
            "PYTHONPATH": str(self.path / "src"),
        }
        return super().environment(**{**ours, **EAGER, **changes})

    def python(self, script: str) -> str:
        """Run a script with the settings of `python -m pipeline schedule`; return its output."""
        done = self.run(
            "python", "-c", f"from pipeline import server\nserver.be_default()\n{script}"
        )
        return done.stdout + done.stderr

    @contextmanager
    def running(self, *call: str) -> Iterator[subprocess.Popen[str]]:
        """Start a process whose children can be found and killed. It ends with the block."""
        with (self.path.parent / f"{call[-1]}.log").open("w") as log:
            process = subprocess.Popen(
                call,
                cwd=self.path,
                env=self.environment(LATENTWORKS_COLD="1"),
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            for how in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, how)
                    process.wait(20)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    pass

    def is_served(self) -> None:
        """Wait until `schedule` has registered the deployments and asks for their runs."""
        log = self.path.parent / "schedule.log"
        until(lambda: "are being served" in log.read_text())


@pytest.fixture
def project(untouched: Checkout, server: Server, tmp_path: Path) -> Iterator[Project]:
    project = Project(untouched.copy(tmp_path / "project").path, server)
    (tmp_path / "images").mkdir()
    (project.path / "digits.npz").rename(tmp_path / "images/digits.npz")
    project.edit("params.yaml", "digits.npz", "../images/digits.npz")
    for cron in ("0 3 * * *", "*/10 * * * *", "0 1 * * *"):
        project.edit("prefect.yaml", f'"{cron}"', '"0 0 29 2 *"')  # never while a test runs
    project.commit()
    yield project
    server.cancel_all()


class Mailbox(BaseHTTPRequestHandler):
    """An HTTP handler that keeps the notifications that it receives."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        type(self).received.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def mailbox() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of an HTTP server on this machine, and the notifications that it received."""
    handler = type("Handler", (Mailbox,), {"received": []})
    with HTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/", handler.received
        http.shutdown()


def make_block(project: Project, url: str) -> str:
    """Save a notification block of Prefect for an address on this machine; return its name."""
    script = f"""
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="tests", url={url!r}, allow_private_urls=True,
    json_data={{"subject": "{{{{subject}}}}", "text": "{{{{body}}}}"}},
).save("tests", overwrite=True)
"""
    project.python(script)
    return "custom-webhook/tests"


def as_written(project: Project) -> None:
    """Assert that the deployments on the server are those of prefect.yaml."""
    server = project.server
    for written in YAML(typ="safe").load(project.path / "prefect.yaml")["deployments"]:
        flow = written["entrypoint"].partition(":")[2]
        found = server.deployment(f"{flow}/{written['name']}")
        (schedule,) = found["schedules"]
        assert schedule["active"]
        (asked,) = written["schedules"]
        assert {name: schedule["schedule"][name] for name in asked} == asked
        limit = {"limit": found["global_concurrency_limit"]["limit"]}
        assert {**limit, **found["concurrency_options"]} == written["concurrency_limit"]
        assert found["parameters"] == written.get("parameters", {})


# --- deployments, served or run by a worker ------------------------------------------------------


def test_schedule_serves_prefect_yaml_and_cancels_colliding_flow_runs(
    project: Project, server: Server
) -> None:
    with project.running("python", "-m", "pipeline", "schedule"):
        project.is_served()
        said = (project.path.parent / "schedule.log").read_text()
        assert re.search(
            r"^retrain: next flow run \w{3} 20\d\d-02-29 00:00 UTC$", said, re.MULTILINE
        )
        as_written(project)
        first = server.start("retrain/retrain")
        server.reaches(first, "RUNNING")
        second = server.start("retrain/retrain")
        kind, name = until(lambda: (s := server.state(second))[0] != "SCHEDULED" and s)
        assert (kind, name) == ("CANCELLED", "Cancelled")
        assert server.state(first)[0] == "RUNNING"


def test_a_worker_runs_the_flows(project: Project, server: Server) -> None:
    prefect = ("python", "-m", "pipeline", "prefect")
    project.run(*prefect, "work-pool", "create", "latentworks", "--type", "process", "--overwrite")
    project.run(*prefect, "--no-prompt", "deploy", "--all")
    as_written(project)
    with project.running(*prefect, "worker", "start", "--pool", "latentworks"):
        run = server.start("watch/watch")
        assert server.ended(run) == ("COMPLETED", "No change")
        assert server.get(f"flow_runs/{run}")["name"] == "look for new images"


# --- automations ---------------------------------------------------------------------------------


def test_automations_retrain_notify_and_end_dead_flow_runs(
    project: Project, server: Server, mailbox: tuple[str, list[dict[str, str]]]
) -> None:
    """New images start a retraining. Failures, decisions and dead processes cause notifications."""
    url, received = mailbox
    with project.running("python", "-m", "pipeline", "schedule") as process:
        project.is_served()
        assert server.deployment("retrain/retrain")["path"] == str(project.path)  # this checkout
        apply_twice(project, make_block(project, url))
        images = project.path.parent / "images/digits.npz"
        content = images.read_bytes()
        before = {run["id"] for run in server.runs("retrain/retrain")}
        watch(project, "No change")
        images.write_bytes(b"no images at all")
        watch(project, "Still changing")
        watch(project, "Changed")
        (failed,) = until(
            lambda: [r for r in server.runs("retrain/retrain") if r["id"] not in before]
        )
        assert server.ended(failed["id"])[0] == "FAILED"
        told = until(lambda: messages(received, "retrain HEAD: Failed"))
        assert told == ["a run failed: retrain, retrain HEAD: Failed."]

        for name in ("Refused", "Promoted"):
            decide(project, name)
        decided = {
            ("a model was refused", "Refused. too bad"),
            ("a new champion", "Promoted. too bad"),
        }
        until(lambda: decisions(received) >= decided)
        assert decisions(received) == decided

        images.write_bytes(content)
        killed = server.start("retrain/retrain")
        until(lambda: "heartbeat" in events(server, killed))
        kill(process)
        died(project, killed, received)
    with project.running("python", "-m", "pipeline", "schedule") as process:
        stuck = server.start("retrain/retrain")
        until(lambda: server.state(stuck)[1] == "Submitting")  # its process is just starting
        kill(process)
        assert server.state(stuck)[0] == "PENDING"
        died(project, stuck, received)
    dead = "a worker died"
    until(lambda: any(each["subject"] == dead for each in received))
    looks = server.post("flow_runs/filter", flows={"name": {"any_": ["watch"]}})
    assert len(looks) >= 3
    # These flow runs were silent for as long as the killed ones, and still keep their state.
    assert {run["state_type"] for run in looks} == {"COMPLETED"}


def kill(process: "subprocess.Popen[str]") -> None:
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()


def decide(project: Project, name: str) -> None:
    """Run a flow that ends in the state `name`, as a retraining does."""
    script = f"""
from prefect import flow, tags
from prefect.states import Completed
@flow(name="retrain")
def retrain():
    return Completed(name={name!r}, message="too bad")
with tags("latentworks"):
    retrain()
"""
    project.python(script)


def decisions(received: list[dict[str, str]]) -> set[tuple[str, str]]:
    """Return the notifications of decisions: the subject, and the state with its message."""
    said = [(each["subject"], each["text"].partition(": ")[2]) for each in received]
    return {(subject, text.rpartition(" ")[0]) for subject, text in said if "too bad" in text}


def died(project: Project, run: str, received: list[dict[str, str]]) -> None:
    """Wait until a flow run is CRASHED and the notification of that has arrived.

    The state frees the place of the flow run.
    """
    until(lambda: project.server.state(run)[0] == "CRASHED")
    name = project.server.get(f"flow_runs/{run}")["name"]
    until(lambda: messages(received, f"{name}: {project.server.state(run)[1]}"))


def apply_twice(project: Project, block: str) -> None:
    call = ("python", "-m", "pipeline", "automations", "--pending", "30", "--silent", "45")
    said = project.run(*call).stdout
    assert "made: latentworks: retrain on new images" in said
    assert "no notifications of failures and decisions" in said
    said = project.run(*call, "--tell", block).stdout
    assert "renewed: latentworks: retrain on new images" in said
    assert "made: latentworks: a run failed" in said
    names = [found["name"] for found in project.server.post("automations/filter")]
    assert len(names) == len(set(names)) == len(said.splitlines())
    said = project.run(*call).stdout  # without --tell, nobody is notified any more
    assert "removed: latentworks: a run failed" in said
    project.run(*call, "--tell", block)


def messages(received: list[dict[str, str]], part: str) -> list[str]:
    """Return the notifications with this name and state, without the fault and the address."""
    told = [f"{each['subject']}: {each['text']}" for each in received if part in each["text"]]
    return [". ".join(text.split(". ")[:1]) + "." for text in told]


def events(server: Server, run: str) -> str:
    """Return the names of all events that the server received about a flow run."""
    chosen = {"any_resource": {"id": [f"prefect.flow-run.{run}"]}}
    found = server.post("events/filter", filter=chosen)["events"]
    return " ".join(event["event"] for event in found)


def watch(project: Project, expected: str) -> None:
    """Run the flow that compares the images, and assert the state in which it ends."""
    script = """
from prefect import tags
from pipeline.watching import watch
with tags("latentworks"):
    watch()
"""
    assert f"Finished in state {expected}(" in project.python(script)


def test_commands_report_a_missing_prefect_server_in_one_line(project: Project) -> None:
    port = str(closed_port())
    nobody = f"http://127.0.0.1:{port}/api"
    for command, named in (
        ("schedule", {"PREFECT_SERVER_API_PORT": port}),  # no server is started there
        ("automations", {"PREFECT_API_URL": "", "PREFECT_SERVER_API_PORT": port}),
        ("retrain", {"PREFECT_API_URL": nobody}),
    ):
        done = project.run("python", "-m", "pipeline", command, expected=1, **named)
        said = f"The Prefect server at {nobody} does not answer. Start it first.\n"
        assert done.stderr == said


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(project: Project) -> None:
    dead = f"http://127.0.0.1:{closed_port()}"
    project.run("python", "-m", "pipeline", "automations", http_proxy=dead, no_proxy="example.org")


# --- passwords -----------------------------------------------------------------------------------


def test_commands_report_a_wrong_password_in_one_line(project: Project, server: Server) -> None:
    for command in ("automations", "retrain"):
        call = ("python", "-m", "pipeline", command)
        given = {"PREFECT_API_URL": server.api, "PREFECT_API_AUTH_STRING": "me:wrong"}
        done = project.run(*call, expected=1, **given)
        said = f"The Prefect server at {server.api} refused the password (status 401). Set "
        assert done.stderr.startswith(said)
        assert len(done.stderr.splitlines()) == 1


EVIL = "http://evil.example"


@pytest.fixture
def bait(server: Server) -> Iterator[str]:
    """The id of a deployment that no process runs."""
    flow = server.post("flows/", name="bait")["id"]
    identity: str = server.post("deployments/", name="bait", flow_id=flow)["id"]
    yield identity
    server.session.delete(f"{server.api}/deployments/{identity}", timeout=30)


def test_a_client_without_the_password_cannot_run_commands(server: Server, bait: str) -> None:
    """The client may be another user of the machine, or a web page in a browser on it."""
    shell = {"prefect.deployments.steps.run_shell_script": {"script": "id > /tmp/stranger"}}
    calls: list[tuple[str, str, Any]] = [
        ("PATCH", f"deployments/{bait}", {"pull_steps": [shell]}),
        ("POST", f"deployments/{bait}/create_flow_run", {"state": {"type": "SCHEDULED"}}),
    ]
    for auth in (None, ("latentworks", "wrong"), ("", "")):
        for method, path, body in calls:
            answer = requests.request(
                method,
                f"{server.api}/{path}",
                json=body,
                headers={"Origin": EVIL},
                auth=auth,
                timeout=30,
            )
            assert answer.status_code == 401
            assert "Access-Control-Allow-Origin" not in answer.headers
    assert not server.get(f"deployments/{bait}")["pull_steps"]
    assert not server.runs("bait/bait")

    for method, path, body in calls:  # the owner may send the same calls
        server.session.request(
            method, f"{server.api}/{path}", json=body, timeout=30
        ).raise_for_status()
    assert server.get(f"deployments/{bait}")["pull_steps"] == [shell]
    assert len(server.runs("bait/bait")) == 1


def test_every_route_but_health_and_ready_needs_the_password(server: Server) -> None:
    """The two open routes only say that the server runs."""
    found = set()
    for path, methods in server.get("openapi.json")["paths"].items():
        for method in methods:
            url = server.api + path.replace("{", "").replace("}", "")
            if requests.request(method, url, json={}, timeout=30).status_code != 401:
                found.add(f"{method} {path}")
    assert found == {"get /health", "get /ready"}


SOCKETS = (
    *("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"),
    "work_pools/bait/workers/connect",
)


@pytest.mark.parametrize("path", SOCKETS)
def test_every_websocket_needs_the_password(server: Server, path: str) -> None:
    url = f"ws{server.api.removeprefix('http')}/{path}"
    with pytest.raises(InvalidStatus, match="403"), connect(url):
        pass
    for token in (None, "latentworks:wrong"):
        with connect(url, subprotocols=[Subprotocol("prefect")]) as socket:
            socket.send(json.dumps({"type": "auth", "token": token}))
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=30)
    with connect(url, subprotocols=[Subprotocol("prefect")]) as socket:
        socket.send(json.dumps({"type": "auth", "token": server.auth}))
        assert json.loads(socket.recv(timeout=30)) == {"type": "auth_success"}


def test_cors_allows_the_pages_of_the_server_alone(server: Server, bait: str) -> None:
    port = server.url.rpartition(":")[2]
    own = {f"http://{host}:{port}" for host in ("127.0.0.1", "localhost")}
    for origin in (*own, EVIL, "http://127.0.0.1:1", "null"):
        headers = {"Origin": origin, "Access-Control-Request-Method": "PATCH"}
        answer = requests.options(f"{server.api}/deployments/{bait}", headers=headers, timeout=30)
        allowed = answer.headers.get("Access-Control-Allow-Origin")
        assert allowed == (origin if origin in own else None)


def call_of(*call: str, home: Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with pipeline/ on its path, and with `home` as the folder of Prefect."""
    ours = environment(PREFECT_HOME=str(home), PYTHONPATH=str(ROOT), **changes)
    return subprocess.run(["python", *call], env=ours, capture_output=True, text=True)


def test_the_password_is_made_once_and_only_its_owner_can_read_it(
    server: Server, tmp_path: Path
) -> None:
    assert stat.S_IMODE((server.home / "auth").stat().st_mode) == 0o600
    assert not [path for path in server.home.iterdir() if path.name.startswith(".auth")]
    call = ["python", "-c", "from pipeline import server; print(server._kept_auth())"]
    ours = environment(PREFECT_HOME=str(tmp_path / "home"), PYTHONPATH=str(ROOT))
    with ExitStack() as stack:
        starts = [
            stack.enter_context(subprocess.Popen(call, env=ours, stdout=subprocess.PIPE, text=True))
            for _ in range(6)
        ]
        (line,) = {start.communicate()[0] for start in starts}
    assert line == (tmp_path / "home/auth").read_text()
    assert len(line) > 40
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["auth"]


@pytest.mark.parametrize(
    ("content", "mode", "fault"),
    [
        ("me:secret", 0o640, "others can read"),
        ("", 0o600, "one line USER:PASSWORD"),  # with an empty password, Prefect would ask for none
        ("me:", 0o600, "one line USER:PASSWORD"),
    ],
)
def test_an_open_or_malformed_password_file_is_refused(
    tmp_path: Path, content: str, mode: int, fault: str
) -> None:
    (tmp_path / "auth").write_text(content)
    (tmp_path / "auth").chmod(mode)
    done = call_of("-m", "pipeline", "server", home=tmp_path)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert fault in said


@pytest.mark.parametrize(
    ("named", "sent"),
    [
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/api"}, "me:secret"),
        ({"PREFECT_API_URL": "http://127.0.0.1:4200/api/"}, "me:secret"),
        ({"PREFECT_API_URL": "http://127.0.0.1:4201/api"}, None),
        ({"PREFECT_API_URL": "http://localhost:4200/api"}, None),  # ::1 may be another user's
        ({"PREFECT_API_URL": "http://127.0.0.1:4200@prefect.example/api"}, None),
        ({"PREFECT_API_URL": "https://prefect.example/api"}, None),
        ({}, None),  # a flow starts a server of its own
        (
            {
                "PREFECT_API_URL": "http://127.0.0.1:4200/api",
                "PREFECT_API_AUTH_STRING": "mine:own",
            },
            "mine:own",
        ),
    ],
)
def test_clients_send_the_password_to_no_other_server(
    tmp_path: Path, named: dict[str, str], sent: str | None
) -> None:
    (tmp_path / "auth").write_text("me:secret\n")
    script = "import os, pipeline; print(os.environ.get('PREFECT_API_AUTH_STRING'))"
    assert call_of("-c", script, home=tmp_path, **named).stdout.strip() == str(sent)


def test_a_temporary_server_asks_for_a_password_too(tmp_path: Path) -> None:
    script = """
import requests
from pipeline import temporary
with temporary.server() as settings:
    url, auth = settings.values()
    for given in (None, tuple(auth.split(":"))):
        print(requests.get(f"{url}/admin/version", auth=given).status_code)
    print(requests.get(f"{url}/health", headers={"Origin": "http://evil.example"}).headers)
"""
    done = call_of("-c", script, home=tmp_path)
    refused, obeyed, headers = done.stdout.splitlines()
    assert (refused, obeyed) == ("401", "200"), done.stderr
    assert "access-control-allow-origin" not in headers.lower()
    assert not (tmp_path / "auth").exists()
