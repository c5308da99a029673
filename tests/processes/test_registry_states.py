"""Commands, kills, outages, edits by hand and losses, in any order.

The ledger of decisions stays unbroken.
"""

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from checkouts import NAME, Checkout, Project
from conftest import FULL
from latentworks.errors import RegistryError, Unavailable
from latentworks.integrity.report import Verified
from latentworks.registry import backups, database, version_files
from latentworks.registry.aliases import CHALLENGER, CHAMPION, PROMOTED, REFUSED
from latentworks.registry.decisions import Decisions, Entry
from latentworks.registry.registry import Registry
from latentworks.registry.versions import SINCE, SOURCE, WITHDRAWN, Versions
from latentworks.serving import checksums
from latentworks.tracking import local_store
from latentworks.tracking.uri import URI
from proxies import Outage, Proxy, proxy
from servers import aliases, closed_port, mlflow_call, serving
from versions import log_scaled

FACTORS = (1.0, 0.8, 1.3)  # of the mse of version 1: the same model, a better one, a worse one
MOST_WRITES = 12  # after so many, a decision is complete or nearly so
CONTENT = "content.sha256"  # tag of a version: the digest of its servable
AT_ONCE = {  # MLflow's client repeats a call that fails without a pause
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
}
UNWRITTEN = "Cannot register: MLflow did not take the run of this result."
COMMANDS = ("register", "promote", "rollback", "history", "verify")
# Losses that can be restored, and the error of each command meanwhile.
LOSSES = {
    "database": r"mlflow\.db is missing, and .* has records .* Run `latentworks restore`\. ",
    "model": rf"mlflow\.db is without the model {NAME}, and .* Run `latentworks restore`\. ",
    "decisions": r"The experiment 'latentworks decisions' was deleted in MLflow\. Restore it: ",
    "results": r"The experiment 'latentworks' was deleted in MLflow\. Restore it: ",
}

# Ends `latentworks` at its n-th statement that writes to the database, which is not carried out.
KILLED = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine

left = int(sys.argv[1])

@event.listens_for(Engine, "before_cursor_execute")
def count(connection, cursor, statement, *_):
    global left
    if statement.split(maxsplit=1)[0] in ("INSERT", "UPDATE", "DELETE"):
        left -= 1
        if left == 0:
            os.write(1, b"killed")
            os.kill(os.getpid(), signal.SIGKILL)

sys.argv = ["latentworks", *sys.argv[2:]]
from latentworks.cli import app

app()
"""


@dataclass(frozen=True)
class Ladder:
    """A registry with a champion and a previous one, and logged models for more versions."""

    project: Project
    registry: Registry
    remote: Registry  # the same registry, through a proxy of an MLflow server
    client: MlflowClient
    run_id: str
    logged: list[tuple[str, dict[str, str]]]  # id of the model and tags, for each of FACTORS
    content: str  # of version 1, the result in the checkout
    proxy: Proxy
    folder: Path  # for copies of the database and of its records
    kills: list[bool] = field(default_factory=list)  # False if the command ended before
    outages: list[bool] = field(default_factory=list)

    @property
    def database(self) -> Path:
        return self.project.path / "mlflow.db"

    @property
    def lost(self) -> Path:
        """The name of the database while it is deleted: MLflow keeps the file open."""
        return self.folder / "lost.db"

    def register(self, which: int) -> None:
        model_id, tags = self.logged[which]
        made = self.client.create_model_version(
            NAME, f"{SOURCE}{model_id}", self.run_id, tags, model_id=model_id
        )
        self.client.set_registered_model_alias(NAME, CHALLENGER, made.version)
        self.registry.store.keep(NAME, [int(made.version)])

    def save(self, name: str) -> None:
        """Copy the database and its records."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(local_store.records(self.database), self.folder / name / "records")
        shutil.copy(self.database, self.folder / name)

    def reset(self, name: str) -> None:
        """Write saved copies into the present database and records."""
        if self.lost.exists():
            os.replace(self.lost, self.database)
        _copy(self.folder / name / "mlflow.db", self.database)
        shutil.rmtree(local_store.records(self.database))
        shutil.copytree(self.folder / name / "records", local_store.records(self.database))

    def restore_database(self) -> None:
        """Restore the deleted database from its records, in the file that MLflow keeps open."""
        self.project.ours("restore")  # in a process, since MLflow makes a database once in each
        _copy(self.database, self.lost)
        os.replace(self.lost, self.database)

    @contextmanager
    def outage(self, write: float, is_done: bool) -> Iterator[Outage]:
        """Begin an outage of the server in a `with` block, at the end of which it is over."""
        self.proxy.outage = Outage(write, is_done)
        try:
            yield self.proxy.outage
        finally:
            self.outages.append(self.proxy.outage.began)
            self.proxy.outage = None

    def remotely(self, *call: str) -> "subprocess.CompletedProcess[str]":
        """Run a command that uses the server."""
        uri = self.proxy.url
        return self.project.run("latentworks", *call, expected=None, MLFLOW_TRACKING_URI=uri)


def _copy(source: Path, target: Path) -> None:
    """Write the content of a SQLite database into another, which stays the same file."""
    with (
        closing(sqlite3.connect(source)) as content,
        closing(sqlite3.connect(target)) as present,
    ):
        content.backup(present)


@pytest.fixture(scope="module")
def ladder(champion: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ladder]:
    folder = tmp_path_factory.mktemp("states")
    path = folder / "checkout"
    project = Project.copied(champion, path)
    port = closed_port()
    call = mlflow_call(folder, port, "checkout/mlflow.db")
    with (
        pytest.MonkeyPatch.context() as patch,
        ExitStack() as stack,
        ThreadPoolExecutor() as pool,
    ):
        starting = pool.submit(stack.enter_context, serving(call, port, "/health", folder))
        for name, value in {URI: project.server, **AT_ONCE}.items():
            patch.setenv(name, value)  # MLflow looks for the models at URI
        registry = Registry(path)
        first = registry.store.get(NAME, 1)
        logged = [
            log_scaled(registry.store, first, factor, folder / "version") for factor in FACTORS
        ]
        for _, tags in logged:
            for other in ("decision", SINCE, WITHDRAWN, CONTENT):
                tags.pop(other, None)
        client, content = MlflowClient(project.server), first.tags[CONTENT]
        server = stack.enter_context(proxy(starting.result()))
        remote = Registry(path, server.url)
        made = Ladder(
            project, registry, remote, client, first.run_id, logged, content, server, folder
        )
        for which in range(len(FACTORS)):
            made.register(which)
        assert registry.promote(3).decision == PROMOTED  # version 1 is previous now
        made.save("start")
        yield made


Step = tuple[str, dict[str, Any]]  # a rule and its arguments


def _lasting(entry: Entry) -> Entry:
    """A decision without what differs each time."""
    return replace(entry, id="", milliseconds=0, run_id="")


whole = precondition(lambda self: not self.deleted)


class States(RuleBasedStateMachine):
    """The steps that processes and users take, and the facts that hold after each."""

    def __init__(self, ladder: Ladder) -> None:
        super().__init__()
        ladder.reset("start")
        self.ladder, self.registry, self.client = ladder, ladder.registry, ladder.client
        self.root = ladder.project.path
        (self.root / version_files.REMEMBERED).unlink(missing_ok=True)
        self.known: dict[str, str] = {}  # the status of each decision, after the last step
        self.champion: int | None = None  # after the last step, or moved by hand in this one
        self.interrupted: tuple[str, int | None] | None = None
        self.deleted = ""  # one of LOSSES, until it is restored
        self.before: Any = None  # the state before that deletion
        self.is_run_deleted = False
        self._note()

    def _note(self) -> None:
        self.known = {entry.run_id: entry.status for entry in self.registry.history()}
        self.champion = aliases(self.ladder.project.server, NAME).get(CHAMPION)

    def _numbers(self) -> list[int]:
        return [version.number for version in self.registry.store.versions(NAME)]

    def _any(self, place: int, *, but_champion: bool = False) -> int:
        """A version's number, or that of no version if there is none."""
        champion = aliases(self.ladder.project.server, NAME).get(CHAMPION) if but_champion else None
        numbers = [number for number in self._numbers() if number != champion]
        return numbers[place % len(numbers)] if numbers else 99

    def _state(self) -> Any:
        """The versions, aliases and decisions, without times and random ids."""
        versions = [
            (version.number, {**version.tags, SINCE: SINCE in version.tags}, version.description)
            for version in self.registry.store.versions(NAME)
        ]
        entries = [_lasting(entry) for entry in self.registry.history()]
        return versions, aliases(self.ladder.project.server, NAME), entries

    # --- commands --------------------------------------------------------------------------------

    @whole
    @rule(which=st.integers(0, len(FACTORS) - 1))
    def register(self, which: int) -> None:
        with suppress(MlflowException):  # the files were lost with a database: no version had them
            self.client.get_logged_model(self.ladder.logged[which][0])
            self.ladder.register(which)

    def _run(self, command: str, number: int | None, *, remote: bool = False) -> Entry | str:
        """Run a command, and return its verdict. Raises Unavailable."""
        registry = self.ladder.remote if remote else self.registry
        if command == "history":
            return registry.history_table()
        try:
            return _lasting(getattr(registry, command)(number))
        except Unavailable:
            raise
        except RegistryError as error:  # no such version, or champion already
            return str(error)

    @whole
    @rule(command=st.sampled_from(["promote", "rollback"]), place=st.integers(0, 5))
    def decide(self, command: str, place: int) -> None:
        self._run(command, self._any(place, but_champion=True))

    @whole
    @rule(place=st.integers(0, 5), write=st.integers(1, MOST_WRITES))
    def kill_promote(self, place: int, write: int) -> None:
        self._kill("promote", self._any(place, but_champion=True), write)

    @whole
    @rule(write=st.integers(1, MOST_WRITES))
    def kill_rollback(self, write: int) -> None:
        self._kill("rollback", None, write)

    def _kill(self, command: str, number: int | None, write: int) -> None:
        self.interrupted = command, number
        call = ["python", "-c", KILLED, str(write), command]
        call += [] if number is None else [str(number)]
        done = self.ladder.project.run(*call, expected=None)
        self.ladder.kills.append(done.stdout.endswith("killed"))

    @whole
    @precondition(lambda self: self.interrupted is not None)
    @rule()
    def repeat(self) -> None:
        assert self.interrupted is not None
        self._run(*self.interrupted)
        self.interrupted = None
        assert not [entry for entry in self.registry.history() if entry.status == "RUNNING"]

    @whole
    @rule()
    def verify(self) -> None:
        """Nothing is damaged, and afterwards the records have all that the database has."""
        self._keep()
        if FULL:  # the files, too, which takes a few seconds
            found = version_files.verify(self.root)
            assert not found.faults
            assert found.num_versions == len(self._numbers())

    def _keep(self) -> None:
        """Verify the database alone, which is fast."""
        store = self.registry.store
        assert store.records is not None
        assert not database.verify(store.records, NAME, store.keys).faults

    # --- outages ---------------------------------------------------------------------------------

    @whole
    @rule(
        command=st.sampled_from(["promote", "rollback", "history"]),
        place=st.none() | st.integers(0, 5),
        write=st.integers(0, MOST_WRITES),
        is_done=st.booleans(),
        is_repeated=st.booleans(),
        in_a_process=st.booleans() if FULL else st.just(False),
    )
    def lose_server(
        self,
        command: str,
        place: int | None,
        write: int,
        *,
        is_done: bool,
        is_repeated: bool,
        in_a_process: bool,
    ) -> None:
        """A command fails in one line; its repetition ends as if there had been no outage."""
        is_named = place is not None and command != "history"
        number = self._any(place or 0, but_champion=True) if is_named else None
        verdict, state = self._undisturbed(command, number)
        with self.ladder.outage(write, is_done) as outage:
            said = self._during_outage(command, number, in_a_process=in_a_process)
        self.check()
        if not outage.began:  # the command has fewer writes
            assert said == ""
            assert self._state() == state
            return
        self._assert_has_cure(said)
        if not is_repeated:
            self.interrupted = command, number
        elif self._state() != state or isinstance(verdict, str):  # else it was as good as done
            assert self._run(command, number) == verdict
            assert self._state() == state

    def _undisturbed(self, command: str, number: int | None) -> tuple[Entry | str, Any]:
        """Return a command's verdict and the state after it; then undo the command."""
        self.ladder.save("now")
        found = self._run(command, number), self._state()
        self.ladder.reset("now")
        return found

    def _during_outage(self, command: str, number: int | None, *, in_a_process: bool) -> str:
        """Run a command that uses the server. Return the line with which it failed, if it did."""
        if in_a_process:
            done = self.ladder.remotely(command, *([] if number is None else [str(number)]))
            return self._last_line(done)
        try:
            self._run(command, number, remote=True)
        except Unavailable as error:
            return str(error)
        return ""

    @staticmethod
    def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
        """The line with which a command failed for want of the server; else empty text."""
        assert "Traceback" not in done.stderr
        return done.stderr.splitlines()[-1] if done.returncode == 69 else ""

    def _assert_has_cure(self, said: str) -> None:
        """The message is one line, which names the server and ends with what to do."""
        assert said.startswith((f"MLflow at {self.ladder.proxy.url} failed: ", UNWRITTEN))
        assert re.search(r" (Run `latentworks \w+`|Try) again( when MLflow answers)?\.$", said)
        assert len(said.splitlines()) == 1

    @whole
    @precondition(lambda self: FULL)  # a few seconds, and longer for a new result
    @rule(write=st.integers(0, MOST_WRITES), is_done=st.booleans(), is_new=st.booleans())
    def lose_server_at_register(self, write: int, is_done: bool, is_new: bool) -> None:
        """The repetition registers the result of the checkout once, and changes nothing else."""
        ours = {CONTENT: self.ladder.content}
        for version in self.registry.store.versions(NAME, ours) if is_new else []:
            self._delete_version(version.number)
        before, named, entries = self._state()
        with self.ladder.outage(write, is_done) as outage:
            said = self._last_line(self.ladder.remotely("register"))
        self.check()
        if outage.began:
            self._assert_has_cure(said)
        self.ladder.project.ours("register")
        (made,) = self.registry.store.versions(NAME, ours)
        after, now, same = self._state()
        others = [[each for each in some if each[0] != made.number] for some in (before, after)]
        assert others[0] == others[1]
        assert now == (named if "decision" in made.tags else {**named, CHALLENGER: made.number})
        assert same == entries

    # --- edits by hand, in MLflow ----------------------------------------------------------------

    @whole
    @rule(place=st.none() | st.integers(0, 5))
    def move_champion(self, place: int | None) -> None:
        if place is None or not self._numbers():
            self.client.delete_registered_model_alias(NAME, CHAMPION)
            self.champion = None
        else:
            self.champion = self._any(place)
            self.client.set_registered_model_alias(NAME, CHAMPION, str(self.champion))

    @whole
    @precondition(lambda self: self._numbers())
    @rule(place=st.none() | st.integers(0, 5))
    def delete_version(self, place: int | None) -> None:
        self._delete_version(
            self.champion if place is None and self.champion else self._any(place or 0)
        )

    def _delete_version(self, number: int) -> None:
        self.client.delete_model_version(NAME, str(number))
        if number == self.champion:
            self.champion = None

    @whole
    @rule()
    def delete_or_restore_run(self) -> None:
        """Commands need no run of a result."""
        if self.is_run_deleted:
            self.client.restore_run(self.ladder.run_id)
        else:
            self.client.delete_run(self.ladder.run_id)
        self.is_run_deleted = not self.is_run_deleted

    # --- losses, and what commands do until the restoration --------------------------------------

    @whole
    @precondition(lambda self: self._numbers())
    @rule(what=st.sampled_from([*LOSSES]))
    def delete(self, what: str) -> None:
        self._keep()
        self.before, self.deleted = self._state(), what
        if what == "database":
            os.replace(self.ladder.database, self.ladder.lost)
        elif what == "model":
            self.client.delete_registered_model(NAME)
        else:
            self.client.delete_experiment(self._experiment())

    def _experiment(self) -> str:
        store = self.registry.store
        decisions = str(store.experiment.experiment_id)
        return decisions if self.deleted == "decisions" else store.store.experiment_id

    @precondition(lambda self: self.deleted)
    @rule(
        command=st.sampled_from(COMMANDS),
        place=st.none() | st.integers(0, 5),
    )
    def refuse(self, command: str, place: int | None) -> None:
        """Each command says what was deleted, and changes nothing."""
        before, said = self._content(), LOSSES[self.deleted]
        numbers = [number for number, *_ in self.before[0]]
        arguments = [None if place is None else numbers[place % len(numbers)]]
        if command == "register":
            assert re.search(said, self.ladder.project.ours(command, expected=6))
        elif command == "verify" and self.deleted in ("database", "model"):
            self._assert_lost(version_files.verify(self.root), len(numbers))
        elif command == "verify":
            with pytest.raises(RegistryError, match=said):
                version_files.verify(self.root)
        else:
            arguments = [] if command == "history" else arguments
            with pytest.raises(RegistryError, match=said):
                getattr(Registry(self.root), command)(*arguments)
            if arguments and self.deleted in ("model", "decisions"):
                with pytest.raises(RegistryError):  # the command began before the deletion
                    getattr(self.registry, command)(*arguments)
        assert self._content() == before

    def _assert_lost(self, found: Verified, num_versions: int) -> None:
        (fault,) = found.lost
        gone = "missing" if self.deleted == "database" else f"without the model {NAME}"
        assert fault.wrong == f"{gone}; it held {num_versions} version{'s' * (num_versions > 1)}"
        assert "or `latentworks restore`, which has records of" in fault.cure

    def _content(self) -> Any:
        """All that the database and its records hold; no rows without a database."""
        path, rows = self.ladder.database, []
        if path.exists():
            with closing(sqlite3.connect(path)) as opened:
                rows = [*opened.iterdump()]
        records = local_store.records(path).rglob("*.json")
        return rows, {record: record.read_bytes() for record in records}

    @precondition(lambda self: self.deleted)
    @rule(by_hand=st.booleans())
    def restore(self, by_hand: bool) -> None:
        """The restoration brings back all that was deleted."""
        if self.deleted == "database":
            self.ladder.restore_database()
        elif self.deleted == "model" or (self.deleted == "decisions" and not by_hand):
            backups.restore_records(self.root, lambda line: None)
        else:
            self.client.restore_experiment(self._experiment())
        self.deleted = ""
        assert self._state() == self.before
        self._keep()

    # --- facts -----------------------------------------------------------------------------------

    def check(self) -> None:
        self.every_decision_begins_with_the_champion_of_the_one_before()
        self.a_server_gets_the_files_of_the_champion_that_the_last_decision_made()

    @whole
    @invariant()
    def every_decision_begins_with_the_champion_of_the_one_before(self) -> None:
        now = aliases(self.ladder.project.server, NAME).get(CHAMPION)
        champion, entries = self.champion, self.registry.history()
        assert self.known.keys() <= {entry.run_id for entry in entries}
        for number, entry in enumerate(entries):
            before = self.known.get(entry.run_id, "")
            if before == entry.status:
                continue
            # An interrupted decision may have moved the alias already.
            assert before != "FINISHED"
            allowed = (entry.champion_before, entry.champion_after)
            if entry.status == "FINISHED" or not before:
                assert champion in (allowed if before else allowed[:1])
            if entry.status == "FINISHED":
                champion = entry.champion_after
                self._assert_no_refused_version_won(entry, entries[:number])
        is_open = [entry for entry in entries if entry.status == "RUNNING"]
        assert now in (champion, *(entry.champion_after for entry in is_open))
        assert now is None or now in self._numbers()
        assert len(is_open) <= 1
        told = self.registry.history_table()
        assert now is None or "No decision about" not in told
        self._note()

    @whole
    @invariant()
    def a_server_gets_the_files_of_the_champion_that_the_last_decision_made(self) -> None:
        now = aliases(self.ladder.project.server, NAME).get(CHAMPION)
        finished = [each for each in self.registry.history() if each.status == "FINISHED"]
        made = [each.version for each in finished if each.champion_after == each.version]
        followed = Decisions(self.client).champions(NAME)
        is_open = any(each.status == "RUNNING" for each in self.registry.history())
        assert followed == {*made[-1:]} or is_open
        if now in followed:
            store = Versions(self.ladder.project.server, self.ladder.folder / "server")
            version = store.get(NAME, now)
            checksums.verify(store.fetch(version), version.sha256, str(version))

    def _assert_no_refused_version_won(self, entry: Entry, earlier: list[Entry]) -> None:
        """A version that was refused against a champion does not win when no champion is left."""
        if entry.decision != PROMOTED or entry.champion_before is not None:
            return
        about = [each for each in reversed(earlier) if each.version == entry.version]
        for each in about:
            if each.decision != REFUSED:
                return
            assert not (each.scored and each.champion_before is not None)


def outage(command: str, write: int, place: int | None = None) -> Step:
    """An outage that begins at the n-th write of a command, which is repeated afterwards."""
    arguments = {"command": command, "place": place, "write": write, "is_done": bool(write % 2)}
    in_a_process = command == "history"
    return "lose_server", {**arguments, "is_repeated": True, "in_a_process": in_a_process}


def loss(what: str) -> list[Step]:
    """A deletion, each command, and the restoration."""
    # `register` is slow, and tells the loss of a model or of the results as that of a database.
    tried = COMMANDS if FULL or what in ("database", "decisions") else COMMANDS[1:]
    commands: list[Step] = [("refuse", {"command": each, "place": 1}) for each in tried]
    return [("delete", {"what": what}), *commands, ("restore", {"by_hand": False})]


# 1: the decision is recorded, without an answer; 7: the alias of the champion is about to move.
WRITES = range(9) if FULL else (0, 1, 4, 7)
OUTAGES = [
    # Each outage interrupts a change of the champion, from version 4 to version 2.
    *(
        step
        for command, writes in {"promote": WRITES, "rollback": WRITES[1:]}.items()
        for write in writes
        for step in (("move_champion", {"place": 3}), outage(command, write, place=1))
    ),
    outage("history", write=0),
    # This takes long. On a push, test_unreliable_server.py has failures during a registration.
    *[("lose_server_at_register", {"write": 4, "is_done": True, "is_new": True})] * FULL,
]
LOST = [step for what in LOSSES for step in loss(what)]


@pytest.mark.parametrize("steps", [OUTAGES, LOST], ids=["outages", "losses"])
def test_each_outage_and_each_loss_leaves_the_ledger_unbroken(
    ladder: Ladder, steps: list[Step]
) -> None:
    ladder.outages.clear()
    states = States(ladder)
    for step, arguments in steps:
        print(step, arguments)
        getattr(states, step)(**arguments)
        if not states.deleted:
            states.check()
    assert all(ladder.outages)  # else a command wrote less


def test_the_ledger_is_unbroken_in_any_order_of_steps(ladder: Ladder) -> None:
    run_state_machine_as_test(
        lambda: States(ladder),
        settings=settings(
            derandomize=True,
            deadline=None,
            database=None,
            max_examples=200 if FULL else 4,
            stateful_step_count=20 if FULL else 10,
            suppress_health_check=[*HealthCheck],
            phases=[*Phase] if FULL else [Phase.generate],  # to shrink an example takes long
        ),
    )
    assert any(ladder.kills)  # else no command wrote as much
