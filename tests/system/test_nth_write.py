"""Faults at one system call of `register`, `promote`, `dvc repro` and a stage.

A fault is a kill, a full disk, or a failed write. An undisturbed command is traced first: its
commit path is the list of its calls that write to the store's folder, or to the checkout. A fault
happens at a place on this path, given in percent, and so at the same call in every run of the
tests. To repeat a failure, run the test with its name:
`pytest -m system tests/system/test_nth_write.py -k promote-KILL-10`; LATENTWORKS_FULL=1 has more.
"""

import os
import re
import shutil
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from checkouts import NAME, Checkout, Project
from conftest import FULL
from latentworks.registry.decisions import DECISIONS
from latentworks.registry.records import Records
from latentworks.repository import dag
from latentworks.tracking.local_store import ARTIFACTS, follow_move

pytestmark = pytest.mark.system

# All calls with which SQLite and Python change files.
CALLS = "pwrite64,write,sendfile,ftruncate,fsync,fdatasync,mkdir,rename,link,unlink"
FAULTS = {"KILL": "signal=KILL", "ENOSPC": "error=ENOSPC", "EIO": "error=EIO"}
PLACES = {  # in percent of the commit path
    "register": range(0, 100, 7) if FULL else (75,),  # scores the model, twice here, and is slow
    "promote": range(0, 100, 3) if FULL else (10, 35, 65, 90),
    "dvc": range(0, 100, 5) if FULL else (60, 80),
    "stage": range(0, 100, 5) if FULL else (30, 70),
}
STAGE = "export"  # of `dvc` and `stage`: no other stage reads its outs
OUT = "models/servable"
WRITTEN = {  # parts of paths, which may be relative
    "stage": r"models/\.?servable",
    "dvc": r"models/\.?servable|dvc\.lock|\.dvc/cache/|\.dvc/tmp/rwlock",
}


def every(*commands: str) -> list[tuple[str, str, int]]:
    """Return commands, each with the faults and places of its tests."""
    return [
        (command, fault, place)
        for command in commands
        for number, place in enumerate(PLACES[command])
        for fault in (FAULTS if FULL else [[*FAULTS][number % len(FAULTS)]])
    ]


# A warm interpreter runs it as `python -c`. Its main thread alone is traced: another thread, or the
# pre-flight, would have calls, and numbers, of its own.
TRACED = """
import os, subprocess, sys

tracer = subprocess.Popen(["strace", "-qq", *sys.argv[1].split(), "-p", str(os.getpid())])
while "TracerPid:\\t0\\n" in open("/proc/self/status").read():
    if tracer.poll() is not None:
        sys.exit("strace has ended")
sys.argv = sys.argv[2:]
"""
PROGRAMS = {
    "latentworks": "from latentworks.cli import app; app()",
    "dvc": "from dvc.cli import main; sys.exit(main())",
    "stage": "import runpy; runpy.run_module('latentworks.stages', run_name='__main__')",
}


@dataclass(frozen=True)
class Call:
    """A system call of the commit path."""

    name: str
    number: int  # counted from 1, among all calls of this name
    path: str

    @property
    def file(self) -> str:
        """The file; the folder if that has many files, which are written in any order."""
        return ARTIFACTS if f"/{ARTIFACTS}/" in self.path else self.path


@dataclass(frozen=True)
class Undisturbed:
    """A command without a fault: the checkout before it, its commit path, and its end state."""

    command: tuple[str, ...]
    project: Project
    before: Path  # copy of the checkout
    path: list[Call]
    end: dict[str, Any]

    def call(self, place: int) -> Call:
        return self.path[len(self.path) * place // 100]


def may_trace() -> bool:
    """True if strace may attach to its parent. Some containers, and users but root, may not."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    allowed = os.geteuid() == 0 or not scope.exists() or scope.read_text().strip() == "0"
    return allowed and subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"]).returncode == 0


def traced(
    project: Project, command: tuple[str, ...], options: str
) -> subprocess.CompletedProcess[str]:
    code = TRACED + PROGRAMS[command[0]]
    return project.run("python", "-c", code, options, *command, expected=None)


def disturbed(whole: "Undisturbed", fault: str, place: int, log: Path) -> str:
    """Run a command with a fault at a place of its commit path, and return what it printed."""
    project, call = whole.project, whole.call(place)
    print(f"{fault} at call {call.number} of {call.name}, on {call.path}")
    shutil.rmtree(project.path)
    shutil.copytree(whole.before, project.path, symlinks=True)
    inject = f"inject={call.name}:{FAULTS[fault]}:when={call.number}"
    done = traced(project, whole.command, f"-y -o {log} -e trace={call.name} -e {inject}")
    told = log.read_text().splitlines()
    print(done.returncode, done.stdout, done.stderr, *told[-2:], sep="\n")
    if fault == "KILL":
        assert "+++ killed by SIGKILL" in told[-1]
    else:
        (injected,) = (line for line in told if line.endswith("(INJECTED)"))
        assert injected.startswith(f"{call.name}(")
    return done.stderr


def commit_path(log: Path, paths: str) -> list[Call]:
    """Read the calls of a trace that write to files whose path matches the pattern `paths`.

    Of like calls in a row, such as the pages of a transaction, the list has the first and last.
    """
    counts: Counter[str] = Counter()
    found = []
    for line in log.read_text().splitlines():
        name = line.partition("(")[0]
        counts[name] += 1
        if name in CALLS.split(",") and (match := re.search(paths, line)):
            found.append(Call(name, counts[name], match[0]))
    groups = [[*group] for _, group in groupby(found, key=lambda call: (call.name, call.file))]
    return [call for group in groups for call in dict.fromkeys((group[0], group[-1]))]


def state(project: Project) -> dict[str, Any]:
    """Read what registrations and decisions have written, apart from times and random ids."""
    with closing(sqlite3.connect(project.path / "mlflow.db")) as database:
        execute = database.execute
        versions = execute("SELECT version, description FROM model_versions ORDER BY 1").fetchall()
        tags = execute("SELECT version, key FROM model_version_tags ORDER BY 1, 2").fetchall()
        decided = execute("SELECT version, value FROM model_version_tags WHERE key = 'decision'")
        aliases = execute("SELECT alias, version FROM registered_model_aliases ORDER BY 1")
        runs = execute(
            "SELECT run_uuid, status FROM runs JOIN experiments USING (experiment_id) "
            "WHERE experiments.name = ? AND runs.lifecycle_stage = 'active' ORDER BY start_time",
            (DECISIONS,),
        ).fetchall()
        ledger = [
            (status, dict(execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run,))))
            for run, status in runs
        ]
        chosen = ("model.version", "decision", "champion.before", "champion.after")
        found: dict[str, Any] = {
            "versions": versions,
            "tags": tags,
            "decided": dict(decided),
            "aliases": dict(aliases),
            "ledger": [(status, *(run[tag] for tag in chosen)) for status, run in ledger],
        }
    ids = {run: f"decision {number}" for number, (run, _) in enumerate(runs)}
    recorded = Records(project.path / "mlflow.db").all()
    found["records"] = sorted(ids.get(each.id, f"{each.kind} {each.id}") for each in recorded)
    return found


@pytest.fixture(scope="module")
def undisturbed(
    champion: Checkout, better: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Undisturbed]:
    """Register and promote a better model than the champion, each command traced."""
    if not may_trace():
        pytest.skip("strace must not trace processes here")
    folder = tmp_path_factory.mktemp("undisturbed")
    path = folder / "checkout"
    project = Project.copied(better, path).named(NAME)
    shutil.rmtree(path / ARTIFACTS)
    shutil.copytree(champion.path / ARTIFACTS, path / ARTIFACTS)
    shutil.copy(champion.path / "mlflow.db", path)
    follow_move(path / "mlflow.db")
    project.ours("sync")
    found = {}
    for command in (("register",), ("promote", "2")):
        before, log = folder / command[0], folder / "calls"
        shutil.copytree(path, before, symlinks=True)
        call = ("latentworks", *command)
        done = traced(project, call, f"-y -o {log} -e trace={CALLS}")
        assert done.returncode == 0, done.stderr
        calls = commit_path(log, rf"{re.escape(str(path))}/(mlflow\.db|{ARTIFACTS}/)[^>\"]*")
        found[command[0]] = Undisturbed(call, project, before, calls, state(project))
    assert found["register"].end["aliases"] == {"champion": 1, "challenger": 2}
    assert found["promote"].end["aliases"] == {"champion": 2, "previous": 1}
    return found


@pytest.mark.parametrize(("command", "fault", "place"), every("register", "promote"))
def test_the_same_command_completes_what_a_fault_has_interrupted(
    undisturbed: dict[str, Undisturbed], tmp_path: Path, command: str, fault: str, place: int
) -> None:
    whole = undisturbed[command]
    project = whole.project
    assert "Traceback" not in disturbed(whole, fault, place, tmp_path / "calls")
    if place % 2:  # at the others, the command alone must complete what `verify` could repair
        assert "all intact" in project.ours("verify")
    is_done = command == "promote" and state(project)["ledger"] == whole.end["ledger"]
    again = project.ours(*whole.command[1:], expected=6 if is_done else 0)
    assert not is_done or "it is champion already" in again
    assert state(project) == whole.end
    assert "all intact" in project.ours("verify")


@pytest.fixture(scope="module")
def stage(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undisturbed]:
    """Run a stage whose outs are nowhere, by DVC and alone, each traced."""
    if not may_trace():
        pytest.skip("strace must not trace processes here")
    folder = tmp_path_factory.mktemp("stage")
    path, before, log = folder / "checkout", folder / "before", folder / "calls"
    project = Project.copied(finished, path)
    end = result(project)
    cache = path / ".dvc/cache"
    for file in (path / OUT).rglob("*"):
        if file.is_file():
            md5 = dag.md5_of(file)
            (cache / "files/md5" / md5[:2] / md5[2:]).unlink()
    shutil.rmtree(path / OUT)
    shutil.rmtree(cache / "runs")
    lock = (path / dag.LOCK).read_text()
    (path / dag.LOCK).write_text(re.sub(rf"  {STAGE}:\n(    .*\n)+", "", lock))
    shutil.copytree(path, before, symlinks=True)
    arguments = dag.stages(path)[STAGE]["cmd"].partition("latentworks.stages ")[2].split()
    found = {}
    for command in (("stage", *arguments), ("dvc", "repro", "--single-item", STAGE)):
        done = traced(project, command, f"-y -o {log} -e trace={CALLS}")
        assert done.returncode == 0, done.stderr
        calls = commit_path(log, rf"({WRITTEN[command[0]]})[^>\"]*")
        found[command[0]] = Undisturbed(command, project, before, calls, end)
        shutil.rmtree(path / OUT)
    return found


def result(project: Project) -> dict[str, Any]:
    """Return dvc.lock, and the outs of the stage as they are in the checkout."""
    return {"lock": dag.md5_of(project.path / dag.LOCK), OUT: dag.md5_of(project.path / OUT)}


@pytest.mark.parametrize(("command", "fault", "place"), every("dvc", "stage"))
def test_repro_completes_a_stage_that_a_fault_has_interrupted(
    stage: dict[str, Undisturbed], tmp_path: Path, command: str, fault: str, place: int
) -> None:
    whole = stage[command]
    errors = disturbed(whole, fault, place, tmp_path / "calls")
    assert command == "dvc" or "Traceback" not in errors
    whole.project.ours("repro")
    assert result(whole.project) == whole.end
    assert "all intact" in whole.project.ours("verify", "--result")
