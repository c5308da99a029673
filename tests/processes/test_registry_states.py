"""Commands, kills and edits by hand, in any order: the ledger of decisions stays unbroken."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

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
from latentworks.errors import RegistryError
from latentworks.registry import backups, database
from latentworks.registry.aliases import CHALLENGER, CHAMPION, PROMOTED, REFUSED
from latentworks.registry.decisions import Decisions, Entry
from latentworks.registry.registry import Registry
from latentworks.registry.versions import SINCE, SOURCE, WITHDRAWN, Versions
from latentworks.serving import checksums
from latentworks.tracking import local_store
from servers import aliases
from versions import log_scaled

FACTORS = (1.0, 0.8, 1.3)  # of the mse of version 1: the same model, a better one, a worse one
MOST_WRITES = 12  # after so many, a decision is complete or nearly so

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
    client: MlflowClient
    run_id: str
    logged: list[tuple[str, dict[str, str]]]  # id of the model and tags, for each of FACTORS
    saved: Path  # copies of the database and of its records
    kills: list[bool] = field(default_factory=list)  # False if the command ended before

    def register(self, which: int) -> None:
        model_id, tags = self.logged[which]
        made = self.client.create_model_version(
            NAME, f"{SOURCE}{model_id}", self.run_id, tags, model_id=model_id
        )
        self.client.set_registered_model_alias(NAME, CHALLENGER, made.version)
        self.registry.store.keep(NAME, [int(made.version)])

    def reset(self) -> None:
        """Write the saved database into the present one, which MLflow keeps open."""
        path = self.project.path / "mlflow.db"
        with (
            closing(sqlite3.connect(self.saved / "mlflow.db")) as saved,
            closing(sqlite3.connect(path)) as present,
        ):
            saved.backup(present)
        shutil.rmtree(local_store.records(path))
        shutil.copytree(self.saved / "records", local_store.records(path))

    def save(self) -> None:
        path = self.project.path / "mlflow.db"
        shutil.copytree(local_store.records(path), self.saved / "records")
        shutil.copy(path, self.saved)


@pytest.fixture(scope="module")
def ladder(champion: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ladder]:
    folder = tmp_path_factory.mktemp("states")
    path = folder / "checkout"
    project = Project(champion.copy(path).path, f"sqlite:///{path / 'mlflow.db'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", project.server)  # MLflow looks for the models there
        registry = Registry(path)
        first = registry.store.get(NAME, 1)
        logged = [
            log_scaled(registry.store, first, factor, folder / "version") for factor in FACTORS
        ]
        for _, tags in logged:
            for decided in ("decision", SINCE, WITHDRAWN):
                tags.pop(decided, None)
        client = MlflowClient(project.server)
        (folder / "saved").mkdir()
        made = Ladder(project, registry, client, first.run_id, logged, folder / "saved")
        for which in range(len(FACTORS)):
            made.register(which)
        assert registry.promote(3).decision == PROMOTED  # version 1 is previous now
        made.save()
        yield made


class States(RuleBasedStateMachine):
    """The steps that processes and users take, and the facts that hold after each."""

    def __init__(self, ladder: Ladder) -> None:
        super().__init__()
        ladder.reset()
        self.ladder, self.registry, self.client = ladder, ladder.registry, ladder.client
        self.known: dict[str, str] = {}  # the status of each decision, after the last step
        self.champion: int | None = None  # after the last step, or moved by hand in this one
        self.killed: tuple[str, int | None] | None = None
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

    # --- commands --------------------------------------------------------------------------------

    @rule(which=st.integers(0, len(FACTORS) - 1))
    def register(self, which: int) -> None:
        self.ladder.register(which)

    def _run(self, command: str, number: int | None) -> None:
        with suppress(RegistryError):  # no such version, or champion already
            getattr(self.registry, command)(number)

    @rule(command=st.sampled_from(["promote", "rollback"]), place=st.integers(0, 5))
    def decide(self, command: str, place: int) -> None:
        self._run(command, self._any(place, but_champion=True))

    @rule(place=st.integers(0, 5), write=st.integers(1, MOST_WRITES))
    def kill_promote(self, place: int, write: int) -> None:
        self._kill("promote", self._any(place, but_champion=True), write)

    @rule(write=st.integers(1, MOST_WRITES))
    def kill_rollback(self, write: int) -> None:
        self._kill("rollback", None, write)

    def _kill(self, command: str, number: int | None, write: int) -> None:
        self.killed = command, number
        call = ["python", "-c", KILLED, str(write), command]
        call += [] if number is None else [str(number)]
        done = self.ladder.project.run(*call, expected=None)
        self.ladder.kills.append(done.stdout.endswith("killed"))

    @precondition(lambda self: self.killed is not None)
    @rule()
    def repeat(self) -> None:
        assert self.killed is not None
        self._run(*self.killed)
        self.killed = None
        assert not [entry for entry in self.registry.history() if entry.status == "RUNNING"]

    # --- edits by hand, in MLflow ----------------------------------------------------------------

    @rule(place=st.none() | st.integers(0, 5))
    def move_champion(self, place: int | None) -> None:
        if place is None or not self._numbers():
            self.client.delete_registered_model_alias(NAME, CHAMPION)
            self.champion = None
        else:
            self.champion = self._any(place)
            self.client.set_registered_model_alias(NAME, CHAMPION, str(self.champion))

    @precondition(lambda self: self._numbers())
    @rule(place=st.none() | st.integers(0, 5))
    def delete_version(self, place: int | None) -> None:
        number = self.champion if place is None and self.champion else self._any(place or 0)
        self.client.delete_model_version(NAME, str(number))
        if number == self.champion:
            self.champion = None

    @precondition(lambda self: self._numbers())
    @rule(what=st.sampled_from(["run", "experiment", "model"]))
    def delete_and_restore(self, what: str) -> None:
        """Commands say that the experiment or the model was deleted, and lose nothing."""
        store, root = self.registry.store, self.ladder.project.path
        assert store.records is not None
        database.verify(store.records, NAME, store.keys)  # as `latentworks verify` does
        before = self._numbers(), aliases(self.ladder.project.server, NAME), self.registry.history()
        if what == "run":
            with suppress(MlflowException):  # it is deleted already
                self.client.delete_run(self.ladder.run_id)
        elif what == "experiment":
            experiment = store.experiment.experiment_id
            self.client.delete_experiment(experiment)
            fresh = Registry(root)
            for call in (fresh.history, fresh.promote, fresh.rollback):
                with pytest.raises(RegistryError, match="was deleted in MLflow"):
                    call()
            self.client.restore_experiment(experiment)
        else:
            self.client.delete_registered_model(NAME)
            with pytest.raises(RegistryError, match="latentworks restore"):
                Registry(root)
            backups.restore_records(root, lambda line: None)
        after = self._numbers(), aliases(self.ladder.project.server, NAME), self.registry.history()
        assert after == before

    # --- facts -----------------------------------------------------------------------------------

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

    @invariant()
    def a_server_gets_the_files_of_the_champion_that_the_last_decision_made(self) -> None:
        now = aliases(self.ladder.project.server, NAME).get(CHAMPION)
        finished = [each for each in self.registry.history() if each.status == "FINISHED"]
        made = [each.version for each in finished if each.champion_after == each.version]
        followed = Decisions(self.client).champions(NAME)
        is_open = any(each.status == "RUNNING" for each in self.registry.history())
        assert followed == {*made[-1:]} or is_open
        if now in followed:
            store = Versions(self.ladder.project.server, self.ladder.saved / "server")
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
