"""A store without a server: a SQLite file, with MLflow's artifacts in a folder beside it."""

import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from mlflow import MlflowClient

from latentworks.errors import LatentworksError, RegistryError, Unavailable
from latentworks.system import disk, locks
from latentworks.tracking.uri import SQLITE, check_address

EXPERIMENT = "latentworks"
ARTIFACTS = "mlartifacts"  # folder beside the database
RECORDS = "records"  # folder of the records in it; see latentworks.registry.records
WAIT = 60.0  # seconds for a lock of the database
SIDECARS = ("-journal", "-wal", "-shm")  # files of SQLite beside a database
LOCATIONS = (  # tables and columns in which MLflow keeps absolute paths
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def make_ready(uri: str) -> None:
    """Create the store at `uri`, or correct its paths after a move; do nothing for a server.

    Raises LatentworksError if the address cannot be used, or if the store cannot be created or was
    lost. Also quiets MLflow's loggers, whose levels its import sets: a command prints its own
    lines.
    """
    check_address(uri)
    _quieten_mlflow()
    if uri.startswith(SQLITE) and "?" not in uri and ":memory:" not in uri:
        database = Path(uri.removeprefix(SQLITE))
        refuse_lost(database)
        make(database)
        follow_move(database)


def _quieten_mlflow() -> None:
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # also raised


def records(database: Path) -> Path:
    """The folder of the records beside a database: a folder for each registered model."""
    return database.resolve().parent / ARTIFACTS / RECORDS


def lost(database: Path) -> str:
    """Say what is lost of a database that had versions, as the records show; else empty text."""
    recorded = {path.parent.name for path in records(database).glob("*/version-*.json")}
    if not recorded:
        return ""
    if not database.exists():
        return "missing"
    if not database.stat().st_size:
        return "empty"
    with closing(sqlite3.connect(database, timeout=WAIT)) as opened:
        try:
            known = {name for (name,) in opened.execute("SELECT name FROM registered_models")}
        except sqlite3.DatabaseError:
            return ""  # damaged, or another program's: MLflow says so
    gone = ", ".join(sorted(recorded - known))
    return f"without the model {gone}" if gone else ""


def refuse_lost(database: Path) -> None:
    """Raise RegistryError if a database was lost: a new one would number its versions from 1."""
    if gone := lost(database):
        raise RegistryError(
            f"{database} is {gone}, and {records(database)} has records of its versions. Run "
            "`latentworks restore`. To begin anew, move the records away."
        )


def make(path: Path, fill: Callable[[Path], None] = lambda path: None) -> None:
    """Create a database, and fill it.

    It has a temporary name meanwhile: a kill in between would spoil it for good. A journal that a
    former database left behind is renamed, since SQLite would write its content into the new one.
    """
    if not path.parent.is_dir():
        raise LatentworksError(f"{path.parent} is not a folder: correct MLFLOW_TRACKING_URI")
    if path.is_dir():
        raise LatentworksError(f"{path} is a folder, not a database: correct MLFLOW_TRACKING_URI")
    if path.exists():
        return
    _quieten_mlflow()
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with locks.exclusive(name, f"make {path.name}"):
        if path.exists():
            return
        with disk.replacing(path) as temporary:
            MlflowClient(f"{SQLITE}{temporary}").get_experiment_by_name(EXPERIMENT)
            fill(temporary)
            for end in SIDECARS:
                with suppress(FileNotFoundError):
                    os.replace(f"{path}{end}", f"{path}{end}.former")


def damage(database: Path) -> str:
    """Return how a SQLite file is damaged, or empty text.

    SQLite first completes or undoes what a killed process was writing. Raises Unavailable if the
    file is locked or cannot be opened.
    """
    uri = f"{database.resolve().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=WAIT)) as opened:
            (first, *_) = opened.execute("PRAGMA integrity_check(1)").fetchall()
            return _unreadable_text(opened) if first == ("ok",) else str(first[0])
    except sqlite3.OperationalError as error:
        raise Unavailable(f"{database} cannot be read now: {error}. Try again.") from None
    except sqlite3.DatabaseError as error:
        return str(error)


def _unreadable_text(database: sqlite3.Connection) -> str:
    """Name the first table with text that is not UTF-8, which SQLite does not check; else ""."""
    database.text_factory = bytes.decode
    table = "sqlite_schema"
    try:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table'"
        for (table,) in database.execute(query).fetchall():
            for _ in database.execute(f'SELECT * FROM "{table}"'):
                pass
    except UnicodeDecodeError:
        return f"a text in the table {table} is not UTF-8"
    return ""


def follow_move(database: Path) -> None:
    """Correct the paths in a store that was moved or copied with its artifacts.

    MLflow would go on writing to the old path, which may belong to another checkout.
    """
    folder = database.resolve().parent / ARTIFACTS
    if not folder.is_dir() or not database.stat().st_size:
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        (old,) = connection.execute(query, (EXPERIMENT,)).fetchone() or ("",)
        if old == folder.as_uri() or not old.endswith(f"/{ARTIFACTS}"):
            return
        for table, column in LOCATIONS:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE substr({column}, 1, ?) = ?",
                (folder.as_uri(), len(old) + 1, len(old), old),
            )
