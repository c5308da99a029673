"""The run of a result in MLflow: its tags, params, curves, metrics and files."""

import hashlib
import logging
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from PIL import Image

from latentworks import params
from latentworks.artifacts.curves import read_curves
from latentworks.repository import dag, git, timings
from latentworks.repository.result import Result, flat
from latentworks.system import disk, locks
from latentworks.tracking import local_store
from latentworks.tracking.live import Live
from latentworks.tracking.local_store import ARTIFACTS, EXPERIMENT
from latentworks.tracking.once import create_once
from latentworks.tracking.uri import SQLITE, without_password

PAGES = {"mlflow.experimentKind": "custom_model_development"}  # opens MLflow's training pages
TRAINING = "training"  # tag of a run: fingerprint of its training
MODEL = "model.sha256"  # tag of a run: digest of its model, once trained
SAMPLER = "sampler.sha256"
SAMPLES = "samples.sha256"
DATA = "data.fingerprint"
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
KEY = "run.key"  # of one run; a training that is interrupted and continued keeps it
RECONSTRUCTIONS = "reconstructions"
PICTURE = re.compile(rf"{RECONSTRUCTIONS}\+step\+(\d+)\+.*\.png")  # MLflow's file names
SYSTEM_METRICS_INTERVAL = "5"  # seconds, unless MLflow's own setting says otherwise


class Store:
    """MLflow's tracking store, local or on a server, with the experiment that holds the runs."""

    def __init__(self, uri: str, root: Path) -> None:
        for name in ("mlflow", "alembic"):  # a stage prints one line; these loggers would add more
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises as well
        self.uri = uri
        self.root = root
        local_store.make_ready(uri)
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment_id = str(self.experiment(EXPERIMENT, PAGES).experiment_id)
        self.live = Live(root, without_password(uri))
        self.training_run: str | None = None
        self.logged: set[int] | None = None  # steps whose pictures the training run has
        self.curves: dict[str, set[int]] = {}  # by run: steps that its curves have
        self.monitor: SystemMetricsMonitor | None = None

    def experiment(self, name: str, tags: dict[str, str] | None = None) -> Experiment:
        """Return the experiment `name`; create it if it does not exist."""
        # Artifacts lie beside the database, for every process; a server chooses its own location.
        local = None
        if self.uri.startswith(SQLITE):
            database = Path(self.uri.removeprefix(SQLITE).partition("?")[0])
            local = (database.resolve().parent / ARTIFACTS).as_uri()

        def search() -> list[Experiment]:
            known = self.client.get_experiment_by_name(name)
            return [known] if known else []

        return create_once(
            search, lambda: self.client.create_experiment(name, artifact_location=local, tags=tags)
        )

    # --- a training in progress ------------------------------------------------------------------

    def start_training(self, fingerprint: str, result: Result) -> None:
        """Open a run, or reopen it if the training with this fingerprint was interrupted."""
        self.close_left()
        key = self.live.key
        assert key is not None  # `Live.begin` was called before
        runs = self._search({KEY: key})
        if runs:
            run_id = runs[-1].info.run_id
        else:
            run_id = self._create(result, key, {TRAINING: fingerprint, **_code_tags(self.root)})
        self.training_run = run_id
        self._log_params(run_id, result)
        self._log_data(run_id, result)
        self.client.update_run(run_id, status="RUNNING")
        self.monitor = SystemMetricsMonitor(
            run_id,
            float(
                os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", SYSTEM_METRICS_INTERVAL)
            ),
            resume_logging=bool(runs),
            tracking_uri=self.uri,
        )
        self.monitor.start()

    def close_left(self) -> None:
        """Close the runs of abandoned trainings of this checkout."""
        for key in self.live.left:
            self._stop(key)

    def _stop(self, key: str, status: str = "KILLED") -> None:
        for run in self._search({KEY: key}):
            if run.info.status == "RUNNING":
                self.client.set_terminated(run.info.run_id, status)

    def log_epoch(self, epoch: dict[str, float]) -> None:
        """Log one point of each curve, and the pictures kept so far."""
        if self.training_run is None:
            return  # the store was unreachable at the start; finish_training writes everything
        self._log_curves(self.training_run, [epoch])
        self._log_pictures(self.training_run)

    def _log_pictures(self, run_id: str) -> None:
        """Log the kept pictures of reconstructions, uint8 [h, w, C], each once, and delete them."""
        pictures = self.live.pictures()
        if pictures and self.logged is None:
            uploaded = self.client.list_artifacts(run_id, "images")
            names = [PICTURE.fullmatch(Path(file.path).name) for file in uploaded]
            self.logged = {int(name[1]) for name in names if name}
        for step, file in pictures.items():
            assert self.logged is not None
            if step not in self.logged:
                picture = _picture(file)
                if picture is not None:
                    self.client.log_image(run_id, picture, key=RECONSTRUCTIONS, step=step)
                    self.logged.add(step)
            file.unlink()

    def finish_training(self, result: Result) -> None:
        """Give the run to the model that the training has written, and complete it."""
        self._stop_monitor()
        self.training_run = None
        self.write(result)

    def _adopt(self, digest: str) -> None:
        """Give the run of a training to its model.

        If another run has an equal model, that run stays and this one is deleted.
        """
        key = self.live.key
        if key is None or self.live.model != digest:
            return
        runs = self._search({KEY: key})
        others = [run for run in self._search({MODEL: digest}) if run.data.tags.get(KEY) != key]
        for run in runs if others else runs[:-1]:
            self.client.delete_run(run.info.run_id)
        if runs and not others:
            self.client.set_tag(runs[-1].info.run_id, MODEL, digest)
            self.client.set_terminated(runs[-1].info.run_id)

    def stop_training(self, status: str) -> None:
        """Close the run of an interrupted training; `start_training` reopens it."""
        self._stop_monitor()
        if self.training_run is not None:
            self.client.set_terminated(self.training_run, status)

    def _stop_monitor(self) -> None:
        monitor, self.monitor = self.monitor, None
        if monitor is not None:
            monitor.finish()

    # --- a result --------------------------------------------------------------------------------

    def write(self, result: Result) -> None:
        """Find or create the run of this result, and write what it lacks."""
        digest = result.model_digest()
        self._adopt(digest)
        run_id = self.find(result)
        if run_id is None:
            run_id = self._create(result, uuid.uuid4().hex, {MODEL: digest})
        if self.client.get_run(run_id).info.status == "RUNNING":  # until now, or of a kill
            self.client.set_terminated(run_id)
        self._log_data(run_id, result)
        if "samples" in result.outs:
            self.client.set_tag(run_id, SAMPLER, result.sampler_digest())
            self.client.set_tag(run_id, SAMPLES, result.samples_digest())
        self._log_params(run_id, result)
        self._log_curves(run_id, read_curves(result.outs["autoencoder"] / "curves.csv"))
        self._log_scores(run_id, result)
        for name, folder in SHOWN.items():
            if name in result.outs:
                out = result.outs[name]
                files = sorted(out.iterdir()) if out.is_dir() else [out]
                self._log_files(run_id, name, folder, files)
        self._log_records(run_id, result)
        if self.live.model == digest:
            self._log_pictures(run_id)
            self.close_left()
            self.live.end()

    def write_all(self, result: Result) -> None:
        """Write a complete result, with dvc.lock and params.yaml."""
        self.write(result)
        self._close_interrupted()
        self._write_settings(result)

    def _close_interrupted(self) -> None:
        """Close the run of a training that was killed and not continued."""
        key = self.live.key
        if key is not None and locks.holder(locks.of(self.root, "train")) is None:
            self.close_left()
            self.live.forget_left()
            self._stop(key)

    def _write_settings(self, result: Result) -> None:
        """Upload dvc.lock, which is complete after the last stage, and params.yaml if unedited."""
        run_id = self.find(result)
        assert run_id is not None
        files = [self.root / dag.LOCK]
        if result.params.items() <= params.read(self.root / params.PARAMS).items():
            files.append(self.root / params.PARAMS)
        self._log_files(run_id, "settings", "", [file for file in files if file.is_file()])

    def find(self, result: Result) -> str | None:
        """Return the run with this model and these samples, else one that has no samples yet."""
        runs = self._search({MODEL: result.model_digest()})
        samples = result.samples_digest()
        if samples is not None:
            same = [run for run in runs if run.data.tags.get(SAMPLES) == samples]
            runs = same or [run for run in runs if SAMPLES not in run.data.tags]
        return runs[0].info.run_id if runs else None

    def _search(self, tags: dict[str, str]) -> list[Run]:
        """Return the runs with these tags, the newest first."""
        terms = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        return list(self.client.search_runs([self.experiment_id], " and ".join(terms)))

    def _create(self, result: Result, key: str, tags: dict[str, str]) -> str:
        """Create the run with this key, and return its id."""
        kind = flat(result.params)
        name = "-".join(str(kind[key]) for key in ("model.kind", "dataset.kind") if key in kind)
        if "model.latent_dim" in kind:
            name += f"-{kind['model.latent_dim']}d"
        tags = {"mlflow.source.name": "dvc repro", "mlflow.source.type": "LOCAL", **tags, KEY: key}
        run = create_once(
            lambda: self._search({KEY: key})[::-1],
            lambda: self.client.create_run(self.experiment_id, tags=tags, run_name=name),
            lambda double: self.client.delete_run(double.info.run_id),
        )
        return str(run.info.run_id)

    def _log_params(self, run_id: str, result: Result) -> None:
        known = self.client.get_run(run_id).data.params
        values = flat(result.params)
        if "samples" not in result.outs:  # the run may be one of other samples
            values = {name: value for name, value in values.items() if name[:7] != "sample."}
        new = [Param(name, str(value)) for name, value in values.items() if name not in known]
        self.client.log_batch(run_id, params=new)

    def _log_scores(self, run_id: str, result: Result) -> None:
        """Log the numbers of the files that dvc.yaml lists as metrics."""
        for name in dag.metrics(self.root):
            if name in result.outs:
                scores = flat(disk.read_json(result.outs[name]))
                if FEATURES_METRIC in scores:
                    self.client.set_tag(run_id, FEATURES, scores.pop(FEATURES_METRIC))
                numbers = {
                    key: value for key, value in scores.items() if not isinstance(value, str)
                }
                self._log_metrics(run_id, numbers, step=0)

    def _log_metrics(self, run_id: str, values: dict[str, float], step: int) -> None:
        known = self.client.get_run(run_id).data.metrics
        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            metrics=[
                Metric(name, value, now, step)
                for name, value in values.items()
                if step > 0 or known.get(name) != value
            ],
        )

    def _log_curves(self, run_id: str, epochs: list[dict[str, float]]) -> None:
        if run_id not in self.curves:
            history = self.client.get_metric_history(run_id, "loss")
            self.curves[run_id] = {metric.step for metric in history}
        for epoch in epochs:
            step = int(epoch["epoch"])
            if step not in self.curves[run_id]:
                self._log_metrics(run_id, _without_epoch(epoch), step)
                self.curves[run_id].add(step)

    def _log_data(self, run_id: str, result: Result) -> None:
        if "prepared" not in result.outs or DATA in self.client.get_run(run_id).data.tags:
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
        self.client.log_inputs(run_id, [DatasetInput(data, context)])
        self.client.set_tag(run_id, DATA, profile["fingerprint"])

    def _log_files(self, run_id: str, name: str, folder: str, files: list[Path]) -> None:
        """Upload the files of an out, unless the same content was uploaded before."""
        content = "".join(f"{file.name} {disk.file_digest(file)}\n" for file in files)
        digest = hashlib.sha256(content.encode()).hexdigest()
        tag = f"files.{name}"
        if self.client.get_run(run_id).data.tags.get(tag) == digest:
            return
        for file in files:
            self.client.log_artifact(run_id, str(file), folder or None)
        self.client.set_tag(run_id, tag, digest)

    def _log_records(self, run_id: str, result: Result) -> None:
        """Log the timings of each stage, if they were recorded for this result."""
        for stage, written in dag.stages(self.root).items():
            record = timings.read(stage, self.root)
            if record is None or record["result"] != result.digest_for(written):
                continue
            figures = {f"{figure}.{stage}": record[figure] for figure in timings.FIGURES}
            self._log_metrics(run_id, figures, step=0)
            if stage == "train":
                tags = _code_tags(self.root, record["code"]) | {
                    f"machine.{name}": str(value) for name, value in record["machine"].items()
                }
                self.client.log_batch(
                    run_id, tags=[RunTag(name, value) for name, value in tags.items()]
                )

    def close(self) -> None:
        self._stop_monitor()


def _picture(file: Path) -> np.ndarray | None:
    """Return the pixels of a PNG file; None if it is damaged, as by a power cut."""
    try:
        with Image.open(file) as picture:
            return np.asarray(picture)
    except (OSError, SyntaxError, ValueError):  # Pillow raises these for damaged files
        return None


def _code_tags(root: Path, code: dict[str, Any] | None = None) -> dict[str, str]:
    code = code or vars(git.code(root))
    return {
        "git.commit": code["commit"],
        "git.dirty": str(code["dirty"]).lower(),
        "mlflow.source.git.commit": code["commit"],
    }


def _without_epoch(epoch: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in epoch.items() if name != "epoch"}
