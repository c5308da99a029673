"""Reading of registered versions: their aliases, tags, and verified copies of their files."""

import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from latentworks.errors import RegistryError, Unavailable
from latentworks.registry.signatures import Keys
from latentworks.serving import checksums
from latentworks.system import disk, locks
from latentworks.tracking import bounded, local_store
from latentworks.tracking.uri import configure_client, without_password

SHA256 = "sha256"  # tag of a version: the SHA-256 of its SHA256SUMS
DATA = "data.fingerprint"  # tag of a version
DECISION = "decision"  # tag of a version: the last decision about it
SINCE = "champion.since"  # tag of a version: when it last became champion
WITHDRAWN = "withdrawn"  # tag of a version: why it was rolled back
ROOM = 1_000_000  # bytes; a disk with less free space counts as full
VERSIONS = "versions"  # folder of the local copies
SOURCE = "models:/"  # a version's source is this and the id of a logged model


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
        """The fingerprint of its training and test data."""
        return self.tags.get(DATA, "")

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"


class Versions:
    """The versions at a tracking URI, and local copies of their files."""

    def __init__(self, uri: str, cache: Path) -> None:
        """Keep local copies in `cache`. Raises LatentworksError for an unusable SQLite store."""
        configure_client()
        local_store.make_ready(uri)
        self.uri = uri
        self.cache = cache
        self.client = bounded.client(uri)
        self.keys = Keys.of_user()
        self._denied: set[str] = set()  # models that do not exist, or that MLflow hides

    def get(self, name: str, number: int) -> Version:
        """Return a version by its number. Raises RegistryError if it does not exist."""
        try:
            return _version(name, self.client.get_model_version(name, str(number)))
        except MlflowException as error:
            if not self.is_absent(name, error):
                raise
            known = ", ".join(str(version.number) for version in self.versions(name)) or "none"
            raise RegistryError(
                f"{name} has no version {number}{self.doubt(name)}. Expected one of: {known}."
            ) from None

    def versions(self, name: str, tags: dict[str, str] | None = None) -> list[Version]:
        """The versions of `name` that have these tags, oldest first."""
        terms = [f"name = '{name}'"]
        terms += [f"tags.`{key}` = '{value}'" for key, value in (tags or {}).items()]
        found, token = [], None
        while True:
            page = self.client.search_model_versions(" and ".join(terms), page_token=token)
            found += [_version(name, version) for version in page]
            token = page.token
            if not token:
                return sorted(found, key=lambda version: version.number)

    def aliased(self, name: str, alias: str) -> Version | None:
        try:
            return _version(name, self.client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if self.is_absent(name, error) or error.error_code == "INVALID_PARAMETER_VALUE":
                return None
            raise

    def is_absent(self, name: str, error: MlflowException) -> bool:
        """True if a request about the model `name` failed because something does not exist.

        With MLflow's login, a user who is no admin gets status 403 for a model that does not exist,
        as for one that he may not read; see `doubt`.
        """
        self._denied.discard(name)
        if error.error_code != "PERMISSION_DENIED":
            return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")
        if self.client.search_registered_models(f"name = '{name}'"):
            return False
        self._denied.add(name)
        return True

    def doubt(self, name: str) -> str:
        """Return a clause for the message that something of the model `name` does not exist."""
        return ", or this login may not read the model" if name in self._denied else ""

    def fetch(self, version: Version, *, unsigned: bool = False) -> Path:
        """Return a local folder with a version's files, after checking signature and hashes.

        With `unsigned`, the signature is not checked: the files must not be loaded. Raises
        Untrusted if no trusted key signed the version, and RegistryError if a file is missing or
        differs from the registered one.
        """
        if not re.fullmatch("[0-9a-f]{64}", version.sha256):  # names a folder below
            raise RegistryError(
                f"{version} has no recorded sha256: it was not made by `latentworks register`. "
                "Run `latentworks rollback` to serve an earlier champion."
            )
        if not unsigned:
            self.keys.check(str(version), version.name, version.tags)
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
            except RegistryError:  # the copy is damaged; MLflow's files may be good
                shutil.rmtree(folder)
        self.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache) as temporary:
            downloaded = self.download(version, Path(temporary))
            checksums.verify(downloaded, version.sha256, str(version))
            with disk.replacing(folder) as target:
                downloaded.rename(target)
        return folder

    def download(self, version: Version, target: Path) -> Path:
        """Download a version's files into `target` without verifying them; return their folder.

        Raises RegistryError if a file no longer exists, and Unavailable if MLflow does not deliver
        the files at present.
        """
        location = self.client.get_logged_model(version.model_id).artifact_location
        try:
            downloaded = bounded.within(
                self.uri, bounded.FILES, self._deliver, version, location, target
            )
        except (MlflowException, OSError):
            if shutil.disk_usage(target).free < ROOM:
                raise Unavailable(
                    f"Cannot fetch {version}: the disk of {target} is full. Free some space."
                ) from None
            if urlsplit(location).scheme in ("", "file") or self._lists_too_few(
                version.model_id, target
            ):
                raise RegistryError(f"{version}: files are missing or cannot be read.") from None
            raise Unavailable(
                f"MLflow at {without_password(self.uri)} did not deliver all files of {version}."
            ) from None
        # A client that loads a model from a store of files leaves bytecode in the folder.
        for bytecode in [*downloaded.rglob("__pycache__")]:
            shutil.rmtree(bytecode)
        return downloaded

    def _deliver(self, version: Version, location: str, target: Path) -> Path:
        """Download a version's files; ask again for those that fail while others arrive."""
        folder = target / urlsplit(location).path.rpartition("/")[2]
        missing: list[str] = []
        while True:
            fault = self._request(location, target, missing)
            still = checksums.lacking(folder, version.sha256)
            if not still or (fault is None and missing in ([], still)):
                return folder
            if fault is not None and missing == still:
                raise fault
            missing = still

    def _request(self, location: str, target: Path, names: list[str]) -> Exception | None:
        """Download these files of a folder into `target`, by default all; return the last fault.

        Ends after two faults in a row: each took MLflow's client several attempts.
        """
        parts = urlsplit(location)
        above, last = parts.path.rpartition("/")[::2]
        store = get_artifact_repository(parts._replace(path=above).geturl(), tracking_uri=self.uri)
        fault: Exception | None = None
        in_a_row = 0
        for path in [f"{last}/{name}" for name in names] or [last]:
            try:
                store.download_artifacts(path, dst_path=str(target))
                in_a_row = 0
            except (MlflowException, OSError) as error:
                fault = error
                in_a_row += 1
                if in_a_row == 2:
                    break
        return fault

    def _lists_too_few(self, model_id: str, partly: Path) -> bool:
        """True if MLflow lists fewer files than the downloaded SHA256SUMS files name."""
        waiting: list[str | None] = [None]
        names = set()
        while waiting:
            for found in self.client.list_logged_model_artifacts(model_id, waiting.pop()):
                waiting += [found.path] * found.is_dir
                names.add(found.path)
        needed = {checksums.SUMS}
        for sums in partly.rglob(checksums.SUMS):
            needed |= checksums.read(sums).keys()
        return not needed <= names

    def forget(self, name: str, aliases: Iterable[str]) -> None:
        """Remove the local copies of all versions except those with these aliases."""
        kept = {found.sha256 for alias in aliases if (found := self.aliased(name, alias))}
        for folder in self.cache.glob("*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _version(name: str, version: ModelVersion) -> Version:
    """Return a version of the model `name`. Raises Unavailable if it belongs to another model."""
    if version.name != name or not str(version.version).isdigit():
        raise Unavailable("The address does not answer as an MLflow server. Check it.")
    return Version(
        name,
        int(version.version),
        str(version.source).removeprefix(SOURCE),
        str(version.run_id),
        dict(version.tags),
        version.description or "",
    )
