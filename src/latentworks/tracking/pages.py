"""MLflow's pages of an experiment: which kind opens, the columns of its table, and its address."""

import json
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Experiment

from latentworks.tracking.naming import metric_name
from latentworks.tracking.uri import without_password

# The experiment opens on the pages of trainings, not of language models.
KIND: Final = {"mlflow.experimentKind": "custom_model_development"}
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
    return f"{base}/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}"
