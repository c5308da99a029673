"""Versions and decisions survive the loss of MLflow's database: backups, and records beside it."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from checkouts import KEYS, NAME, Checkout, Project
from latentworks.registry.decisions import DECISIONS
from latentworks.registry.records import Records
from latentworks.registry.signatures import KEY, SIGNATURE, Keys
from latentworks.system import disk
from servers import aliases, until

FINAL = {"champion": 2, "previous": 1}


@pytest.fixture(scope="module")
def decided(
    champion: Checkout, better: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A checkout with two versions in a store of its own. Copy it before changing anything."""
    path = tmp_path_factory.mktemp("decided")
    first = champion.copy(path / "first").path
    second = Project(better.copy(path / "second").path, f"sqlite:///{first / 'mlflow.db'}")
    second.named(NAME).ours("register")
    second.ours("promote")
    assert aliases(second.server, NAME) == FINAL
    return Project(first, second.server)


@pytest.fixture
def project(decided: Project, tmp_path: Path) -> Project:
    return Project.copied(decided, tmp_path / "checkout")


def now(project: Project) -> str:
    """The address of the store for this process, whose MLflow keeps a replaced database open."""
    project.server = project.server.replace("/mlflow.db", "/./mlflow.db")
    return project.server


def delete(project: Project) -> None:
    (project.path / "mlflow.db").unlink()


def cut(project: Project) -> None:
    content = (project.path / "mlflow.db").read_bytes()
    (project.path / "mlflow.db").write_bytes(content[: len(content) // 2])


def delete_all(project: Project) -> None:
    delete(project)
    shutil.rmtree(project.path / "mlartifacts")
    shutil.rmtree(project.path / ".latentworks/versions")


# --- backup and restore --------------------------------------------------------------------------


@pytest.mark.parametrize("lose", [delete_all, cut])
def test_a_restored_store_is_the_one_that_was_backed_up(
    project: Project, tmp_path: Path, lose: Callable[[Project], None]
) -> None:
    history = project.ours("history")
    file = tmp_path / "store.tar"
    assert "Backed up" in project.ours("backup", str(file))
    lose(project)
    told = project.ours("restore", str(file))
    assert "Run `latentworks verify`" in told
    assert "not trusted" not in told
    assert project.ours("history") == history
    assert aliases(now(project), NAME) == FINAL
    assert "2 versions" in project.ours("verify")
    # The restored version is signed, and passes its golden answers.
    assert "version 1 is champion again" in project.ours("rollback")


def test_a_backup_moves_to_another_checkout_where_its_key_is_not_trusted(
    project: Project, untouched: Checkout, tmp_path: Path
) -> None:
    file = tmp_path / "store.tar"
    project.ours("backup", str(file))
    path = tmp_path / "elsewhere"
    other = Project.copied(untouched, path)
    keys = str(tmp_path / "keys")
    told = other.run("latentworks", "restore", str(file), LATENTWORKS_KEYS=keys).stdout
    assert "which is not trusted here" in told
    call = next(line for line in told.splitlines() if "tar --extract" in line).split("`")
    assert (
        "not trusted here"
        in other.run("latentworks", "rollback", expected=12, LATENTWORKS_KEYS=keys).stderr
    )
    for command in (call[1], call[3]):  # as the message says
        other.run(*command.split(), LATENTWORKS_KEYS=keys)
    assert "champion again" in other.run("latentworks", "rollback", LATENTWORKS_KEYS=keys).stdout
    client = MlflowClient(other.server)
    run_id = client.get_model_version(NAME, "1").run_id
    assert run_id is not None
    location = client.get_run(run_id).info.artifact_uri
    assert str(path) in location  # and not the checkout that was backed up


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_damaged_backup_changes_nothing(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "store.tar"
    project.ours("backup", str(file))
    whole = file.read_bytes()
    delete(project)
    for content in (flipped(whole), whole[: len(whole) // 2], b"", b"no archive"):
        file.write_bytes(content)
        told = project.ours("restore", str(file), expected=6)
        assert "is no whole backup" in told
        assert "Nothing was changed." in told
        assert not (project.path / "mlflow.db").exists()
        assert not [*project.path.glob(".restore-*")]


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "mlartifacts/link"])
def test_a_backup_cannot_write_elsewhere(untouched: Checkout, tmp_path: Path, name: str) -> None:
    project = Project.copied(untouched, tmp_path / "checkout")
    file = tmp_path / "crafted.tar"
    with tarfile.open(file, "w") as archive:
        member = tarfile.TarInfo(name)
        if name.endswith("link"):
            member.type, member.linkname = tarfile.SYMTYPE, "/tmp"
        archive.addfile(member)
    assert "cannot be part of one. Nothing was changed." in project.ours(
        "restore", str(file), expected=6
    )
    assert not [*project.path.glob("mlartifacts*")]


def test_a_database_with_content_is_replaced_only_on_request(
    project: Project, tmp_path: Path
) -> None:
    file = tmp_path / "store.tar"
    project.ours("backup", str(file))
    assert "exists. Choose another name." in project.ours("backup", str(file), expected=1)
    project.ours("rollback")
    assert "To move it to .latentworks/quarantine" in project.ours("restore", str(file), expected=6)
    assert aliases(project.server, NAME) == {"champion": 1, "previous": 2}
    project.ours("restore", str(file), "--replace")
    assert aliases(now(project), NAME) == FINAL
    (former,) = (project.path / ".latentworks/quarantine").rglob("mlflow.db")
    assert aliases(f"sqlite:///{former}", NAME) == {"champion": 1, "previous": 2}


def test_a_backup_beside_a_running_promotion_is_whole(project: Project, tmp_path: Path) -> None:
    file = tmp_path / "store.tar"
    call = ["latentworks", "rollback"]
    rollback = subprocess.Popen(call, cwd=project.path, env=project.environment())
    project.ours("backup", str(file))
    assert rollback.wait() == 0
    project.ours("restore", str(file), "--replace")
    project.ours("history")  # carries out nothing
    assert "all intact" in project.ours("verify")


@pytest.mark.parametrize("num_lines", [0, 1, 2])
def test_a_killed_restore_is_completed_by_the_same_command(
    project: Project, tmp_path: Path, num_lines: int
) -> None:
    """The kill comes during the extraction, or just after a file was moved to the quarantine."""
    file = tmp_path / "store.tar"
    project.ours("backup", str(file))
    command = ("latentworks", "restore", str(file), "--replace")
    with subprocess.Popen(
        command, cwd=project.path, env=project.environment(), stdout=subprocess.PIPE, text=True
    ) as restoring:
        until(lambda: [*project.path.glob(".restore-*")] or restoring.poll() is not None)
        assert restoring.stdout is not None
        for _ in range(num_lines):
            assert restoring.stdout.readline().startswith("moved ")
        restoring.send_signal(signal.SIGKILL)
    project.run(*command)
    assert not [*project.path.glob(".restore-*")]
    assert "2 versions" in project.ours("verify")
    assert aliases(now(project), NAME) == FINAL


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("backup", "missing/store.tar"), "is not a folder"),
        (("backup", "mlartifacts/store.tar"), "lies among the files to back up"),
        (("restore", "missing.tar"), "Cannot use missing.tar: no such file or directory."),
    ],
)
def test_paths_that_cannot_be_used_are_refused(
    decided: Project, call: tuple[str, ...], told: str
) -> None:
    options = ("--replace",) if call[0] == "restore" else ()
    assert told in decided.ours(*call, *options, expected=1)


def test_a_server_backs_itself_up(decided: Project) -> None:
    elsewhere = Project(decided.path, "http://user:secret@127.0.0.1:9")
    for command in (("backup", "store.tar"), ("restore",)):
        told = elsewhere.ours(*command, expected=6)
        assert told.startswith("MLflow at http://127.0.0.1:9 keeps its database itself")


# --- records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lose", [delete, cut])
def test_a_lost_database_is_made_anew_from_the_records(
    project: Project, lose: Callable[[Project], None]
) -> None:
    history = project.ours("history")
    version = dict(MlflowClient(project.server).get_model_version(NAME, "1"))
    lose(project)
    told = project.ours("verify", expected=11)
    assert "or `latentworks restore`, which has records of 2 versions" in told
    for command, exit_code in (("register", 6), ("sync", 1)) * (lose is not cut):
        assert "Run `latentworks restore`" in project.ours(command, expected=exit_code)
    told = project.ours("restore")
    assert "autoencoder: 2 versions and 2 decisions are back" in told
    assert project.ours("history") == history
    client = MlflowClient(now(project))
    assert dict(client.get_model_version(NAME, "1")) == version
    # The records are those of the store from which this one was copied.
    location = client.get_run(version["run_id"]).info.artifact_uri
    assert str(project.path) in str(location)
    assert aliases(project.server, NAME) == FINAL
    assert "2 versions" in project.ours("verify")
    project.ours("sync")
    assert "version 1 is champion again" in project.ours("rollback")
    assert "lacks none" in project.ours("restore")


def test_records_are_put_back_into_a_database_that_numbers_its_experiments_otherwise(
    project: Project,
) -> None:
    history = project.ours("history")
    delete(project)
    client = MlflowClient(now(project))
    for name in ("other", "more", DECISIONS):
        client.create_experiment(name)
    told = project.ours("verify", expected=11)
    assert f"without the model {NAME}; it held 2 versions" in told
    assert f"is without the model {NAME}, and" in project.ours("register", expected=6)
    project.ours("restore")
    assert project.ours("history") == history
    assert aliases(project.server, NAME) == FINAL
    assert {each.name for each in client.search_experiments()} >= {"other", "more", DECISIONS}
    assert "2 versions" in project.ours("verify")


def test_an_older_copy_of_the_database_is_brought_up_to_date(
    project: Project, champion: Checkout
) -> None:
    history = project.ours("history")
    shutil.copy(champion.path / "mlflow.db", project.path / "mlflow.db")
    told = project.ours("verify", expected=11)
    assert f"{NAME} version 2 in MLflow: missing in the database" in told
    assert "1 version and 1 decision are back" in project.ours("restore")
    assert project.ours("history") == history
    assert aliases(now(project), NAME) == FINAL


def test_an_older_copy_that_lacks_only_decisions_is_brought_up_to_date(
    project: Project, tmp_path: Path
) -> None:
    """The aliases, the interface, and what became of each version, follow the decisions.

    In the older copy, the last decision is open: it must not be carried out once more.
    """
    older = shutil.copy(project.path / "mlflow.db", tmp_path)
    project.ours("rollback", "--reason", "it was wrong")
    history = project.ours("history")
    shutil.copy(older, project.path / "mlflow.db")
    with closing(sqlite3.connect(project.path / "mlflow.db")) as database, database:
        opened = database.execute(
            """UPDATE runs SET status = 'RUNNING', end_time = NULL WHERE run_uuid IN (
            SELECT run_uuid FROM tags WHERE key = 'champion.after' AND value = '2')"""
        )
        assert opened.rowcount == 1
        database.execute("UPDATE registered_model_tags SET value = 'x' WHERE key = 'interface'")
    assert "missing in the database" in project.ours("verify", expected=11)
    assert "0 versions and 1 decision are back" in project.ours("restore")
    assert project.ours("history") == history
    assert aliases(now(project), NAME) == {"champion": 1, "previous": 2}
    assert "it was rolled back: it was wrong" in project.ours("promote", "2", expected=7)
    assert "8x8x1" in MlflowClient(project.server).get_registered_model(NAME).tags["interface"]
    assert "all intact" in project.ours("verify")


def test_a_journal_of_a_lost_database_does_not_reach_the_new_one(project: Project) -> None:
    """A killed process leaves the journal, and the database is lost afterwards."""
    history = project.ours("history")
    killed = "import os, sqlite3; database = sqlite3.connect('mlflow.db', isolation_level=None);"
    killed += "database.executescript('PRAGMA cache_size = 1; BEGIN; DELETE FROM tags;');"
    killed += "database.execute('UPDATE runs SET name = hex(zeroblob(9000))'); os._exit(1)"
    subprocess.run([sys.executable, "-c", killed], cwd=project.path, check=False)
    assert (project.path / "mlflow.db-journal").stat().st_size
    delete(project)
    assert "2 versions and 2 decisions are back" in project.ours("restore")
    assert project.ours("history") == history
    assert "2 versions" in project.ours("verify")


def test_text_that_is_not_utf_8_is_damage(project: Project) -> None:
    history = project.ours("history")
    with closing(sqlite3.connect(project.path / "mlflow.db")) as database, database:
        database.execute(
            "UPDATE model_version_tags SET value = CAST(x'ff' AS TEXT) WHERE key = 'git.commit'"
        )
    told = project.ours("verify", expected=11)
    assert "a text in the table model_version_tags is not UTF-8" in told
    for command in ("promote", "history", "backup"):
        more = ("store.tar",) * (command == "backup")
        assert "Run `latentworks verify`, which names the cure." in project.ours(
            command, *more, expected=6
        )
    project.ours("restore")
    assert project.ours("history") == history
    assert "2 versions" in project.ours("verify")


def test_a_deletion_of_all_versions_is_reported_once(project: Project) -> None:
    client = MlflowClient(project.server)
    project.ours("verify")
    for number in ("1", "2"):
        client.delete_model_version(NAME, number)
    assert f"{NAME} version 1 was deleted in MLflow" in project.ours("verify")
    assert "deleted" not in project.ours("verify")


def test_a_folder_with_two_at_signs_in_its_name_has_a_store(
    untouched: Checkout, tmp_path: Path
) -> None:
    project = Project.copied(untouched, tmp_path / "a@b@c")
    assert "No decision about" in project.ours("history")


def test_the_record_of_another_version_with_the_same_number_is_kept(
    project: Project, champion: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(champion.path / "mlflow.db", project.path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", now(project))  # MLflow looks for the model there
    client = MlflowClient(project.server)
    first = client.get_model_version(NAME, "1")
    client.create_model_version(NAME, str(first.source), first.run_id, first.tags)
    records = Records(project.path / "mlflow.db")
    (before,) = (each.path.read_bytes() for each in records.all() if each.id == "2")
    records.keep(NAME, [2])
    (former,) = records.folder.rglob("*.former")
    assert former.read_bytes() == before


def test_a_decision_that_was_deleted_in_mlflow_comes_back(project: Project) -> None:
    history = project.ours("history")
    client = MlflowClient(project.server)
    experiment = client.get_experiment_by_name(DECISIONS)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    told = project.ours("verify", expected=6)
    assert f"The experiment '{DECISIONS}' was deleted in MLflow. Restore it: " in told
    client.restore_experiment(experiment.experiment_id)
    for run in client.search_runs([experiment.experiment_id]):
        client.delete_run(run.info.run_id)
    assert "missing in the database" in project.ours("verify", expected=11)
    assert "0 versions and 2 decisions are back" in project.ours("restore")
    assert project.ours("history") == history


def test_a_version_that_was_deleted_in_mlflow_stays_deleted(project: Project) -> None:
    client = MlflowClient(project.server)
    client.delete_model_version(NAME, "1")
    assert f"{NAME} version 1 was deleted in MLflow" in project.ours("verify")
    assert "lacks none" in project.ours("restore")
    assert [each.version for each in client.search_model_versions(f"name = '{NAME}'")] == [2]


def test_changed_tags_are_repaired_from_the_records(project: Project) -> None:
    history = project.ours("history")
    with closing(sqlite3.connect(project.path / "mlflow.db")) as database, database:
        database.execute("UPDATE model_version_tags SET value = '0' WHERE key = 'sha256'")
        database.execute("UPDATE tags SET value = 'promised' WHERE key = 'decision.reason'")
    assert project.ours("history") != history
    told = project.ours("verify")
    assert f"{NAME} version 2 in MLflow: tags differ from the record; repaired" in told
    assert project.ours("history") == history
    assert "all intact" in project.ours("verify")


def test_a_damaged_or_missing_record_is_written_again(project: Project) -> None:
    records = Records(project.path / "mlflow.db")
    before = {record: (record.read().keys(), record.tags()) for record in records.all()}
    assert len(before) == 5  # a model, two versions, two decisions
    first, second, *_ = (record.path for record in before if record.kind == "version")
    first.write_bytes(first.read_bytes()[:-9])
    second.unlink()
    told = project.ours("verify")
    assert f"the record of {NAME} version 1 in MLflow: cannot be read; repaired" in told
    assert {record: (record.read().keys(), record.tags()) for record in records.all()} == before


def test_a_lost_signature_comes_back_and_a_new_one_is_recorded(
    project: Project, tmp_path: Path
) -> None:
    client = MlflowClient(project.server)
    before = client.get_model_version(NAME, "1").tags
    for tag in (KEY, SIGNATURE):
        client.delete_model_version_tag(NAME, "1", tag)
    told = project.ours("verify")
    assert f"{NAME} version 1 in MLflow: tags differ from the record; repaired" in told
    assert client.get_model_version(NAME, "1").tags == before
    folder = tmp_path / "keys"
    shutil.copytree(KEYS / "trusted", folder / "trusted")
    signed = Keys(folder).sign(NAME, before)  # by another key
    for tag, value in signed.items():
        client.set_model_version_tag(NAME, "1", tag, value)
    project.run("latentworks", "verify", LATENTWORKS_KEYS=str(folder))
    (record,) = (each for each in Records(project.path / "mlflow.db").all() if each.id == "1")
    assert record.tags()[KEY] == signed[KEY]
    assert client.get_model_version(NAME, "1").tags == {**before, **signed}


def test_damaged_records_are_left_out_and_named(project: Project) -> None:
    records = Records(project.path / "mlflow.db")
    (record,) = (each for each in records.all() if str(each) == f"{NAME} version 1")
    content = disk.read_json(record.path)
    content["rows"]["model_versions"][0]["version"] = 7
    disk.write_json(record.path, content)
    delete(project)
    told = project.ours("restore")
    assert f"the record of {NAME} version 1 content differs from its SHA-256" in told
    assert "1 version and 2 decisions are back" in told
    for each in records.all():
        each.path.write_text("")
    delete(project)
    assert "are damaged. Nothing was changed" in project.ours("restore", expected=6)
