"""Deployments and automations on a real Prefect server, with its scheduler and its triggers."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from ruamel.yaml import YAML
from urllib3.util import Retry

from conftest import Checkout, closed_port, prefect_server, until

# A server that looks often, so that a test need not wait for minutes.
EAGER = {
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_FOREMAN_DEPLOYMENT_LAST_POLLED_TIMEOUT_SECONDS": "5",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
    "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
}


class Server:
    """A Prefect server, asked over HTTP."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.session = requests.Session()
        # As Prefect's own client does: SQLite may be busy.
        busy = Retry(total=10, backoff_factor=0.2, status_forcelist=[503], allowed_methods=None)
        self.session.mount(api, requests.adapters.HTTPAdapter(max_retries=busy))

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
        """Ask for a run of a deployment now; returns its id."""
        identity = self.deployment(deployment)["id"]
        state = {"type": "SCHEDULED"}
        return str(self.post(f"deployments/{identity}/create_flow_run", state=state)["id"])

    def state(self, run: str) -> tuple[str, str]:
        state = self.get(f"flow_runs/{run}")["state"]
        return state["type"], state["name"]

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Those that did not come from the schedule."""
        identity = self.deployment(deployment)["id"]
        found = self.post("flow_runs/filter", deployments={"id": {"any_": [identity]}})
        return [run for run in found if not run["auto_scheduled"]]

    def ended(self, run: str) -> tuple[str, str]:
        """The state that a run ends in, once it has."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        state: tuple[str, str] = until(lambda: (s := self.state(run))[0] in final and s)
        return state


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prefect_server(tmp_path_factory.mktemp("prefect"), **EAGER) as api:
        yield Server(api)


class Project(Checkout):
    """A checkout whose flows run on a server."""

    def __init__(self, path: Path, server: Server) -> None:
        super().__init__(path)
        self.server = server

    def environment(self, **changes: str) -> dict[str, str]:
        ours = {"PREFECT_API_URL": self.server.api, "PYTHONPATH": str(self.path / "src")}
        return super().environment(**{**ours, **EAGER, **changes})

    @contextmanager
    def running(self, *call: str) -> Iterator[subprocess.Popen[str]]:
        """A process that goes on, until the end of the block."""
        with (self.path.parent / f"{call[-1]}.log").open("w") as log:
            process = subprocess.Popen(
                call,
                cwd=self.path,
                env=self.environment(),
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
def project(untouched: Checkout, server: Server, tmp_path: Path) -> Project:
    project = Project(untouched.copy(tmp_path / "project").path, server)
    (tmp_path / "images").mkdir()
    (project.path / "digits.npz").rename(tmp_path / "images/digits.npz")
    project.edit("params.yaml", "digits.npz", "../images/digits.npz")
    for cron in ("0 3 * * *", "*/10 * * * *", "0 1 * * *"):
        project.edit("prefect.yaml", f'"{cron}"', '"0 0 29 2 *"')  # never while a test runs
    project.run("git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "-qam", "x")
    return project


class Mailbox(BaseHTTPRequestHandler):
    """Where notifications go."""

    received: list[dict[str, Any]]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        type(self).received.append(json.loads(self.rfile.read(length)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def mailbox() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address on this machine, and what arrived there."""
    handler = type("Handler", (Mailbox,), {"received": []})
    with HTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/", handler.received
        http.shutdown()


def make_block(project: Project, url: str) -> str:
    """A notification block of Prefect's for an address on this machine."""
    script = f"""
from prefect.blocks.notifications import CustomWebhookNotificationBlock
CustomWebhookNotificationBlock(
    name="tests", url={url!r}, allow_private_urls=True,
    json_data={{"subject": "{{{{subject}}}}", "text": "{{{{body}}}}"}},
).save("tests", overwrite=True)
"""
    project.run("python", "-c", script)
    return "custom-webhook/tests"


def as_written(project: Project) -> None:
    """The server has what prefect.yaml says."""
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


# --- served, and by a worker ---------------------------------------------------------------------


def test_served_as_written_and_a_colliding_run_is_cancelled(
    project: Project, server: Server
) -> None:
    with project.running("python", "-m", "pipeline", "schedule"):
        project.is_served()
        as_written(project)
        first = server.start("retrain/retrain")
        until(lambda: server.state(first)[0] == "RUNNING")
        second = server.start("retrain/retrain")
        kind, name = until(lambda: (s := server.state(second))[0] != "SCHEDULED" and s)
        assert (kind, name) == ("CANCELLED", "Cancelled")
        assert server.state(first)[0] == "RUNNING"
        server.post(f"flow_runs/{first}/set_state", state={"type": "CANCELLED"})  # a free place


def test_a_worker_runs_the_flows(project: Project, server: Server) -> None:
    project.run("prefect", "work-pool", "create", "latentworks", "--type", "process", "--overwrite")
    project.run("prefect", "--no-prompt", "deploy", "--all")
    as_written(project)
    with project.running("prefect", "worker", "start", "--pool", "latentworks"):
        run = server.start("watch/watch")
        assert server.ended(run) == ("COMPLETED", "No change")


# --- what happens then ---------------------------------------------------------------------------


def test_what_happens_then(
    project: Project, server: Server, mailbox: tuple[str, list[dict[str, str]]]
) -> None:
    """New images start a retraining; its failure is told; so are processes that died."""
    url, received = mailbox
    with project.running("python", "-m", "pipeline", "schedule") as process:
        project.is_served()
        assert server.deployment("retrain/retrain")["path"] == str(project.path)  # and no other
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
        told = until(lambda: messages(received, failed["name"]))
        assert told == [f"a run failed: retrain {failed['name']}: Failed."]

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
        until(lambda: server.state(stuck)[1] == "Submitting")  # its process is being started
        kill(process)
        assert server.state(stuck)[0] == "PENDING"
        died(project, stuck, received)
    dead = "a worker died"
    until(lambda: any(each["subject"] == dead for each in received))
    looks = server.post("flow_runs/filter", flows={"name": {"any_": ["watch"]}})
    assert len(looks) >= 3
    assert {run["state_type"] for run in looks} == {"COMPLETED"}  # though silent for as long


def kill(process: "subprocess.Popen[str]") -> None:
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()


def decide(project: Project, name: str) -> None:
    """A run of a flow of that name that ends as a retraining does."""
    script = f"""
from prefect import flow, tags
from prefect.states import Completed
@flow(name="retrain")
def retrain():
    return Completed(name={name!r}, message="too bad")
with tags("latentworks"):
    retrain()
"""
    project.run("python", "-c", script)


def decisions(received: list[dict[str, str]]) -> set[tuple[str, str]]:
    """What was told of decisions: the subject, and the state with its message."""
    said = [(each["subject"], each["text"].partition(": ")[2]) for each in received]
    return {(subject, text.rpartition(" ")[0]) for subject, text in said if "too bad" in text}


def died(project: Project, run: str, received: list[dict[str, str]]) -> None:
    """Wait until a run counts as crashed, which gives its place back, and that was told."""
    until(lambda: project.server.state(run)[0] == "CRASHED")
    name = project.server.get(f"flow_runs/{run}")["name"]
    until(lambda: messages(received, name))


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
    said = project.run(*call).stdout  # nobody is to be told any more
    assert "removed: latentworks: a run failed" in said
    project.run(*call, "--tell", block)


def messages(received: list[dict[str, str]], name: str) -> list[str]:
    """What was told of a run, without its end: the fault and the address of its page."""
    told = [f"{each['subject']}: {each['text']}" for each in received if name in each["text"]]
    return [". ".join(text.split(". ")[:1]) + "." for text in told]


def events(server: Server, run: str) -> str:
    """The names of all that the server heard of a run."""
    chosen = {"any_resource": {"id": [f"prefect.flow-run.{run}"]}}
    found = server.post("events/filter", filter=chosen)["events"]
    return " ".join(event["event"] for event in found)


def watch(project: Project, expected: str) -> None:
    """Look at the images now."""
    script = """
from prefect import tags
from pipeline.watching import watch
with tags("latentworks"):
    watch()
"""
    done = project.run("python", "-c", script)
    assert f"Finished in state {expected}(" in done.stdout + done.stderr


def test_without_a_server_there_is_one_line(project: Project) -> None:
    for command in ("schedule", "automations"):
        done = project.run("python", "-m", "pipeline", command, expected=1, PREFECT_API_URL="")
        assert done.stderr.splitlines()[-1].startswith("No Prefect server is configured.")
    nobody = f"http://127.0.0.1:{closed_port()}/api"
    for command in ("schedule", "automations", "retrain"):
        done = project.run("python", "-m", "pipeline", command, expected=1, PREFECT_API_URL=nobody)
        assert done.stderr == f"The Prefect server at {nobody} does not answer. Start it first.\n"


def test_a_password_that_is_wrong_is_one_line(project: Project, tmp_path: Path) -> None:
    with prefect_server(tmp_path, PREFECT_SERVER_API_AUTH_STRING="me:secret") as api:
        for command in ("automations", "retrain"):
            call = ("python", "-m", "pipeline", command)
            done = project.run(*call, expected=1, PREFECT_API_URL=api)
            assert done.stderr.startswith(f"the Prefect server at {api} says 401. Is PREFECT_API")
            assert len(done.stderr.splitlines()) == 1
