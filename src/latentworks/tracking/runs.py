"""The content of a result's run in MLflow: its params, curves, metrics and files.

The tags by which a run is found are in store.py.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from PIL import Image

from latentworks.repository import dag, git, timings
from latentworks.repository.result import Result, flat
from latentworks.system import disk

DATA = "data.fingerprint"  # tag of a run
FEATURES = "features.kind"  # tag of a run: kind of the feature network
FEATURES_METRIC = "samples.features"
SHOWN = {  # the outs whose files the run shows: by name, the folder of the run
    "autoencoder": "model",
    "latents": "latents",
    "sampler": "sampler",
    "figures": "pictures",
    "metrics": "reports",
    "atlas": "reports",
}
OF_SAMPLES = ("prior", "sample")  # stages, and sections of params.yaml, of samples alone
RECONSTRUCTIONS = "reconstructions"
PICTURE = re.compile(rf"{RECONSTRUCTIONS}\+step\+(\d+)\+.*\.png")  # MLflow's file names


class RunLog:
    """Writes to one run. It skips params, points, pictures and files that the run already has."""

    def __init__(self, client: MlflowClient, run_id: str, root: Path) -> None:
        self.client = client
        self.run_id = run_id
        self.root = root
        self.steps: dict[str, set[int]] = {}  # of the curves that the run has, by prefix
        self.pictured: set[int] | None = None  # steps whose pictures the run has

    def log_params(self, result: Result) -> None:
        """Log the params of a result: of its samples only if they are made."""
        known = self.client.get_run(self.run_id).data.params
        values = flat(result.params)
        if "samples" not in result.outs:  # the run may be one of other samples
            values = {
                name: value
                for name, value in values.items()
                if name.partition(".")[0] not in OF_SAMPLES
            }
        new = [Param(name, str(value)) for name, value in values.items() if name not in known]
        self.client.log_batch(self.run_id, params=new)

    def log_data(self, result: Result) -> None:
        """Log the name, source and fingerprint of the images."""
        if "prepared" not in result.outs or DATA in self.client.get_run(self.run_id).data.tags:
            return
        profile = disk.read_json(result.outs["prepared"] / "profile.json")
        dataset = result.params["dataset"]
        data = Dataset(
            name=dataset["kind"],
            digest=profile["fingerprint"][:36],
            source_type="local",
            source=dataset["path"],
        )
        context = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(self.run_id, [DatasetInput(data, context)])
        self.client.set_tag(self.run_id, DATA, profile["fingerprint"])

    def log_curves(self, epochs: list[dict[str, float]], prefix: str = "") -> None:
        """Log one point of each curve for each epoch, under names that begin with `prefix`."""
        if prefix not in self.steps:
            history = self.client.get_metric_history(self.run_id, f"{prefix}loss")
            self.steps[prefix] = {metric.step for metric in history}
        for epoch in epochs:
            step = int(epoch["epoch"])
            if step not in self.steps[prefix]:
                values = {prefix + name: value for name, value in epoch.items() if name != "epoch"}
                self._log_metrics(values, step)
                self.steps[prefix].add(step)

    def log_pictures(self, files: dict[int, Path]) -> None:
        """Log pictures of reconstructions by step, and delete their files."""
        if files and self.pictured is None:
            uploaded = self.client.list_artifacts(self.run_id, "images")
            names = [PICTURE.fullmatch(Path(file.path).name) for file in uploaded]
            self.pictured = {int(name[1]) for name in names if name}
        for step, file in files.items():
            assert self.pictured is not None
            if step not in self.pictured:
                picture = _picture(file)
                if picture is not None:
                    self.client.log_image(self.run_id, picture, key=RECONSTRUCTIONS, step=step)
                    self.pictured.add(step)
            file.unlink()

    def log_scores(self, result: Result) -> None:
        """Log the numbers of the files that dvc.yaml lists as metrics."""
        for name in dag.metrics(self.root):
            if name in result.outs:
                scores = flat(disk.read_json(result.outs[name]))
                if FEATURES_METRIC in scores:
                    self.client.set_tag(self.run_id, FEATURES, scores.pop(FEATURES_METRIC))
                numbers = {
                    key: value for key, value in scores.items() if not isinstance(value, str)
                }
                self._log_metrics(numbers, step=0)

    def log_timings(self, result: Result) -> None:
        """Log the timings of each stage, if they were recorded for this result."""
        for stage, written in dag.stages(self.root).items():
            record = timings.read(stage, self.root)
            if record is None or record["result"] != result.digest_for(written):
                continue
            if stage in OF_SAMPLES and "samples" not in result.outs:
                continue  # the run may be one of other samples
            figures = {f"{figure}.{stage}": record[figure] for figure in timings.FIGURES}
            self._log_metrics(figures, step=0)
            if stage == "train":
                tags = code_tags(self.root, record["code"]) | {
                    f"machine.{name}": str(value) for name, value in record["machine"].items()
                }
                self.client.log_batch(
                    self.run_id, tags=[RunTag(name, value) for name, value in tags.items()]
                )

    def log_outs(self, result: Result) -> None:
        """Log the files of the outs that a run shows."""
        for name, folder in SHOWN.items():
            if name in result.outs:
                out = result.outs[name]
                self.log_files(name, folder, sorted(out.iterdir()) if out.is_dir() else [out])

    def log_files(self, name: str, folder: str, files: list[Path]) -> None:
        """Log files under a name, unless the same content was logged before."""
        content = "".join(f"{file.name} {disk.file_digest(file)}\n" for file in files)
        digest = hashlib.sha256(content.encode()).hexdigest()
        tag = f"files.{name}"
        if self.client.get_run(self.run_id).data.tags.get(tag) == digest:
            return
        for file in files:
            self.client.log_artifact(self.run_id, str(file), folder or None)
        self.client.set_tag(self.run_id, tag, digest)

    def _log_metrics(self, values: dict[str, float], step: int) -> None:
        known = self.client.get_run(self.run_id).data.metrics
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.run_id,
            metrics=[
                Metric(name, value, now, step)
                for name, value in values.items()
                if step > 0 or known.get(name) != value
            ],
        )


def code_tags(root: Path, code: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return the tags of the code that made a result, by default of the code in `root`."""
    code = code or vars(git.code(root))
    return {
        "git.commit": str(code["commit"]),
        "git.dirty": str(code["dirty"]).lower(),
        "mlflow.source.git.commit": str(code["commit"]),
    }


def _picture(file: Path) -> np.ndarray | None:
    """Return the pixels of a PNG file; None if it is damaged, as by a power cut."""
    try:
        with Image.open(file) as picture:
            return np.asarray(picture)
    except (OSError, SyntaxError, ValueError):  # Pillow raises these for damaged files
        return None
