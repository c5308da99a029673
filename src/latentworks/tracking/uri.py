"""The address of MLflow's store, and the settings of its client."""

import os
import re
from pathlib import Path

from latentworks.errors import LatentworksError
from latentworks.repository import experiments

URI = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
HERE = ("127.0.0.1", "localhost", "::1")  # names and addresses of this machine


def tracking_uri(root: Path) -> str:
    """Return MLFLOW_TRACKING_URI; if it is not set, the SQLite file of the checkout.

    In a copy that DVC has made for an experiment, it is the store of the user's checkout.
    """
    project = experiments.project(root)
    uri = os.environ.get(URI) or f"{SQLITE}{project / 'mlflow.db'}"
    return uri if project == root else absolute(uri, project)


def absolute(uri: str, folder: Path = Path()) -> str:
    """Return `uri` with an absolute path, for a process in another folder.

    A relative path is one from `folder`, by default the working directory.
    """
    path = uri.removeprefix(SQLITE)
    if path == uri or not path or ":memory:" in path:
        return uri
    return f"{SQLITE}{(folder / path).resolve()}"


def check_address(uri: str) -> None:
    """Raise LatentworksError unless `uri` is the address of a server or of a database."""
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme.partition("+")[0] not in SCHEMES:
        raise LatentworksError(
            f"{URI} is an address such as http://127.0.0.1:5000, {SQLITE}mlflow.db or "
            f"postgresql://HOST/NAME. Received: {without_password(uri)!r}."
        )
    with_host = not scheme.startswith(("http", "sqlite"))
    if with_host and uri.partition("?")[0].count("@") > 1:
        # The database's driver would look for a host with the rest of the password as its name.
        raise LatentworksError(f"Write @ in the password of {URI} as %40.")


def without_password(uri: str) -> str:
    """Return `uri`, or a text with addresses, without users and passwords.

    A password may hold any character but white space, `@` and `/` too: all from `://` to the last
    `@` of the word is cut. A path with three slashes, as of a SQLite file, has no user.
    """
    return re.sub(r"://(?!/)\S*@", "://", uri)


def reach_directly() -> None:
    """Never ask a proxy for a server on this machine, in this process and its children."""
    names = ("no_proxy", "NO_PROXY")  # libraries differ in which of them they read
    known = [host.strip() for name in names for host in os.environ.get(name, "").split(",")]
    if "*" in known:
        return
    hosts = dict.fromkeys([*filter(None, known), *HERE])
    os.environ.update(dict.fromkeys(names, ",".join(hosts)))


def configure_client() -> None:
    """Set MLflow's environment variables that the user has not set.

    With MLflow's defaults, its client would retry a dead server for four minutes.
    """
    reach_directly()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
