"""MLflow's tracking store: the runs of results, and the run of a training in progress."""

import os
import uuid
from pathlib import Path

from mlflow.entities import Experiment, LifecycleStage, Run
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from latentworks import params
from latentworks.artifacts.curves import read_curves
from latentworks.errors import RegistryError
from latentworks.repository import dag
from latentworks.repository.result import Result
from latentworks.system import locks
from latentworks.tracking import bounded, local_store, pages
from latentworks.tracking.live import Live
from latentworks.tracking.local_store import ARTIFACTS, EXPERIMENT
from latentworks.tracking.naming import run_name, without_samples
from latentworks.tracking.once import create_once
from latentworks.tracking.runs import RunLog
from latentworks.tracking.source import code_tags, origin_tags
from latentworks.tracking.uri import SQLITE, URI, without_password

TRAINING = "training"  # name of a digest: the fingerprint of a training
MODEL = "model.sha256"  # tag of a run: digest of its model, once trained
SAMPLER = "sampler.sha256"
SAMPLES = "samples.sha256"
KEY = "run.key"  # of one run; a training that is interrupted and continued keeps it
SYSTEM_METRICS_INTERVAL = "5"  # seconds, unless MLflow's own setting says otherwise


class Store:
    """MLflow's tracking store, local or on a server, with the experiment that holds the runs."""

    def __init__(self, uri: str, root: Path) -> None:
        self.uri = uri
        self.root = root
        local_store.make_ready(uri)
        self.client = bounded.client(uri)
        self.runs = self.experiment(EXPERIMENT, {**pages.KIND, **pages.TABLE})
        self.experiment_id = str(self.runs.experiment_id)
        self.live = Live(root, without_password(uri))
        self.training: RunLog | None = None  # the run of the training in progress
        self.monitor: SystemMetricsMonitor | None = None

    def experiment(self, name: str, tags: dict[str, str] | None = None) -> Experiment:
        """Return the experiment `name`; create it if it does not exist.

        Raises RegistryError if it was deleted in MLflow.
        """
        # Artifacts lie beside the database, for every process; a server chooses its own location.
        local = None
        if self.uri.startswith(SQLITE):
            database = Path(self.uri.removeprefix(SQLITE).partition("?")[0])
            local = (database.resolve().parent / ARTIFACTS).as_uri()

        def search() -> list[Experiment]:
            known = self.client.get_experiment_by_name(name)
            return [known] if known else []

        found = create_once(
            search, lambda: self.client.create_experiment(name, artifact_location=local, tags=tags)
        )
        if found.lifecycle_stage == LifecycleStage.DELETED:
            raise RegistryError(
                f"The experiment {name!r} was deleted in MLflow. Restore it: `mlflow experiments "
                f"restore --experiment-id {found.experiment_id}`, with {URI}="
                f"{without_password(self.uri)} in the environment."
            )
        return found

    # --- a training in progress ------------------------------------------------------------------

    def start_training(self, fingerprint: str, result: Result) -> None:
        """Open a run, or reopen it if the training with this fingerprint was interrupted."""
        self.close_left()
        key = self.live.key
        assert key is not None  # `Live.begin` was called before
        runs = self._search({KEY: key})
        tags = code_tags(self.root)
        run_id = runs[-1].info.run_id if runs else self._create(result, key, tags)
        self.training = RunLog(self.client, run_id, self.root)
        self.training.log_params(result)
        self.training.log_data(result)
        self.client.update_run(run_id, status="RUNNING")
        self.training.digests.add(TRAINING, fingerprint)
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
        if self.training is None:
            return  # the store was unreachable at the start; finish_training writes everything
        self.training.log_curves([epoch])
        self.training.log_pictures(self.live.pictures())

    def finish_training(self, result: Result) -> None:
        """Give the run to the model that the training has written, and complete it."""
        self._stop_monitor()
        self.training = None
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
        if self.training is not None:
            self.client.set_terminated(self.training.run_id, status)

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
        info = self.client.get_run(run_id).info
        if info.status == "RUNNING":  # the training has just ended, or was killed
            self.client.set_terminated(run_id)
        if "samples" in result.outs:
            self.client.set_tag(run_id, SAMPLER, result.sampler_digest())
            self.client.set_tag(run_id, SAMPLES, result.samples_digest())
            if info.run_name == run_name(without_samples(result.params)):  # else a user's
                self.client.update_run(run_id, name=run_name(result.params))
        log = RunLog(self.client, run_id, self.root)
        log.log_data(result)
        log.log_params(result)
        log.log_curves(read_curves(result.outs["autoencoder"] / "curves.csv"))
        if "samples" in result.outs and (learned := _curves(result.outs.get("prior"))):
            log.log_curves(learned, prefix="prior.")
        log.log_scores(result)
        log.log_outs(result)
        log.log_description(result)
        log.log_timings(result)
        if self.live.model == digest:
            log.log_pictures(self.live.pictures())
            self.close_left()
            self.live.end()

    def write_all(self, result: Result) -> None:
        """Write a complete result, with dvc.lock and params.yaml."""
        pages.complete(self.client, self.runs)
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
        log = RunLog(self.client, run_id, self.root)
        log.log_files("settings", "", [file for file in files if file.is_file()])

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
        name = run_name(without_samples(result.params))
        tags = {**origin_tags(self.root), **tags, KEY: key}
        run = create_once(
            lambda: self._search({KEY: key})[::-1],
            lambda: self.client.create_run(self.experiment_id, tags=tags, run_name=name),
            lambda double: self.client.delete_run(double.info.run_id),
        )
        return str(run.info.run_id)

    def close(self) -> None:
        self._stop_monitor()


def _curves(prior: Path | None) -> list[dict[str, float]]:
    """Read the curves of a prior; an empty list if none was trained."""
    path = prior and prior / "curves.csv"
    return read_curves(path) if path and path.exists() else []
