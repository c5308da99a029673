"""A tracking store without a server: a SQLite file, with MLflow's files in a folder beside it."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

from mlflow import MlflowClient

from latentworks.errors import LatentworksError
from latentworks.system import disk, locks
from latentworks.tracking.uri import SQLITE

EXPERIMENT = "latentworks"
ARTIFACTS = "mlartifacts"  # beside a database
LOCATIONS = (  # tables and columns in which MLflow keeps absolute places
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def make_ready(uri: str) -> None:
    """Make the store at `uri`, or find what was moved; a server does that by itself.

    Raises LatentworksError where there cannot be one.
    """
    if uri.startswith(SQLITE) and "?" not in uri and ":memory:" not in uri:
        database = Path(uri.removeprefix(SQLITE))
        _make(database)
        follow_move(database)


def _make(path: Path) -> None:
    """A kill while MLflow makes its tables, step by step, would spoil the file for good."""
    if not path.parent.is_dir():
        raise LatentworksError(f"{path.parent} is not a folder")
    if path.is_dir():
        raise LatentworksError(f"{path} is a folder. Expected a database, or a name for one")
    if path.exists():
        return
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with locks.exclusive(name, f"make {path.name}"):
        if path.exists():
            return
        with disk.replacing(path) as temporary:
            MlflowClient(f"{SQLITE}{temporary}").get_experiment_by_name(EXPERIMENT)


def follow_move(database: Path) -> None:
    """Where a store was moved or copied, its files are those beside the database.

    MLflow would go on writing at the old place, which may be another checkout.
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
