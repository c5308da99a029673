"""The retraining flow, with a real Prefect server, real DVC and the real stages on small data."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from ruamel.yaml import YAML

from checkouts import HANGS, Checkout
from conftest import FULL
from latentworks.errors import Busy
from latentworks.repository import dag, dvc, timings
from latentworks.repository.git import code
from latentworks.runner.worktree import Worktree
from latentworks.system import disk
from latentworks.tracking import pages
from prefect_pages import PrefectPages
from servers import prefect_server, until

OUTSIDE = "../images/digits.npz"  # outside of the project, where a user would keep images
EPOCHS = ("--set", "train.epochs=20")
ROUNDING = 0.1  # seconds, of two figures with one decimal
MANY = 60 if FULL else 24  # epochs: a kill takes up to three of them


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectPages]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as api:
        yield PrefectPages(api)


class Project(Checkout):
    """The checkout of a user, with images and a DVC remote beside the checkout."""

    said: str  # output of the first retraining
    changed: set[str]  # files that the first retraining changed
    left: list[psutil.Process]  # processes that were still alive after the cancellation

    def __init__(self, path: Path, server: PrefectPages) -> None:
        super().__init__(path)
        self.server = server
        self.worktree = Worktree(path, "retraining")

    def environment(self, **changes: str) -> dict[str, str]:
        ours = {"PREFECT_API_URL": self.server.api, "PYTHONPATH": str(self.path / "src")}
        return super().environment(**{**ours, **changes})

    def retrain(self, *options: str, expected: int = 0) -> str:
        """Run the command of `make retrain` and return its output."""
        done = self.run("python", "-m", "pipeline", "retrain", *options, expected=expected)
        assert "Traceback" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def state(self) -> dict[str, bytes]:
        """Return the user's files, and git's index and branches, without the files of tools."""
        tools = (".latentworks", ".dvc/cache", ".dvc/site_cache", ".git/objects", "__pycache__")
        tools += ("mlflow.db", "mlartifacts")
        files = (file for file in self.path.rglob("*") if file.is_file())
        names = {file.relative_to(self.path).as_posix(): file for file in files}
        mine = {name for name in names if not any(tool in name for tool in tools)}
        return {name: names[name].read_bytes() for name in mine}


@pytest.fixture(scope="module")
def project(
    finished: Checkout, server: PrefectPages, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project after a first retraining, with one parameter changed, pushed as a branch.

    The retraining was cancelled once, as Prefect cancels a flow run, and started again.
    """
    path = tmp_path_factory.mktemp("home") / "project"
    images = path.parent / "images"
    images.mkdir()
    shutil.copy(finished.path / "digits.npz", images)
    project = Project(finished.copy(path).path, server)
    project.edit("params.yaml", "digits.npz", OUTSIDE)
    project.edit("params.yaml", "    mse: 0.5  #", "    mse: 0.95  #")
    project.run("dvc", "remote", "add", "--quiet", "--default", "store", "../store")
    project.commit("--update")
    project.edit("params.yaml", "epochs: 4", "epochs: 5")  # an edit that is not committed
    before = project.state()
    project.left = cancel_in_epoch(project, "6/20", *EPOCHS)
    project.said = project.retrain(*EPOCHS, "--branch")
    project.changed = changes(before, project.state())
    return project


def cancel_in_epoch(project: Project, epoch: str, *options: str) -> list[psutil.Process]:
    """Send SIGTERM to a flow in an epoch; return its child processes that are still alive."""
    with subprocess.Popen(
        ["python", "-m", "pipeline", "retrain", *options],
        cwd=project.path,
        env=project.environment(LATENTWORKS_COLD="1"),  # so that the stage is a child
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if f"Epoch {epoch}" in line)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    return list(psutil.wait_procs(children, timeout=10)[1])


def changes(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def versions(project: Project) -> list[Any]:
    client = mlflow.MlflowClient(project.database)
    return sorted(client.search_model_versions(), key=lambda version: int(version.version))


# --- a retraining with stages to run -------------------------------------------------------------


def test_each_stage_is_a_task_whose_state_names_the_outcome(
    project: Project, server: PrefectPages
) -> None:
    said = project.said
    assert "Beginning flow run 'retrain HEAD, train.epochs 20' for flow 'retrain'" in said
    stages = stages_of(project.path)
    states = re.findall(r"Task run '([\w ]+)' - Finished in state (\w+)\(", said)
    assert [name for name, _ in states] == [
        "check out", *stages, "verify", "register", "push", "promote", "report", "push branch",
    ]  # fmt: skip
    outcomes = dict(states)
    before = {"fetch", "prepare", "features"}  # finished before the cancellation
    assert {outcomes[stage] for stage in before} == {"Unchanged"}
    assert {outcomes[stage] for stage in stages if stage not in before} == {"Ran"}
    assert outcomes["promote"] == "Promoted"
    assert "Task run 'train' - Epoch 20/20" in said
    assert "Task run 'evaluate' - evaluate: test.bce" in said
    assert re.search(r"^Promoted: a first model, within its limits: mse", said, flags=re.MULTILINE)
    run = server.last_run()
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Promoted")
    assert {name: task["state_name"] for name, task in server.tasks(run).items()} == outcomes


def test_the_flow_run_has_artifacts_with_stages_decision_and_pictures(
    project: Project, server: PrefectPages
) -> None:
    found = server.artifacts(server.last_run())
    assert set(found) == {
        "stages",
        "decision",
        "version",
        "mlflow-run",
        "reconstructions",
        "samples",
    }
    rows = artifacts_table(found["stages"])
    assert [row["stage"] for row in rows] == stages_of(project.path)
    for row in rows:
        assert bool(row["memory"]) == (row["state"] == "ran")
        if row["state"] == "ran":  # the time of the stage's process, and of DVC around it
            record = timings.read(row["stage"], project.worktree.path)
            assert record
            assert float(row["seconds"]) >= record["seconds"] - ROUNDING
    assert "| mse " in found["decision"]
    assert "autoencoder: champion is version 1" in found["decision"]
    run_id = versions(project)[0].run_id
    assert f"/runs/{run_id}?{pages.WORKFLOW})" in found["mlflow-run"]
    assert "/models/autoencoder/versions/1)" in found["version"]
    for name in ("reconstructions", "samples"):
        assert "](data:image/png;base64,iVBOR" in found[name]


def stages_of(folder: Path) -> list[str]:
    """Return the names of the stages in DVC's order."""
    return [*dvc.needs(folder)]


def artifacts_table(data: Any) -> list[dict[str, str]]:
    return YAML(typ="safe").load(data) if isinstance(data, str) else data


def test_retraining_adds_a_branch_and_changes_no_file_of_the_user(project: Project) -> None:
    branch = "refs/heads/retrain/autoencoder-1"
    assert project.changed == {f".git/{branch}", f".git/logs/{branch}"}
    assert "not committed, so not in this run: params.yaml" in project.said
    own = project.worktree.path
    assert (own / OUTSIDE).resolve() == project.path.parent / "images/digits.npz"
    assert not (own / "mlflow.db").exists()
    assert not (own / ".dvc/cache").exists()  # the worktree shares the cache of the checkout


def test_the_run_keeps_lock_params_and_pushed_outs(project: Project) -> None:
    (version,) = versions(project)
    client = mlflow.MlflowClient(project.database)
    kept = {file.path for file in client.list_artifacts(version.run_id)}
    assert {"dvc.lock", "params.yaml"} <= kept
    assert client.get_run(version.run_id).data.params["train.epochs"] == "20"
    branch = "retrain/autoencoder-1"
    params = YAML(typ="safe").load(project.run("git", "show", f"{branch}:params.yaml").stdout)
    assert params["train"]["epochs"] == 20
    lock = project.run("git", "show", f"{branch}:dvc.lock").stdout
    assert lock == (project.worktree.path / "dvc.lock").read_text()
    parent = project.run("git", "rev-parse", f"{branch}^").stdout.strip()
    assert parent == code(project.path).commit == version.tags["git.commit"]
    model = dag.recorded(project.worktree.path)["train"].outs["autoencoder"] / "model.keras"
    pushed = {disk.file_digest(file) for file in (project.path.parent / "store").rglob("*")
              if file.is_file()}  # fmt: skip
    assert disk.file_digest(model) in pushed


@pytest.mark.cold
def test_a_cancelled_retraining_ends_its_stage_and_the_next_resumes(project: Project) -> None:
    assert not project.left
    epochs = [int(epoch) for epoch in re.findall(r"Epoch (\d+)/20", project.said)]
    assert epochs == list(range(epochs[0], 21))
    assert 5 <= epochs[0] <= 7


# --- a retraining with nothing to run ------------------------------------------------------------


def test_cached_outs_are_restored_and_a_worse_model_is_refused(
    project: Project, server: PrefectPages
) -> None:
    """The committed params have four epochs: the user's checkout has trained them before."""
    said = project.retrain()
    run = server.last_run()
    states = {name: task["state_name"] for name, task in server.tasks(run).items()}
    assert states["prepare"] == "Unchanged"
    assert {states[stage] for stage in ("train", "encode", "sample", "export")} == {"Restored"}
    assert states["promote"] == run["state"]["name"] == "Refused"
    assert "Refused: mse is worse: " in said
    assert "Epoch" not in said
    assert [int(version.version) for version in versions(project)] == [1, 2]
    champion = mlflow.MlflowClient(project.database)
    assert champion.get_model_version_by_alias("autoencoder", "champion").version in (1, "1")


# --- mistakes, and a second retraining -----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--set", "train.epohcs=3"], "train.epohcs is not a known key. Did you mean epochs?"),
        (["--revision", "nowhere"], "has no commit 'nowhere'"),
    ],
)
def test_a_mistake_in_the_options_is_one_line_and_keeps_dvc_lock(
    project: Project, options: list[str], fault: str
) -> None:
    lock = (project.worktree.path / "dvc.lock").read_bytes()
    said = project.retrain(*options, expected=1 if "--revision" in options else 2)
    assert fault in "".join(said.splitlines()[-2:])
    assert (project.worktree.path / "dvc.lock").read_bytes() == lock


CHECK_OUT = """
import json, sys
from pathlib import Path
from prefect.logging import disable_run_logger
from latentworks.errors import LatentworksError
from latentworks.runner.worktree import RETRAINING, Worktree
from pipeline.retraining import check_out

worktree = Worktree(Path(), RETRAINING)
for recipe, overrides in json.loads(sys.argv[1]):
    try:
        with worktree.held("retrain"), disable_run_logger():
            check_out.fn(worktree, recipe, overrides, "HEAD")
    except LatentworksError as error:
        print(error.exit_code, error)
"""


def test_check_out_refuses_wrong_overrides_and_recipes(project: Project) -> None:
    """The test runs the task that checks out, without the flow around the task."""
    lock = (project.worktree.path / "dvc.lock").read_bytes()
    mistakes = {
        "train.epochs should be a valid integer": (None, {"train.epochs": "many"}),
        "seed.more cannot be set: seed is not a section": (None, {"seed.more": 1}),
        "Unknown recipe 'sede'": ("sede", {}),
    }
    said = project.run("python", "-c", CHECK_OUT, json.dumps([*mistakes.values()])).stdout
    for line, fault in zip(said.splitlines(), mistakes, strict=True):
        assert line.startswith("2 ")
        assert fault in line
    assert (project.worktree.path / "dvc.lock").read_bytes() == lock


IN_PREFECT = "from pipeline.retraining import retrain; retrain(return_state=True)"


@pytest.mark.cold
def test_a_second_retraining_at_the_same_time_is_refused(
    project: Project, server: PrefectPages
) -> None:
    before = server.last_run()["id"]
    with project.worktree.held("retrain"):
        said = project.retrain(expected=Busy.exit_code)
        assert said.startswith(f"Cannot retrain: process {os.getpid()} on ")
        assert server.last_run()["id"] == before  # refused before Prefect made a flow run
        project.run("python", "-c", IN_PREFECT)  # as a deployment starts the flow
    state = server.last_run()["state"]
    assert (state["type"], state["name"]) == ("CANCELLED", "Busy")


def test_a_product_in_a_sub_folder_of_a_monorepo_is_retrained(
    finished: Checkout, server: PrefectPages, tmp_path: Path
) -> None:
    product = Project(finished.copy(tmp_path / "home/products/digits").path, server)
    (product.path / ".git").rename(tmp_path / "home/.git")
    product.commit()
    before = product.state()
    assert "autoencoder version 1 is registered" in product.retrain()
    assert not changes(before, product.state())
    assert len(versions(product)) == 1
    assert product.worktree.path == product.worktree.repository.top / "products/digits"
    assert code(product.worktree.path) == code(product.path)


def test_a_version_is_rebuilt_to_the_same_bytes(project: Project) -> None:
    before = project.state()
    database = (project.path / "mlflow.db").read_bytes()
    said = project.run("latentworks", "rebuild", "models:/autoencoder/1").stdout
    assert "data: as recorded" in said
    assert "Epoch 20/20" in said  # the model was trained, not taken from a cache
    rows = re.findall(r"^([a-z][\w.]+) +(\S+) +(\S+) +(same|differs)$", said, flags=re.MULTILINE)
    metrics = disk.read_json(project.worktree.path / "reports/metrics.json")
    names = {f"{group}.{name}" for group, values in metrics.items() for name in values}
    assert {name for name, *_ in rows} == {"model.sha256", *names}
    assert {verdict for *_, verdict in rows} == {"same"}
    assert "autoencoder version 1 came out the same" in said
    assert not changes(before, project.state())
    assert (project.path / "mlflow.db").read_bytes() == database


def test_rebuild_of_an_unknown_version_is_refused(project: Project) -> None:
    done = project.run("latentworks", "rebuild", "models:/autoencoder/99", expected=6)
    assert done.stderr.startswith("autoencoder has no version 99. Expected one of: 1, 2")
    done = project.run("latentworks", "rebuild", "models:/autoencoder", expected=6)
    assert done.stderr.startswith("Cannot find the version: expected models:/NAME/NUMBER")


@pytest.mark.cold
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a child with its parent")
def test_killed_at_any_level_it_goes_on_with_the_next_run(project: Project, tmp_path: Path) -> None:
    """SIGKILL ends in turn the stage, `retrain`, DVC and the flow; the same retraining resumes.

    The flow also ends while it registers the result, or lets the gate decide.
    """
    values = ("seed=3", f"train.epochs={MANY}", f"train.patience={MANY}")
    options = [word for value in values for word in ("--set", value)]
    number = len(versions(project))
    reached = 0
    levels = ("latentworks.stages train", "pipeline retrain", "dvc", "pipeline flow")
    for who in levels if FULL else levels[:2]:
        reached = kill_in_training(project, who, reached, *options)
    told = kill_in_command(project, "register", tmp_path / "register", *options)
    (goes_on,) = re.findall(rf"train: goes on after epoch (\d+) of {MANY}", told)
    assert int(goes_on) >= reached - 1
    if FULL:
        kill_in_command(project, "promote", tmp_path / "promote", *options)
    warm = {"LATENTWORKS_COLD": ""}  # nothing is killed any more
    project.run("python", "-m", "pipeline", "retrain", *options, expected=None, **warm)
    found = versions(project)
    assert len(found) == number + 1
    assert "decision" in found[-1].tags
    client = mlflow.MlflowClient(project.database)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert not client.search_runs(experiments, "attributes.status = 'RUNNING'")


def kill_in_training(project: Project, who: str, after: int, *options: str) -> int:
    """Kill a process in the second epoch of a run, and return the epoch."""
    with retraining(project, subprocess.PIPE, *options) as process:
        assert process.stdout is not None
        begun = (re.search(rf"Epoch (\d+)/{MANY}", line) for line in process.stdout)
        epochs = (int(epoch[1]) for epoch in begun if epoch)
        reached = next(epoch for epoch in epochs if epoch > after + 1)
        kill(process, who)
    return reached


def kill_in_command(project: Project, command: str, log: Path, *options: str) -> str:
    """Kill the flow while it runs a `latentworks` command, and return what it wrote to `log`."""
    call = f"latentworks.cli {command}"
    with log.open("w") as out, retraining(project, out, *options) as process:
        until(lambda: process.poll() is not None or family(process, call), HANGS)
        kill(process, "pipeline flow")
    told = log.read_text()
    assert "Traceback" not in told
    return told


def retraining(project: Project, out: Any, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        ["python", "-m", "pipeline", "retrain", *options],
        cwd=project.path,
        env=project.environment(),
        stdout=out,
        stderr=subprocess.STDOUT,
        text=True,
    )


def family(process: "subprocess.Popen[str]", who: str = "") -> list[psutil.Process]:
    """A process and its child processes whose command line begins with words that have `who`."""
    found = []
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        for each in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # a command may just have ended
                if who in " ".join(each.cmdline()[:4]):
                    found.append(each)
    return found


def kill(process: "subprocess.Popen[str]", who: str) -> None:
    """Kill one process of a retraining, and see all others end."""
    all_of_them = family(process)
    (one,) = family(process, who)
    one.kill()
    if process.stdout is not None:
        assert "Traceback" not in process.stdout.read()
    assert process.wait() != 0
    _, alive = psutil.wait_procs(all_of_them, timeout=5)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
