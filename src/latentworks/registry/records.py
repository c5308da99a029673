"""Records of versions and decisions: a second copy, beside the artifacts of a local store.

A store without a server keeps versions, decisions and aliases in one SQLite file. A record is a
JSON file with the rows of that database that belong to one version, decision or registered model,
and with the SHA-256 of these rows. `latentworks verify` compares both copies; `latentworks restore`
puts the rows back into a database that lacks them.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL

from latentworks.registry.decisions import DECISIONS, FIXED
from latentworks.registry.signatures import COVERED, KEY, SIGNATURE
from latentworks.registry.versions import DECISION, SINCE, SOURCE, WITHDRAWN
from latentworks.system import disk
from latentworks.tracking import local_store
from latentworks.tracking.uri import SQLITE

Kind = Literal["model", "version", "decision"]
Row = dict[str, Any]  # values by column, as SQLite returns them
Rows = dict[str, list[Row]]  # rows of MLflow's tables, by name of the table

_EXPERIMENT = "experiment_id IN (SELECT experiment_id FROM runs WHERE run_uuid = :run)"
_LINKS = "destination_id = :run"
_RUN = {
    "experiments": _EXPERIMENT,
    "experiment_tags": _EXPERIMENT,
    **dict.fromkeys(("runs", "tags", "params", "latest_metrics", "metrics"), "run_uuid = :run"),
    "inputs": _LINKS,
    "input_tags": f"input_uuid IN (SELECT input_uuid FROM inputs WHERE {_LINKS})",
    "datasets": f"dataset_uuid IN (SELECT source_id FROM inputs WHERE {_LINKS})",
}
_VERSION = "name = :name AND version = :number"
_MODEL = dict.fromkeys(
    ("registered_models", "registered_model_tags", "registered_model_aliases"), "name = :name"
)
TABLES: dict[Kind, dict[str, str]] = {
    "model": _MODEL,
    "version": {
        **_RUN,
        "inputs": f"{_LINKS} OR (source_id = :run AND destination_id = :logged)",
        **dict.fromkeys(("model_versions", "model_version_tags"), _VERSION),
        **dict.fromkeys(
            ("logged_models", "logged_model_params", "logged_model_tags", "logged_model_metrics"),
            "model_id = :logged",
        ),
    },
    "decision": _RUN,
}
# The tags that nobody changes after the version or the decision was recorded.
CHECKED: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "version": ("model_version_tags", (*COVERED, KEY, SIGNATURE)),
    "decision": ("tags", FIXED),
    "model": ("registered_model_tags", ()),
}
INTERFACE = "interface"  # tag of a registered model
STANDING = (DECISION, SINCE, WITHDRAWN)  # the tags that say what became of a version


@dataclass(frozen=True)
class Record:
    """The file of one record."""

    kind: Kind
    name: str  # of the registered model
    id: str  # number of the version, or id of the decision's run; empty for a model
    path: Path

    def __str__(self) -> str:
        if self.kind == "version":
            return f"{self.name} version {self.id}"
        return f"decision {self.id[:8]} about {self.name}" if self.id else f"model {self.name}"

    def read(self) -> Rows:
        """Read the rows. Raises ValueError if the file is damaged."""
        try:
            content = disk.read_json(self.path)
            rows, digest = content["rows"], content["sha256"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("cannot be read") from None
        if _digest(rows) != digest:
            raise ValueError("content differs from its SHA-256")
        if not self._is_ours(rows):
            raise ValueError("is no record")
        return dict(rows)

    def _is_ours(self, rows: object) -> TypeGuard[Rows]:
        """True for rows of this kind's tables: anybody can compute a SHA-256."""
        checked, _ = CHECKED[self.kind]
        return isinstance(rows, dict) and all(
            table in TABLES[self.kind]
            and isinstance(found, list)
            and all(isinstance(row, dict) for row in found)
            and (table != checked or all({"key", "value"} <= row.keys() for row in found))
            for table, found in rows.items()
        )

    def tags(self) -> dict[str, str]:
        """Read the tags that must not change. Raises ValueError if the file is damaged."""
        return _checked(self.kind, self.read())


class Records:
    """The records beside a SQLite database of MLflow."""

    def __init__(self, database: Path) -> None:
        self.database = database.resolve()
        self.folder = local_store.records(self.database)

    @classmethod
    def at(cls, uri: str) -> "Records | None":
        """Return the records of the store at `uri`; None if its database is not a file."""
        path, _, _ = uri.removeprefix(SQLITE).partition("?")
        if not uri.startswith(SQLITE) or not path or ":memory:" in path or "file:" in path:
            return None
        return cls(Path(path))

    # --- files -----------------------------------------------------------------------------------

    def all(self) -> list[Record]:
        """All records; a model comes before its versions, and these before its decisions."""
        return [
            Record(kind, path.parent.name, path.stem.partition("-")[2], path)
            for kind in TABLES
            for path in sorted(self.folder.glob(f"*/{kind}*.json"))
        ]

    def keep(self, name: str, numbers: Iterable[int] = (), decisions: Iterable[str] = ()) -> None:
        """Write the records of a model, of versions by number, and of decisions by run id.

        Also writes those of its other versions and decisions that have no record, or whose record
        is older than their standing. The caller holds the lock of the model's aliases.
        """
        with self._opened() as database:
            chosen = {self._at("version", name, str(number)) for number in numbers}
            chosen |= {self._at("decision", name, run_id) for run_id in decisions}
            every = {self._at("version", name, str(number)) for number in _numbers(database, name)}
            every |= {self._at("decision", name, run_id) for run_id in _decisions(database, name)}
            lacking = {record for record in every if not record.path.exists()}
            late = {record for record in every - lacking if _is_late(database, record)}
            for record in {self._at("model", name), *(chosen & every), *lacking, *late}:
                _write(database, record)

    def write(self, record: Record) -> None:
        """Write a record of what the database has now."""
        with self._opened() as database:
            _write(database, record)

    def _at(self, kind: Kind, name: str, key: str = "") -> Record:
        return Record(
            kind, name, key, self.folder / name / f"{'-'.join(filter(None, (kind, key)))}.json"
        )

    # --- the database ----------------------------------------------------------------------------

    def lacks(self, record: Record) -> bool:
        """True if the database does not have a recorded model, version or decision.

        A version that was deleted in MLflow leaves a row, which keeps its number.
        """
        with self._opened() as database:
            return _lacks(database, record)

    def deleted(self, record: Record) -> bool:
        """True if a recorded version was deleted in MLflow."""
        query = f"SELECT current_stage FROM model_versions WHERE {_VERSION}"
        with self._opened() as database:
            row = database.execute(query, {"name": record.name, "number": record.id}).fetchone()
        return row is not None and row[0] == STAGE_DELETED_INTERNAL

    def tags(self, record: Record) -> dict[str, str]:
        """Read from the database the tags that must not change."""
        with self._opened() as database:
            return _checked(record.kind, _read(database, record))

    def put_back(self, records: Iterable[Record], *, standing: bool = False) -> None:
        """Write the rows of records into the database, all or none.

        Rows that the database has already stay as they are, except for the tags that must not
        change, and for the deletion of a decision. With `standing`, aliases and the tags that say
        what became of a version follow the records, too. Raises ValueError if a record is damaged,
        and sqlite3.DatabaseError if the database does not take its rows.
        """
        contents = [(record, record.read()) for record in records]
        with self._opened() as database:
            for record, rows in contents:
                if standing:
                    _forget_standing(database, record)
                _insert(database, record, rows, self.folder.parent.as_uri())
                if standing and record.kind == "decision":
                    _end(database, rows["runs"])
                if _lacks(database, record):
                    raise sqlite3.IntegrityError(f"{record} does not fit into {self.database}")
            database.execute(
                """DELETE FROM registered_model_aliases AS aliases WHERE NOT EXISTS (SELECT 1 FROM
                model_versions WHERE name = aliases.name AND version = aliases.version AND
                current_stage != ?)""",
                (STAGE_DELETED_INTERNAL,),
            )

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the database for one transaction."""
        with (
            closing(sqlite3.connect(self.database, timeout=local_store.WAIT)) as database,
            database,
        ):
            database.row_factory = sqlite3.Row
            yield database


def _checked(kind: Kind, rows: Rows) -> dict[str, str]:
    table, names = CHECKED[kind]
    return {row["key"]: row["value"] for row in rows.get(table, ()) if row["key"] in names}


def _numbers(database: sqlite3.Connection, name: str) -> list[int]:
    query = "SELECT version FROM model_versions WHERE name = ? AND current_stage != ?"
    return [row[0] for row in database.execute(query, (name, STAGE_DELETED_INTERNAL))]


def _decisions(database: sqlite3.Connection, name: str) -> list[str]:
    """The run ids of the decisions about a model."""
    query = """SELECT runs.run_uuid FROM runs JOIN experiments USING (experiment_id)
        JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = 'model.name' AND tags.value = ?
        WHERE experiments.name = ? AND runs.lifecycle_stage = 'active'"""
    return [row[0] for row in database.execute(query, (name, DECISIONS))]


def _lacks(database: sqlite3.Connection, record: Record) -> bool:
    query = {
        "model": "SELECT 1 FROM registered_models WHERE name = :name",
        "version": f"SELECT 1 FROM model_versions WHERE {_VERSION}",
        "decision": """SELECT 1 FROM runs JOIN experiments USING (experiment_id) WHERE run_uuid =
            :key AND runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'""",
    }[record.kind]
    values = {"name": record.name, "number": record.id, "key": record.id}
    return database.execute(query, values).fetchone() is None


def _read(database: sqlite3.Connection, record: Record) -> Rows:
    """Read the rows of a model, version or decision; none if it does not exist."""
    values = {"name": record.name, "number": record.id, "run": record.id, "logged": ""}
    if record.kind == "version":
        query = f"SELECT run_id, source FROM model_versions WHERE {_VERSION}"
        values["run"], source = database.execute(query, values).fetchone() or ("", "")
        values["logged"] = source.removeprefix(SOURCE)
    rows = {
        table: [dict(row) for row in database.execute(f"SELECT * FROM {table} WHERE {of}", values)]
        for table, of in TABLES[record.kind].items()
    }
    return {table: found for table, found in rows.items() if found}


def _write(database: sqlite3.Connection, record: Record) -> None:
    """Write a record, unless the database has no such thing.

    The record of another version with this number, from a database that was lost, is kept.
    """
    rows = _read(database, record)
    if not rows:
        return
    if record.kind == "version" and record.path.exists():
        with suppress(ValueError, KeyError):
            (before,), (now,) = record.read()["model_versions"], rows["model_versions"]
            if before["creation_time"] != now["creation_time"]:
                record.path.rename(record.path.with_suffix(f".{before['creation_time']}.former"))
    disk.write_json(record.path, {"sha256": _digest(rows), "rows": rows})


def _is_late(database: sqlite3.Connection, record: Record) -> bool:
    """True if the standing of a version or decision differs from its record; False if damaged."""
    with suppress(ValueError):
        return _standing(record, record.read()) != _standing(record, _read(database, record))
    return False


def _standing(record: Record, rows: Rows) -> list[tuple[str, str]]:
    """The tags that say what became of a version, or the status of a decision."""
    if record.kind == "decision":
        return [("status", str(run["status"])) for run in rows.get("runs", ())]
    tags = {row["key"]: row["value"] for row in rows.get("model_version_tags", ())}
    return [(key, tags[key]) for key in STANDING if key in tags]


def _forget_standing(database: sqlite3.Connection, record: Record) -> None:
    """Delete the aliases and the interface of a recorded model, or the standing of a version."""
    values = {"name": record.name, "number": record.id, "interface": INTERFACE}
    if record.kind == "model":
        database.execute("DELETE FROM registered_model_aliases WHERE name = :name", values)
        query = "DELETE FROM registered_model_tags WHERE name = :name AND key = :interface"
        database.execute(query, values)
    elif record.kind == "version":
        keys = ", ".join(f"'{key}'" for key in STANDING)
        query = f"DELETE FROM model_version_tags WHERE {_VERSION} AND key IN ({keys})"
        database.execute(query, values)


def _insert(database: sqlite3.Connection, record: Record, rows: Rows, folder: str) -> None:
    """Insert the rows of a record, whose artifacts are in `folder` now, the URI of a folder."""
    experiments = {
        row["experiment_id"]: _experiment(database, row) for row in rows.get("experiments", ())
    }
    checked, names = CHECKED[record.kind]
    locations = [str(row["artifact_location"]) for row in rows.get("experiments", ())]
    before = next(
        (each for each in locations if each.endswith(f"/{local_store.ARTIFACTS}")), folder
    )
    for table, found in rows.items():
        known = {row["name"] for row in database.execute(f"PRAGMA table_info({table})")}
        for row in found:
            values = {column: value for column, value in row.items() if column in known}
            if "experiment_id" in values:
                values["experiment_id"] = experiments.get(
                    values["experiment_id"], values["experiment_id"]
                )
            for place, column in local_store.LOCATIONS:
                if table == place and str(values.get(column, "")).startswith(f"{before}/"):
                    values[column] = folder + values[column].removeprefix(before)
                elif table == place and values.get(column) == before:
                    values[column] = folder
            fixed = table == checked and row["key"] in names
            action = "REPLACE" if fixed else "IGNORE"
            columns, places = (
                ", ".join(f'"{name}"' for name in values),
                ", ".join("?" * len(values)),
            )
            database.execute(
                f"INSERT OR {action} INTO {table} ({columns}) VALUES ({places})", [*values.values()]
            )
    if record.kind == "decision":
        query = "UPDATE runs SET lifecycle_stage = 'active', deleted_time = NULL WHERE run_uuid = ?"
        database.execute(query, (record.id,))


def _end(database: sqlite3.Connection, runs: list[Row]) -> None:
    """Give a decision that was open in the database the end that its record has."""
    for run in runs:
        if run["status"] != "RUNNING":
            query = "UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?"
            database.execute(query, (run["status"], run["end_time"], run["run_uuid"]))


def _experiment(database: sqlite3.Connection, row: Row) -> int:
    """Return the id that a recorded experiment has in the database; make room for a new one."""
    known = database.execute(
        "SELECT experiment_id FROM experiments WHERE name = ?", (row["name"],)
    ).fetchone()
    if known:
        query = "UPDATE experiments SET lifecycle_stage = 'active' WHERE experiment_id = ?"
        database.execute(query, known)
        return int(known[0])
    query = "SELECT max(experiment_id) + 1, max(experiment_id = ?) FROM experiments"
    free, taken = database.execute(query, (row["experiment_id"],)).fetchone()
    return int(free if taken else row["experiment_id"])


def _digest(rows: object) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
