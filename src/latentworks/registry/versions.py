"""Versions of registered models, as whoever serves them sees them: an alias, and files to fetch."""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import DatabaseError, OperationalError, SQLAlchemyError

from latentworks.errors import RegistryError, Unavailable
from latentworks.serving import checksums
from latentworks.system import disk, locks
from latentworks.tracking import local_store
from latentworks.tracking.uri import configure_client, without_password

# What MLflow calls a fault that another try may not meet; no answer at all is the first.
PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
SHA256 = "sha256"  # tags of a version: of its SHA256SUMS,
DATA = "data.fingerprint"  # and of its data
ROOM = 1_000_000  # bytes: with less a disk is full
VERSIONS = "versions"  # a folder of copies
SOURCE = "models:/"  # and the id of a logged model: where the files of a version are


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


class Versions:
    """The versions at a tracking URI, and local copies of their files."""

    def __init__(self, uri: str, cache: Path) -> None:
        """`cache`: where copies are. Raises LatentworksError where a store of files cannot be."""
        configure_client()
        local_store.make_ready(uri)
        self.uri = uri
        self.cache = cache
        self.client = MlflowClient(tracking_uri=uri)

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

    def aliased(self, name: str, alias: str) -> Version | None:
        try:
            return _version(self.client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

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
                checksums.verify(folder, version.sha256, str(version))
                return folder
            except RegistryError:  # the copy is damaged; what was registered may not be
                shutil.rmtree(folder)
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as temporary:
            downloaded = self.download(version, Path(temporary))
            checksums.verify(downloaded, version.sha256, str(version))
            with disk.replacing(folder) as target:
                downloaded.rename(target)
        return folder

    def download(self, version: Version, target: Path) -> Path:
        """The folder in `target` that the files of a version are brought to, unchecked.

        Raises RegistryError where one is not there any more, and Unavailable where MLflow does not
        hand them out now.
        """
        location = self.client.get_logged_model(version.model_id).artifact_location
        try:
            downloaded = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=location, dst_path=str(target), tracking_uri=self.uri
                )
            )
        except (MlflowException, OSError):
            if shutil.disk_usage(target).free < ROOM:
                raise Unavailable(f"there is no room for the files of {version}.") from None
            if urlsplit(location).scheme in ("", "file") or self._lacks(version.model_id, target):
                raise RegistryError(
                    f"{version}: its files are missing or cannot be read."
                ) from None
            raise Unavailable(
                f"MLflow at {without_password(self.uri)} did not hand out all files of {version}."
            ) from None
        # A client that loads from a store of files leaves bytecode there; it is not ours.
        for bytecode in [*downloaded.rglob("__pycache__")]:
            shutil.rmtree(bytecode)
        return downloaded

    def _lacks(self, model_id: str, partly: Path) -> bool:
        """Whether MLflow names fewer files than there should be, as far as that was downloaded."""
        waiting: list[str | None] = [None]
        names = set()
        while waiting:
            for found in self.client.list_logged_model_artifacts(model_id, waiting.pop()):
                waiting += [found.path] * found.is_dir
                names.add(found.path)
        needed = {checksums.SUMS}
        for sums in partly.rglob(checksums.SUMS):
            lines = sums.read_text(encoding="utf-8").splitlines()
            needed |= {line.partition("  ")[2] for line in lines}
        return not needed <= names

    def forget(self, name: str, aliases: Iterable[str]) -> None:
        """Remove the local copies of all versions but those with these aliases."""
        kept = {found.sha256 for alias in aliases if (found := self.aliased(name, alias))}
        for folder in self.cache.glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _version(version: ModelVersion) -> Version:
    if not str(version.version).isdigit():
        raise Unavailable("what answers is no MLflow server, or one behind something else.")
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
    except Unavailable as error:
        raise Unavailable(f"{str(error).removesuffix(resume).strip()} {resume}") from None
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        fault = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        fault = without_password(fault)
        if isinstance(error, ImportError):
            resume = "Install what it needs."
        elif isinstance(error, DatabaseError) and not isinstance(error, OperationalError):
            resume = (
                "Bring the database back from a copy, or move it away: `latentworks sync` then "
                "writes this result into a new one."
            )
        passing = isinstance(error, OperationalError) or getattr(error, "error_code", "") in PASSING
        kind = Unavailable if passing else RegistryError
        raise kind(f"MLflow at {without_password(uri)} did not do it: {fault}. {resume}") from None
