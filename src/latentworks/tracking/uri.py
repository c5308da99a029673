"""The address of MLflow's store, and the settings of its client."""

import os
import re
from pathlib import Path

URI = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"


def tracking_uri(root: Path) -> str:
    """Return MLFLOW_TRACKING_URI; if it is not set, the SQLite file of the checkout."""
    return os.environ.get(URI) or f"{SQLITE}{root / 'mlflow.db'}"


def absolute(uri: str) -> str:
    """Return `uri` with an absolute path, for a process in another folder."""
    path = uri.removeprefix(SQLITE)
    if path == uri or not path or ":memory:" in path:
        return uri
    return f"{SQLITE}{Path(path).resolve()}"


def without_password(uri: str) -> str:
    """Return `uri`, or a text with addresses, without users and passwords.

    A password may hold any character but white space, `@` and `/` too: all from `://` to the last
    `@` of the word is cut. A path with three slashes, as of a SQLite file, has no user.
    """
    return re.sub(r"://(?!/)\S*@", "://", uri)


def configure_client() -> None:
    """Set MLflow's environment variables that the user has not set.

    With MLflow's defaults, its client would retry a dead server for four minutes.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
