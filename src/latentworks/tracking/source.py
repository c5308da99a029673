"""The origin of a run: its user, its repository, and the commit of the code."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mlflow.entities import SourceType
from mlflow.tracking.context.default_context import DefaultRunContext
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_REPO_URL,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from latentworks.repository import experiments, git
from latentworks.tracking.uri import without_password

EXPERIMENT = "dvc.experiment"  # tag of a run: the name of the experiment that made it
ADDRESSES = ("http://", "https://", "ssh://")  # of a repository on another machine


def origin_tags(root: Path) -> dict[str, str]:
    """Return the tags with which a run is made: its user, its repository and DVC's experiment.

    MLflow's pages link the commit of a run to the page of the repository, if this has an address.
    """
    root = experiments.project(root)
    address = without_password(_origin(root))
    own = {**_user(), **({EXPERIMENT: name} if (name := experiments.name()) else {})}
    if address.startswith(ADDRESSES):
        source = {MLFLOW_SOURCE_NAME: address, MLFLOW_GIT_REPO_URL: address}
        return {**own, **source, MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.PROJECT)}
    folder = Path(address or root).name.removesuffix(".git")
    return {
        **own,
        MLFLOW_SOURCE_NAME: folder or root.resolve().name,
        MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.LOCAL),
    }


def code_tags(root: Path, code: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return the tags of the code that made a result, by default of the code in `root`."""
    code = code or vars(git.code(root))
    return {
        "git.commit": str(code["commit"]),
        "git.dirty": str(code["dirty"]).lower(),
        MLFLOW_GIT_COMMIT: str(code["commit"]),
    }


def _origin(root: Path) -> str:
    """Return the address or the path from which the repository was cloned, else its own path."""
    with suppress(git.GitError):
        address = git.run(root, "config", "--get", "remote.origin.url", no=git.NO).strip()
        return address or git.run(root, "rev-parse", "--show-toplevel").strip()
    return ""


def _user() -> dict[str, str]:
    """Return MLflow's own tag of the user; none in a container whose user has no name."""
    with suppress(KeyError, OSError):
        return {MLFLOW_USER: DefaultRunContext().tags()[MLFLOW_USER]}
    return {}
