"""The data of a run: the splits of the prepared images, as MLflow's datasets."""

import json
from dataclasses import dataclass

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from latentworks.repository.result import Result
from latentworks.system import disk
from latentworks.tracking.naming import data_name

DIGEST = 36  # characters of a digest that MLflow takes
TEST = "test"  # the split that scores are of


@dataclass(frozen=True)
class Split:
    """A split of the images of a result."""

    name: str  # of the images
    split: str  # train, val or test
    path: str
    num_images: int
    fingerprint: str

    @property
    def dataset_name(self) -> str:
        return f"{self.name} {self.split}"

    @property
    def digest(self) -> str:
        """The fingerprint, as far as MLflow takes it."""
        return self.fingerprint[:DIGEST]

    def as_input(self) -> DatasetInput:
        """Return the input of a run, in the context of this split."""
        data = Dataset(
            name=self.dataset_name,
            digest=self.digest,
            source_type="local",
            source=json.dumps({"uri": self.path}),
            profile=json.dumps({"num_images": self.num_images}),
        )
        return DatasetInput(data, [InputTag(MLFLOW_DATASET_CONTEXT, self.split)])


def of(result: Result) -> list[Split]:
    """Return the splits of the images of a result that are not empty."""
    profile = disk.read_json(result.outs["prepared"] / "profile.json")
    dataset = result.params["dataset"]
    return [
        Split(data_name(dataset), name, dataset["path"], part["images"], profile["fingerprint"])
        for name, part in profile["splits"].items()
        if part["images"]
    ]


def fingerprint(result: Result) -> str:
    """Return the fingerprint of the prepared images of a result."""
    return str(disk.read_json(result.outs["prepared"] / "profile.json")["fingerprint"])
