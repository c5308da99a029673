"""How MLflow is reached: where it is, and how long its client waits."""

import os
import re
from pathlib import Path

URI = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI; without it, SQLite in the checkout, whatever the working directory."""
    return os.environ.get(URI) or f"{SQLITE}{root / 'mlflow.db'}"


def absolute(uri: str) -> str:
    """`uri` for a process in another folder."""
    path = uri.removeprefix(SQLITE)
    if path == uri or not path or ":memory:" in path:
        return uri
    return f"{SQLITE}{Path(path).resolve()}"


def without_password(uri: str) -> str:
    """`uri` as it may be shown."""
    return re.sub(r"//[^/@]*@", "//", uri)


def configure_client() -> None:
    """MLflow's defaults would retry a dead server for four minutes. A user's settings win."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
