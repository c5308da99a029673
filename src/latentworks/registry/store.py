"""Writes to MLflow's registry, by `latentworks register` and by the gate."""

import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from mlflow.entities import (
    Experiment,
    LifecycleStage,
    LoggedModel,
    LoggedModelOutput,
    Metric,
    Run,
)
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from latentworks.registry.candidates import Candidate
from latentworks.registry.decisions import DECISIONS, Decisions, Entry
from latentworks.registry.records import INTERFACE, Records
from latentworks.registry.versions import DECISION, SHA256, SOURCE, VERSIONS, Version, Versions
from latentworks.serving import checksums
from latentworks.system.console import slow
from latentworks.system.state import STATE
from latentworks.tracking import bounded, datasets, pages
from latentworks.tracking.description import RULE
from latentworks.tracking.naming import metric_name
from latentworks.tracking.once import accepted, create_once
from latentworks.tracking.source import origin_tags
from latentworks.tracking.store import Store
from latentworks.tracking.uri import URI

READY: Final = "READY"  # status of a logged model whose files are complete
# MLflow's error codes for a run that was deleted, that a version does not name, or may not be read.
NO_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "PERMISSION_DENIED")
UPLOAD = "upload.key"  # tag of a logged model until it is a version: the key of its upload


@dataclass(frozen=True)
class Uploaded:
    """Uploaded files of a future version."""

    model_id: str
    run_id: str
    sha256: str


class RegistryStore(Versions):
    """MLflow's registry at a tracking URI, with local copies of versions in a checkout."""

    def __init__(self, uri: str, root: Path) -> None:
        super().__init__(uri, root / STATE / VERSIONS)
        self.store = Store(uri, root)
        self.decisions = Decisions(self.client, lambda: self.experiment, lambda: origin_tags(root))
        self.records = Records.at(uri)

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment that holds the decisions."""
        return self.store.experiment(DECISIONS, pages.KIND)

    def interface(self, name: str) -> str | None:
        """The interface of the champions of `name`; None if no model has this name."""
        try:
            return str(self.client.get_registered_model(name).tags.get(INTERFACE, ""))
        except MlflowException as error:
            if self.is_absent(name, error):
                return None
            raise

    def create(self, name: str, candidate: Candidate) -> None:
        """Create the registered model if it does not exist."""
        tags, description = {INTERFACE: candidate.interface()}, candidate.about_model(name)
        create_once(
            lambda: self.client.search_registered_models(f"name = '{name}'"),
            lambda: self.client.create_registered_model(name, tags, description),
        )

    def take_interface(self, name: str, candidate: Candidate) -> None:
        """Give the registered model the interface of a candidate."""
        self.client.update_registered_model(name, candidate.about_model(name))
        self.client.set_registered_model_tag(name, INTERFACE, candidate.interface())

    def upload(self, name: str, candidate: Candidate) -> Uploaded:
        """Log the model folder of a result under its run.

        Raises RegistryError if the folder fails its pre-flight.
        """
        run_id = self.store.find(candidate.result)
        assert run_id is not None  # the result was synced before
        params = candidate.flat_params()
        model = self._create_model(name, run_id, params)
        try:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "model"
                with slow("Testing the model in a new process and scoring it on its test images"):
                    candidate.assemble(folder, run_id, model.model_id)
                    sha256 = checksums.seal(folder)
                with slow("Uploading the version to MLflow"):
                    self.client.log_model_artifacts(model.model_id, str(folder))
        except BaseException:
            self.client.finalize_logged_model(model.model_id, "FAILED")
            raise
        self.client.finalize_logged_model(model.model_id, READY)
        return Uploaded(model.model_id, run_id, sha256)

    def _create_model(self, name: str, run_id: str, params: dict[str, str]) -> LoggedModel:
        """Create the logged model of an upload."""
        key = uuid.uuid4().hex
        experiment = self.store.experiment_id
        return create_once(
            lambda: self.client.search_logged_models([experiment], f"tags.`{UPLOAD}` = '{key}'"),
            lambda: self.client.create_logged_model(
                experiment, name, run_id, {UPLOAD: key}, params
            ),
            lambda double: self.client.delete_logged_model(double.model_id),
        )

    def discard(self, model_id: str) -> None:
        """Delete a logged model and its files, unless another process has deleted it."""
        try:
            model = self.client.get_logged_model(model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return
        location = get_artifact_repository(model.artifact_location, tracking_uri=self.uri)
        with suppress(FileNotFoundError):
            bounded.within(self.uri, bounded.FILES, location.delete_artifacts)
        self.client.delete_logged_model(model_id)

    def discard_abandoned(self, name: str, age: float) -> None:
        """Delete the uploads for `name` that are `age` seconds old and became no version."""
        oldest, token = (time.time() - age) * 1000, None
        found: list[LoggedModel] = []
        while True:
            page = self.client.search_logged_models(
                [self.store.experiment_id],
                f"name = '{name}' AND tags.`{UPLOAD}` LIKE '%'",
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                break
        used = {version.model_id for version in self.versions(name)}
        for model in found:
            if model.model_id not in used and model.creation_timestamp <= oldest:
                self.discard(model.model_id)

    def create_version(self, name: str, candidate: Candidate, uploaded: Uploaded) -> Version:
        """Create the next version of `name` from uploaded files."""
        tags = {SHA256: uploaded.sha256, "git.commit": candidate.commit}
        tags |= self.keys.sign(name, tags)

        def create() -> None:
            with _default(self.uri):
                self.client.create_model_version(
                    name,
                    source=f"{SOURCE}{uploaded.model_id}",
                    run_id=uploaded.run_id,
                    model_id=uploaded.model_id,
                    tags={**candidate.content(), **tags},
                    description=candidate.about(),
                )

        made = create_once(
            lambda: self.versions(name, {SHA256: uploaded.sha256}),
            create,
            lambda double: self.client.delete_model_version(name, str(double.number)),
        )
        # Its files stay, also if somebody deletes the version: the upload is not abandoned.
        with suppress(MlflowException):
            self.client.delete_logged_model_tag(uploaded.model_id, UPLOAD)
        return made

    def link_scores(self, version: Version, candidate: Candidate) -> None:
        """Link a version's run, and its scores of the test images, with its logged model.

        The points are those of the run, so that linking them again changes nothing.
        """
        run = self._run(version)
        if run is None:
            return
        model = self.client.get_logged_model(version.model_id)
        linked = {metric.key for metric in model.metrics or ()}
        points = {point.key: point for point in run.data.to_proto().metrics}
        (test,) = (each for each in datasets.of(candidate.result) if each.split == datasets.TEST)
        metrics = [
            Metric(
                *(metric_name(name), point.value, point.timestamp, point.step),
                model_id=version.model_id,
                dataset_name=test.dataset_name,
                dataset_digest=test.digest,
            )
            for name in candidate.scores()
            if metric_name(name) not in linked
            and (point := points.get(metric_name(name, points))) is not None
        ]
        self.client.log_batch(version.run_id, metrics=metrics)
        made = run.outputs.model_outputs if run.outputs else ()
        if version.model_id not in {output.model_id for output in made}:
            output = LoggedModelOutput(version.model_id, step=0)
            with accepted("BAD_REQUEST"):  # a repeated request, after one without an answer
                self.client.log_outputs(version.run_id, [output])

    def tag(self, name: str, number: int, key: str, value: str) -> None:
        self.client.set_model_version_tag(name, str(number), key, value)

    def untag(self, name: str, number: int, key: str) -> None:
        if key in self.get(name, number).tags:
            self.client.delete_model_version_tag(name, str(number), key)

    def move_alias(self, name: str, alias: str, number: int | None) -> None:
        """Point an alias at a version; None removes the alias."""
        if number is None:
            self.client.delete_registered_model_alias(name, alias)
        else:
            self.client.set_registered_model_alias(name, alias, str(number))

    def keep(self, name: str, numbers: Iterable[int] = (), decisions: Iterable[str] = ()) -> None:
        """Write records of these versions and decisions beside the artifacts of a local store."""
        if self.records is not None:
            self.records.keep(name, numbers, decisions)

    def identity(self, name: str) -> str:
        """An identifier of this model in this store that does not depend on the store's address.

        All processes that use the model must take the same lock, and this is its name.
        """
        model = self.client.get_registered_model(name)
        experiment = self.experiment
        text = f"{experiment.experiment_id} {experiment.creation_time} {name} "
        text += str(model.creation_timestamp)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def describe(self, entry: Entry) -> None:
        """Put a decision at the top of the descriptions of its version and its run in MLflow.

        Below a decision without scores stands the last one with scores.
        """
        version = self.get(entry.name, entry.version)
        self.tag(entry.name, entry.version, DECISION, entry.decision)
        scored = [
            each.text
            for each in self.decisions.of(entry.name)
            if each.scored and each.version == entry.version
        ]
        parts = [entry.text, *([] if entry.scored else scored[-1:])]
        about = version.description.split(RULE)[-1]
        self.client.update_model_version(entry.name, str(entry.version), RULE.join([*parts, about]))
        self._describe_run(version, parts)

    def _describe_run(self, version: Version, decisions: list[str]) -> None:
        """Put decisions at the top of the description of a version's run."""
        run = self._run(version)
        if run is None:
            return
        about = run.data.tags.get(MLFLOW_RUN_NOTE, "").split(RULE)[-1]
        first, *others = decisions
        note = RULE.join([f"{version}. {first}", *others, about])
        try:
            self.client.set_tag(version.run_id, MLFLOW_RUN_NOTE, note)
        except MlflowException as error:  # who may decide on a version need not write to its run
            if error.error_code != "PERMISSION_DENIED":
                raise

    def _run(self, version: Version) -> Run | None:
        """Return the run of a version; None if it has none, or none that may be read."""
        try:
            run = self.client.get_run(version.run_id)
        except MlflowException as error:
            if error.error_code not in NO_RUN:
                raise
            return None
        return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


@contextmanager
def _default(uri: str) -> Iterator[None]:
    """Make `uri` MLflow's default store in a `with` block.

    MLflow reads the files of a new version from its default store, even for a client of another.
    """
    before = os.environ.get(URI)
    os.environ[URI] = uri
    try:
        yield
    finally:
        del os.environ[URI]
        if before is not None:
            os.environ[URI] = before
