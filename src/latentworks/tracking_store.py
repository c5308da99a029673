"""What the run of a result looks like in MLflow: its tags, params, curves, metrics and files."""

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from latentworks import artifacts, locks, params, records, repository
from latentworks.errors import LatentworksError
from latentworks.tracking import Outputs, without_password

EXPERIMENT = "latentworks"
PAGES = {"mlflow.experimentKind": "custom_model_development"}  # those that MLflow opens with
SQLITE = "sqlite:///"
TRAINING = "training"  # tags: whose run it is, before the model exists
MODEL = "model.sha256"  # and after
SAMPLER = "sampler.sha256"
SAMPLES = "samples.sha256"
DATA = "data.fingerprint"
NOTE = records.STATE / "run.json"  # the run of a training under way, so that it can go on
SYSTEM_METRICS_INTERVAL = "5"  # seconds, unless MLflow's own setting says otherwise


class Store:
    """A tracking store, local or behind a server, with the experiment that the runs are in."""

    def __init__(self, uri: str, root: Path) -> None:
        for name in ("mlflow", "alembic"):  # a stage says one sentence, and these are not it
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # raises it, too
        self.uri = uri
        self.root = root
        if uri.startswith(SQLITE) and "?" not in uri and ":memory:" not in uri:
            _make_database(Path(uri.removeprefix(SQLITE)))
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment_id = str(self.experiment(EXPERIMENT, PAGES).experiment_id)
        self.training_run: str | None = None
        self.monitor: SystemMetricsMonitor | None = None

    def experiment(self, name: str, tags: dict[str, str] | None = None) -> Experiment:
        """The experiment `name`, made if it is not there."""
        known = self.client.get_experiment_by_name(name)
        if known is not None:
            return known
        # Beside the database; a server has a place of its own.
        local = (self.root / "mlartifacts").as_uri() if self.uri.startswith(SQLITE) else None
        try:
            made = self.client.create_experiment(name, artifact_location=local, tags=tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # by another process, just now
                raise
            return self.experiment(name)
        return self.client.get_experiment(made)

    # --- a training under way --------------------------------------------------------------------

    def start_training(self, fingerprint: str, outputs: Outputs) -> None:
        """Open a run, or the one in which the training with this fingerprint was interrupted."""
        run_id = self._interrupted(fingerprint)
        resumed = run_id is not None
        if run_id is None:
            run_id = self._create(outputs, {TRAINING: fingerprint, **_code_tags(self.root)})
            note = {"fingerprint": fingerprint, "uri": without_password(self.uri), "run_id": run_id}
            artifacts.write_json(self.root / NOTE, note)
        self.training_run = run_id
        self._log_params(
            run_id, self._sections(outputs, "seed", "dataset", "prepare", "model", "train")
        )
        self._log_data(run_id, outputs)
        self.client.update_run(run_id, status="RUNNING")
        self.monitor = SystemMetricsMonitor(
            run_id,
            float(
                os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", SYSTEM_METRICS_INTERVAL)
            ),
            resume_logging=resumed,
            tracking_uri=self.uri,
        )
        self.monitor.start()

    def _interrupted(self, fingerprint: str) -> str | None:
        if not (self.root / NOTE).is_file():
            return None
        note = artifacts.read_json(self.root / NOTE)
        if (note["fingerprint"], note["uri"]) != (fingerprint, without_password(self.uri)):
            return None
        found = self._search({TRAINING: fingerprint})
        return next((run.info.run_id for run in found if run.info.run_id == note["run_id"]), None)

    def log_epoch(self, epoch: dict[str, float], grid: np.ndarray) -> None:
        """One point of each curve, and the reconstructions at that time: uint8 [h, w, C]."""
        if self.training_run is None:
            return  # the store was away when the training began; finish_training writes it all
        step = int(epoch["epoch"])
        self._log_metrics(self.training_run, _without_epoch(epoch), step)
        self.client.log_image(self.training_run, grid, key="reconstructions", step=step)

    def finish_training(self, outputs: Outputs) -> None:
        """Give the run to its model; where an equal model has one already, that one stays."""
        self._stop_monitor()
        run_id, self.training_run = self.training_run, None
        if run_id is not None:
            digest = outputs.model_digest()
            others = [run for run in self._search({MODEL: digest}) if run.info.run_id != run_id]
            if others:
                self.client.delete_run(run_id)
            else:
                self.client.set_tag(run_id, MODEL, digest)
                self.client.set_terminated(run_id)
        self.write(outputs)
        (self.root / NOTE).unlink(missing_ok=True)

    def fail_training(self) -> None:
        self._stop_monitor()
        if self.training_run is not None:
            self.client.set_terminated(self.training_run, status="FAILED")

    def _stop_monitor(self) -> None:
        monitor, self.monitor = self.monitor, None
        if monitor is not None:
            monitor.finish()

    # --- a result that is there ------------------------------------------------------------------

    def write(self, outputs: Outputs) -> None:
        """Find the run of this result, or make it, and write what it lacks."""
        assert outputs.model is not None
        run_id = self.find(outputs)
        if run_id is None:
            run_id = self._create(outputs, {MODEL: outputs.model_digest()})
            self.client.set_terminated(run_id)
        self._log_params(
            run_id, self._sections(outputs, "seed", "dataset", "prepare", "model", "train")
        )
        self._log_data(run_id, outputs)
        self._log_curves(run_id, artifacts.read_curves(outputs.model / "curves.csv"))
        self._log_files(run_id, "model", sorted(outputs.model.iterdir()))
        if outputs.latents:
            self._log_files(run_id, "latents", [outputs.latents])
        if outputs.sampler:
            self.client.set_tag(run_id, SAMPLER, outputs.sampler_digest())
            self.client.set_tag(run_id, SAMPLES, outputs.samples_digest())
            self._log_params(run_id, self._sections(outputs, "sample"))
            self._log_files(run_id, "sampler", sorted(outputs.sampler.iterdir()))
        if outputs.metrics:
            self._log_metrics(run_id, dict(_flat(artifacts.read_json(outputs.metrics))), step=0)
            self._log_files(run_id, "reports", [outputs.metrics])
        if outputs.pictures:
            self._log_files(run_id, "pictures", sorted(outputs.pictures.iterdir()))
        self._log_records(run_id, outputs)

    def write_all(self, outputs: Outputs) -> None:
        """A result that is finished, with the settings it was made with."""
        self.write(outputs)
        self._write_settings(outputs)

    def _write_settings(self, outputs: Outputs) -> None:
        """Add dvc.lock, complete once the last stage has ended, and params.yaml if unedited."""
        run_id = self.find(outputs)
        assert run_id is not None
        files = [self.root / repository.LOCK]
        if outputs.params.items() <= params.read(self.root / params.PARAMS).items():
            files.append(self.root / params.PARAMS)
        self._log_files(run_id, "", [file for file in files if file.is_file()])

    def find(self, outputs: Outputs) -> str | None:
        """The run with this model and these samples; else one whose samples are yet to come."""
        runs = self._search({MODEL: outputs.model_digest()})
        samples = outputs.samples_digest()
        if samples is not None:
            same = [run for run in runs if run.data.tags.get(SAMPLES) == samples]
            runs = same or [run for run in runs if SAMPLES not in run.data.tags]
        return runs[0].info.run_id if runs else None

    def _search(self, tags: dict[str, str]) -> list[Run]:
        """Runs with these tags, the newest first."""
        terms = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        return list(self.client.search_runs([self.experiment_id], " and ".join(terms)))

    def _create(self, outputs: Outputs, tags: dict[str, str]) -> str:
        kind = self._sections(outputs, "dataset", "model")
        name = "-".join(kind[key] for key in ("model.kind", "dataset.kind") if key in kind)
        if "model.latent_dim" in kind:
            name += f"-{kind['model.latent_dim']}d"
        tags = {"mlflow.source.name": "dvc repro", "mlflow.source.type": "LOCAL", **tags}
        return str(self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id)

    def _sections(self, outputs: Outputs, *names: str) -> dict[str, str]:
        """Sections of params.yaml as flat text."""
        chosen = {name: outputs.params[name] for name in names if name in outputs.params}
        return {key: str(value) for key, value in _flat(chosen)}

    def _log_params(self, run_id: str, values: dict[str, str]) -> None:
        known = self.client.get_run(run_id).data.params
        new = [Param(name, value) for name, value in values.items() if name not in known]
        self.client.log_batch(run_id, params=new)

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
        known = {metric.step for metric in self.client.get_metric_history(run_id, "loss")}
        for epoch in epochs:
            if int(epoch["epoch"]) not in known:
                self._log_metrics(run_id, _without_epoch(epoch), int(epoch["epoch"]))

    def _log_data(self, run_id: str, outputs: Outputs) -> None:
        if outputs.prepared is None or DATA in self.client.get_run(run_id).data.tags:
            return
        profile = artifacts.read_json(outputs.prepared / "profile.json")
        dataset = self._sections(outputs, "dataset")
        data = Dataset(
            name=dataset["dataset.kind"],
            digest=profile["fingerprint"][:36],
            source_type="local",
            source=dataset["dataset.path"],
        )
        context = [InputTag("mlflow.data.context", "training")]
        self.client.log_inputs(run_id, [DatasetInput(data, context)])
        self.client.set_tag(run_id, DATA, profile["fingerprint"])

    def _log_files(self, run_id: str, folder: str, files: list[Path]) -> None:
        """Upload, unless the same content was uploaded before."""
        content = "".join(f"{file.name} {artifacts.file_digest(file)}\n" for file in files)
        digest = hashlib.sha256(content.encode()).hexdigest()
        tag = f"files.{folder or 'settings'}"
        if self.client.get_run(run_id).data.tags.get(tag) == digest:
            return
        for file in files:
            self.client.log_artifact(run_id, str(file), folder or None)
        self.client.set_tag(run_id, tag, digest)

    def _log_records(self, run_id: str, outputs: Outputs) -> None:
        """What each stage took, as far as it was this result that it made here."""
        stages = ("train", "encode", "sample", "evaluate", "export")
        results = {stage: outputs.digest_of(stage) for stage in stages}
        if outputs.prepared is not None:
            profile = artifacts.read_json(outputs.prepared / "profile.json")
            results |= {"fetch": profile["source"], "prepare": profile["fingerprint"]}
        for stage, digest in results.items():
            record = records.read(stage, self.root)
            if record is None or record["result"] != digest:
                continue
            figures = {f"{figure}.{stage}": record[figure] for figure in records.FIGURES}
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


def _make_database(path: Path) -> None:
    """A kill while MLflow makes its tables, step by step, would spoil the file for good."""
    if not path.parent.is_dir():
        raise LatentworksError(f"{path.parent} is not a folder")
    if path.is_dir():
        raise LatentworksError(f"{path} is a folder. Expected a database, or a name for one")
    if path.exists():
        return
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with locks.exclusive(name, f"make {path.name}"):
        if path.exists():
            return
        with artifacts.replacing(path) as temporary:
            MlflowClient(f"{SQLITE}{temporary}").get_experiment_by_name(EXPERIMENT)


def _code_tags(root: Path, code: dict[str, Any] | None = None) -> dict[str, str]:
    code = code or vars(repository.code(root))
    return {
        "git.commit": code["commit"],
        "git.dirty": str(code["dirty"]).lower(),
        "mlflow.source.git.commit": code["commit"],
    }


def _without_epoch(epoch: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in epoch.items() if name != "epoch"}


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} as ("a.b", 1)."""
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item
