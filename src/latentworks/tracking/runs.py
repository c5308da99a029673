"""The content of a result's run in MLflow: its params, curves, metrics and files.

The tags by which a run is found are in store.py.
"""

import hashlib
import re
import time
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from PIL import Image

from latentworks.repository import dag, timings
from latentworks.repository.result import Result, flat
from latentworks.system import disk
from latentworks.tracking import datasets, description
from latentworks.tracking.digests import OF_FILES, Digests
from latentworks.tracking.naming import OF_SAMPLES, metric_name, without_samples
from latentworks.tracking.source import code_tags

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
NOTE = "note"  # name of a digest: of the run's description
RECONSTRUCTIONS = "reconstructions"
PICTURE = re.compile(rf"{RECONSTRUCTIONS}\+step\+(\d+)\+.*\.png")  # MLflow's file names


class RunLog:
    """Writes to one run. It skips params, points, pictures and files that the run already has."""

    def __init__(self, client: MlflowClient, run_id: str, root: Path) -> None:
        self.client = client
        self.run_id = run_id
        self.root = root
        self.digests = Digests(client, run_id)
        self.steps: dict[str, set[int]] = {}  # of the curves that the run has, by prefix
        self.pictured: set[int] | None = None  # steps whose pictures the run has

    def log_params(self, result: Result) -> None:
        """Log the params of a result: of its samples only if they are made."""
        known = self.client.get_run(self.run_id).data.params
        sampled = "samples" in result.outs  # else the run may be one of other samples
        values = flat(result.params if sampled else without_samples(result.params))
        new = [Param(name, str(value)) for name, value in values.items() if name not in known]
        self.client.log_batch(self.run_id, params=new)

    def log_data(self, result: Result) -> None:
        """Log the splits of the images, and their fingerprint."""
        if "prepared" not in result.outs or DATA in self.client.get_run(self.run_id).data.tags:
            return
        splits = datasets.of(result)
        self.client.log_inputs(self.run_id, [split.as_input() for split in splits])
        self.client.set_tag(self.run_id, DATA, datasets.fingerprint(result))

    def log_curves(self, epochs: list[dict[str, float]], prefix: str = "") -> None:
        """Log one point of each curve for each epoch, under names that begin with `prefix`."""
        if prefix not in self.steps:
            name = metric_name(f"{prefix}loss", self._metrics())
            history = self.client.get_metric_history(self.run_id, name)
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
        digest = _digest(content)
        if self.digests.get(OF_FILES + name) == digest:
            return
        for file in files:
            self.client.log_artifact(self.run_id, str(file), folder or None)
        self.digests.add(OF_FILES + name, digest)

    def log_description(self, result: Result) -> None:
        """Write the description of a scored result, below the decisions about it.

        A description that a user has edited stays.
        """
        if not description.is_possible(result):
            return
        self._log_small_picture(result)
        text = description.about(result, self.run_id)
        note = self.client.get_run(self.run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
        above, rule, shown = note.rpartition(description.RULE)
        if shown != text:
            if shown and _digest(shown) != self.digests.get(NOTE):
                return
            self.client.set_tag(self.run_id, MLFLOW_RUN_NOTE, above + rule + text)
        self.digests.add(NOTE, _digest(text))

    def _log_small_picture(self, result: Result) -> None:
        """Log the picture of the description."""
        path, name = description.samples(result), f"{OF_FILES}description"
        if path is not None and self.digests.get(name) != disk.file_digest(path):
            small = description.smaller(path)
            self.client.log_image(self.run_id, small, artifact_file=description.PICTURE)
            self.digests.add(name, disk.file_digest(path))

    def _metrics(self) -> dict[str, float]:
        """Return the last value of each metric and curve that the run has, by its name there."""
        return dict(self.client.get_run(self.run_id).data.metrics)

    def _log_metrics(self, values: dict[str, float], step: int) -> None:
        known = self._metrics()
        now = int(time.time() * 1000)
        named = {metric_name(name, known): value for name, value in values.items()}
        self.client.log_batch(
            self.run_id,
            metrics=[
                Metric(name, value, now, step)
                for name, value in named.items()
                if step > 0 or known.get(name) != value
            ],
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _picture(file: Path) -> np.ndarray | None:
    """Return the pixels of a PNG file; None if it is damaged, as by a power cut."""
    try:
        with Image.open(file) as picture:
            return np.asarray(picture)
    except (OSError, SyntaxError, ValueError):  # Pillow raises these for damaged files
        return None
