"""A store without a server: a SQLite file, with MLflow's artifacts in a folder beside it."""

import hashlib
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient

from latentworks.errors import LatentworksError
from latentworks.system import disk, locks
from latentworks.tracking.uri import SQLITE

EXPERIMENT = "latentworks"
ARTIFACTS = "mlartifacts"  # folder beside the database
LOCATIONS = (  # tables and columns in which MLflow keeps absolute paths
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def make_ready(uri: str) -> None:
    """Create the store at `uri`, or correct its paths after a move; do nothing for a server.

    Raises LatentworksError if the store cannot be created. Also quiets MLflow's loggers, whose
    levels its import sets: a command prints its own lines.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # also raised
    if uri.startswith(SQLITE) and "?" not in uri and ":memory:" not in uri:
        database = Path(uri.removeprefix(SQLITE))
        _make(database)
        follow_move(database)


def _make(path: Path) -> None:
    """Create a database under a temporary name: a kill in between would spoil it for good."""
    if not path.parent.is_dir():
        raise LatentworksError(f"{path.parent} is not a folder: correct MLFLOW_TRACKING_URI")
    if path.is_dir():
        raise LatentworksError(f"{path} is a folder, not a database: correct MLFLOW_TRACKING_URI")
    if path.exists():
        return
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with locks.exclusive(name, f"make {path.name}"):
        if path.exists():
            return
        with disk.replacing(path) as temporary:
            MlflowClient(f"{SQLITE}{temporary}").get_experiment_by_name(EXPERIMENT)


def damage(database: Path) -> str:
    """Return how a SQLite file is damaged, or empty text."""
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as opened:
            (first, *_) = opened.execute("PRAGMA integrity_check(1)").fetchall()
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if first == ("ok",) else str(first[0])


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
