"""MLflow's pages of an experiment: which kind opens, the columns of its table, and its address."""

import json
import socket
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Experiment

from latentworks.errors import Unavailable
from latentworks.tracking.naming import metric_name
from latentworks.tracking.uri import without_password

# From MLflow's list of experiments, and with this query, pages of trainings open, not those of
# language models.
WORKFLOW = "workflowType=machine_learning"
KIND: Final = {"mlflow.experimentKind": "custom_model_development"}
PORTS = range(5000, 5100)  # of a server on this machine: the first one that is free
VIEW = "scores"  # name of the view, in the tag and in the address
COLUMNS = (
    *("test.mse", "samples.frechet", "samples.precision", "samples.recall"),
    "samples.memorisation",
)
# MLflow's pages keep a shared view in a tag of the experiment, and name it in the address.
TABLE: Final = {
    f"mlflow.sharedViewState.{VIEW}": json.dumps(
        {"selectedColumns": [f"metrics.`{metric_name(name)}`" for name in COLUMNS]}
    )
}


def complete(client: MlflowClient, experiment: Experiment) -> None:
    """Give an experiment of runs the kind and the view that it lacks, as one from before does."""
    for tag, value in {**KIND, **TABLE}.items():
        if tag not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, tag, value)


def address(server: str, experiment_id: str) -> str:
    """Return the address of the table of runs at a server, with the columns of VIEW."""
    base = without_password(server).rstrip("/")
    return f"{base}/#/experiments/{experiment_id}/runs?{WORKFLOW}&viewStateShareKey={VIEW}"


def free_port(host: str) -> int:
    """Return the first of PORTS that is free. Raises Unavailable if all are taken."""
    for port in PORTS:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server has just ended
            try:
                tried.bind((host, port))
            except OSError:
                continue
            return port
    raise Unavailable(
        f"All ports from {PORTS[0]} to {PORTS[-1]} are taken. End one of the servers."
    )
