"""Versions, aliases and decisions as MLflow keeps them."""

import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow.entities import Experiment, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from latentworks import artifacts, locks
from latentworks.candidates import Candidate
from latentworks.errors import RegistryError
from latentworks.serving import packaging
from latentworks.tracking import settle_client, without_password
from latentworks.tracking_store import Store

DECISIONS = "latentworks decisions"  # an experiment with one run for each
SHA256 = "sha256"  # tags of a version: of its SHA256SUMS,
DATA = "data.fingerprint"  # and of its data
INTERFACE = "interface"  # tag of a registered model
SOURCE = "models:/"  # and the id of a logged model: where the files of a version are
TABLE = "| metric "  # how the numbers of a decision begin
RULE = "\n\n---\n\n"  # between a decision and what a version is


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: int
    model_id: str
    run_id: str
    tags: dict[str, str]
    description: str

    @property
    def sha256(self) -> str:
        return self.tags.get(SHA256, "")

    @property
    def data(self) -> str:
        """The fingerprint of the data that it was trained and tested on."""
        return self.tags.get(DATA, "")

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


@dataclass(frozen=True)
class Uploaded:
    """The files of a version to be."""

    model_id: str
    run_id: str
    sha256: str


@dataclass(frozen=True)
class Entry:
    """A decision, as `history` tells it."""

    id: str  # made by the one who decides: a call that is sent twice is still one decision
    name: str
    version: int
    decision: str  # promoted, refused or restored
    reason: str
    champion_before: int | None
    champion_after: int | None
    text: str = ""  # Markdown: the decision, the reason, the numbers
    milliseconds: int = 0  # since 1970, when it was recorded
    status: str = ""  # FINISHED when the aliases are as it says
    run_id: str = ""


class RegistryStore:
    """The registry at a tracking URI."""

    def __init__(self, uri: str, root: Path) -> None:
        settle_client()
        self.uri = uri
        self.cache = root / ".latentworks" / "versions"
        self.store = Store(uri, root)
        self.client = self.store.client

    # --- versions --------------------------------------------------------------------------------

    def interface(self, name: str) -> str | None:
        """The interface that all versions of `name` have; None where there is no such model."""
        try:
            return str(self.client.get_registered_model(name).tags.get(INTERFACE, ""))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def create(self, name: str, candidate: Candidate) -> None:
        """Make the registered model, unless it is there."""
        tags, description = {INTERFACE: candidate.interface()}, candidate.about_model(name)
        try:
            self.client.create_registered_model(name, tags, description)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def get(self, name: str, number: int) -> Version:
        """Raises RegistryError where there is none."""
        try:
            return _version(self.client.get_model_version(name, str(number)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = ", ".join(str(version.number) for version in self.versions(name)) or "none"
            raise RegistryError(
                f"{name} has no version {number}. Expected one of: {known}."
            ) from None

    def versions(self, name: str, tags: dict[str, str] | None = None) -> list[Version]:
        """Those with these tags, the oldest first."""
        terms = [f"name = '{name}'"]
        terms += [f"tags.`{key}` = '{value}'" for key, value in (tags or {}).items()]
        found, token = [], None
        while True:
            page = self.client.search_model_versions(" and ".join(terms), page_token=token)
            found += [_version(version) for version in page]
            token = page.token
            if not token:
                return sorted(found, key=lambda version: version.number)

    def upload(self, name: str, candidate: Candidate) -> Uploaded:
        """Log the model folder of a result beside its run.

        Raises RegistryError where the folder does not work.
        """
        run_id = self.store.find(candidate.outputs)
        assert run_id is not None  # the result was synced before
        params = candidate.flat_params()
        model = self.client.create_logged_model(
            self.store.experiment_id, name, run_id, None, params
        )
        try:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "model"
                candidate.assemble(folder, run_id, model.model_id)
                sha256 = packaging.seal(folder)
                self.client.log_model_artifacts(model.model_id, str(folder))
        except BaseException:
            self.client.finalize_logged_model(model.model_id, "FAILED")
            raise
        self.client.finalize_logged_model(model.model_id, "READY")
        return Uploaded(model.model_id, run_id, sha256)

    def discard(self, uploaded: Uploaded) -> None:
        self.client.delete_logged_model(uploaded.model_id)

    def create_version(self, name: str, candidate: Candidate, uploaded: Uploaded) -> Version:
        """Make what was uploaded the next version of `name`."""
        self.client.create_model_version(
            name,
            source=f"{SOURCE}{uploaded.model_id}",
            run_id=uploaded.run_id,
            model_id=uploaded.model_id,
            tags={**candidate.content(), SHA256: uploaded.sha256, "git.commit": candidate.commit},
            description=candidate.about(),
        )
        # The oldest one: a call that MLflow's client sent twice makes two.
        return self.versions(name, {SHA256: uploaded.sha256})[0]

    def fetch(self, version: Version) -> Path:
        """A local folder with the files of a version, every one as it was registered.

        Raises RegistryError where one is not.
        """
        if not re.fullmatch("[0-9a-f]{64}", version.sha256):  # it becomes the name of a folder
            raise RegistryError(
                f"{version} has no recorded sha256: it was not made by `latentworks register`. "
                "`latentworks rollback` goes back to a champion that was."
            )
        with locks.exclusive(version.sha256[:16], f"fetch {version}"):
            return self._fetch(version)

    def _fetch(self, version: Version) -> Path:
        folder = self.cache / version.sha256
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        if folder.is_dir():
            try:
                packaging.verify(folder, version.sha256, str(version))
                return folder
            except RegistryError:  # the copy is damaged; what was registered may not be
                shutil.rmtree(folder)
        location = self.client.get_logged_model(version.model_id).artifact_location
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as temporary:
            downloaded = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=location, dst_path=temporary, tracking_uri=self.uri
                )
            )
            # A client that loads from a store of files leaves bytecode there; it is not ours.
            for bytecode in [*downloaded.rglob("__pycache__")]:
                shutil.rmtree(bytecode)
            packaging.verify(downloaded, version.sha256, str(version))
            with artifacts.replacing(folder) as target:
                downloaded.rename(target)
        return folder

    def tag(self, name: str, number: int, key: str, value: str) -> None:
        self.client.set_model_version_tag(name, str(number), key, value)

    def untag(self, name: str, number: int, key: str) -> None:
        if key in self.get(name, number).tags:
            self.client.delete_model_version_tag(name, str(number), key)

    # --- aliases ---------------------------------------------------------------------------------

    def aliased(self, name: str, alias: str) -> Version | None:
        try:
            return _version(self.client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def move_alias(self, name: str, alias: str, number: int | None) -> None:
        """Point an alias at a version, or with None at nothing."""
        if number is None:
            self.client.delete_registered_model_alias(name, alias)
        else:
            self.client.set_registered_model_alias(name, alias, str(number))

    def identity(self, name: str) -> str:
        """The same for everyone who uses this model in this store, by whatever address."""
        model = self.client.get_registered_model(name)
        experiment = self._experiment
        text = f"{experiment.experiment_id} {experiment.creation_time} {name} "
        text += str(model.creation_timestamp)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # --- decisions -------------------------------------------------------------------------------

    def record(self, entry: Entry, metrics: dict[str, float]) -> Entry:
        """Write a decision as a run, which stays open until the aliases are as it says."""
        values = asdict(entry)
        tags = {
            tag: "" if values[name] is None else str(values[name]) for name, tag in _TAGS.items()
        }
        run = self.client.create_run(
            self._experiment.experiment_id,
            tags={**tags, "mlflow.source.name": "latentworks", "mlflow.source.type": "LOCAL"},
            run_name=f"{entry.name} {entry.version} {entry.decision}",
        )
        now = int(time.time() * 1000)
        self.client.log_batch(
            run.info.run_id,
            metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
        )
        return _entry(run)

    def describe(self, entry: Entry) -> None:
        """Write a decision on its version, above what stood there when it was registered.

        The numbers of an earlier decision stay where the new one has none.
        """
        version = self.get(entry.name, entry.version)
        self.tag(entry.name, entry.version, "decision", entry.decision)
        *earlier, about = version.description.split(RULE)
        parts = [entry.text, about]
        if TABLE not in entry.text:
            parts[1:1] = [text for text in earlier if TABLE in text]
        self.client.update_model_version(entry.name, str(entry.version), RULE.join(parts))

    def close(self, entry: Entry, status: str = "FINISHED") -> None:
        """Say that the aliases are as the decision says, or with KILLED that they never will be."""
        self.client.set_terminated(entry.run_id, status)
        for other in self._runs(f"tags.`{_TAGS['id']}` = '{entry.id}'"):
            if other.info.run_id != entry.run_id:  # from a call that MLflow's client sent twice
                self.client.delete_run(other.info.run_id)

    def decisions(self, name: str, *, unfinished: bool = False) -> list[Entry]:
        """Those about `name`, the oldest first: all of them, or those whose run is still open."""
        terms = [f"tags.`{_TAGS['name']}` = '{name}'"]
        if unfinished:
            terms.append("attributes.status = 'RUNNING'")
        entries = []
        for run in self._runs(" and ".join(terms)):
            with suppress(ValueError, TypeError):  # a run that somebody edited is no decision
                entries.append(_entry(run))
        return entries

    def _runs(self, terms: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs(
                [self._experiment.experiment_id],
                terms,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    @cached_property
    def _experiment(self) -> Experiment:
        return self.store.experiment(DECISIONS)


_TAGS = {
    "id": "decision.id",
    "name": "model.name",
    "version": "model.version",
    "decision": "decision",
    "reason": "decision.reason",
    "champion_before": "champion.before",
    "champion_after": "champion.after",
    "text": "mlflow.note.content",  # what MLflow shows as the description of a run
}


def _entry(run: Run) -> Entry:
    values: dict[str, Any] = {name: run.data.tags.get(tag, "") for name, tag in _TAGS.items()}
    for name in ("version", "champion_before", "champion_after"):
        values[name] = int(values[name]) if values[name] else None
    info = run.info
    return Entry(**values, milliseconds=info.start_time, status=info.status, run_id=info.run_id)


def _version(version: ModelVersion) -> Version:
    return Version(
        version.name,
        int(version.version),
        str(version.source).removeprefix(SOURCE),
        str(version.run_id),
        dict(version.tags),
        version.description or "",
    )


@contextmanager
def one_line(uri: str, resume: str) -> Iterator[None]:
    """What MLflow raises, as one line with the command that goes on."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        fault = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise RegistryError(
            f"MLflow at {without_password(uri)} did not do it: {fault}. {resume}"
        ) from None
