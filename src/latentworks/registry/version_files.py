"""Verification and repair of registered versions: MLflow's files, and the copies in a checkout.

A version has the SHA-256 of its SHA256SUMS as a tag, so that every copy can be verified alone.
"""

import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from latentworks import params
from latentworks.errors import RegistryError, Unavailable
from latentworks.integrity.inspection import Hashes
from latentworks.integrity.outs import Out
from latentworks.integrity.quarantine import Quarantine
from latentworks.integrity.report import Fault, Verified, count
from latentworks.integrity.verification import Verification
from latentworks.registry import database
from latentworks.registry.aliases import CHALLENGER, CHAMPION, PREVIOUS
from latentworks.registry.records import Records
from latentworks.registry.registry import PromotionParams, Registry
from latentworks.registry.versions import VERSIONS, Version
from latentworks.repository import dag, dvc
from latentworks.repository.cache import MD5, Cache
from latentworks.serving import checksums, packaging
from latentworks.system import disk, locks
from latentworks.system.console import first_line
from latentworks.system.state import STATE
from latentworks.tracking import bounded
from latentworks.tracking.uri import tracking_uri, without_password

REMEMBERED = STATE / "registry.json"  # the number of versions, to notice that all are gone
REBUILD = "Only `latentworks rebuild` needs it; without it rebuild reads the data from its source."


def verify(
    root: Path, known: frozenset[str] = frozenset(), env: dvc.Environment = None
) -> Verified:
    """Verify the files of every version of the registered model, and repair damage.

    Also verifies the cache objects that the versions' dvc.lock files name, which `latentworks
    rebuild` needs; `known` holds the MD5s of objects that were verified before. Raises Unavailable
    if the registry does not answer.
    """
    uri = tracking_uri(root)
    name = params.load(PromotionParams, root / params.PARAMS).promotion.model_name
    remembered, key = _remembered(root), f"{name} at {without_password(uri)}"
    records = Records.at(uri)
    if records is not None:
        lost = database.loss(records, remembered.get(key, 0))
        if lost:
            return Verified(faults=(lost,))
        if not records.database.exists():
            return Verified()  # nothing was ever registered; MLflow's client would create the store
    registry = Registry(root)
    quarantine = Quarantine(root)
    stages = dag.stages(root).values()
    uncached = {
        name for stage in stages for name, of in dag.options(stage).items() if not of["cache"]
    }
    seen = Verified()
    objects: dict[str, str] = {}
    with registry.one_line("Run `latentworks verify` again when MLflow answers."):
        num_deleted = 0
        if records is not None and registry.store.interface(name) is not None:
            with registry.aliases.lock("verify"):
                seen += database.verify(records, name, registry.store.keys)
            num_deleted = len(seen.notes)
        aliases = {
            aliased.number: alias
            for alias in (CHALLENGER, PREVIOUS, CHAMPION)
            if (aliased := registry.store.aliased(registry.name, alias))
        }
        for version in registry.store.versions(registry.name):
            if not re.fullmatch("[0-9a-f]{64}", version.sha256):
                seen += Verified(
                    notes=(f"{version} was not verified: `latentworks register` did not make it",)
                )
                continue
            alias = aliases.get(version.number, "")
            copies = _Copies(registry, version, alias, quarantine, uncached)
            with (
                locks.exclusive(version.sha256[:16], f"verify {version}"),
                bounded.together(bounded.Budget()),  # the command may take as long as all versions
            ):
                seen += copies.verify()
            objects |= {md5: name for md5, name in copies.objects.items() if md5 not in objects}
        before = remembered.get(key, 0) - num_deleted
        if before > seen.num_versions and not seen.lost:
            seen += _fewer(registry.name, before, seen.num_versions, root)
    if seen.num_versions or (key in remembered and not seen.lost):
        disk.write_json(root / REMEMBERED, {**remembered, key: seen.num_versions})
    cache = Cache(root, env)
    outs = [
        Out(name, root / name, md5, advice=REBUILD)
        for md5, name in objects.items()
        if md5 not in known
    ]
    verification = Verification(cache, outs, Hashes({cache.path(md5): md5 for md5 in known}))
    verification.repair()
    return seen + verification.result()


def _remembered(root: Path) -> dict[str, int]:
    """The numbers of versions at the last verification, by model and store."""
    with suppress(OSError, ValueError):
        found = disk.read_json(root / REMEMBERED)
        if isinstance(found, dict):
            return {name: number for name, number in found.items() if isinstance(number, int)}
    return {}


def _fewer(name: str, before: int, now: int, root: Path) -> Verified:
    """Report that versions are gone: a fault if all are."""
    if now:
        note = f"{name} has {now} versions, and had {before} at the last verification"
        return Verified(notes=(note,))
    cure = (
        "Restore MLflow's database from a backup. If you deleted them on purpose, delete "
        f"{root / REMEMBERED}."
    )
    wrong = f"missing; MLflow had {count(before, 'version')} at the last verification"
    return Verified(faults=(Fault("mlflow", name, name, wrong=wrong, cure=cure),))


@dataclass
class _Copies:
    """All copies of one version's files: MLflow's, and those in the checkout and its worktrees."""

    registry: Registry
    version: Version
    alias: str
    quarantine: Quarantine
    uncached: set[str]  # outs that DVC does not cache

    def __post_init__(self) -> None:
        self.name = f"{self.version.name}-{self.version.number}"
        self.objects: dict[str, str] = {}  # names of cache objects, by MD5
        self.num_bytes = 0

    def verify(self) -> Verified:
        """Compare each copy with the recorded hash, and replace damaged copies by a good one."""
        damaged, whole = self._local_copies()
        with tempfile.TemporaryDirectory() as temporary:
            stored, wrong = self._download(Path(temporary) / "stored")
            faults = []
            if not wrong:
                whole.append(stored)
            else:
                strangers = self._unregistered_files(stored, whole)
                # Quarantine MLflow's files only if a good copy is about to replace them.
                replaced = whole and stored.is_dir() and any(stored.iterdir())
                kept = self._set_aside(stored, "mlflow") if replaced else ""
                fault = Fault(
                    "mlflow", str(self.version), str(self.version), wrong=wrong, kept=kept
                )
                faults.append(self._upload(whole, strangers, fault, Path(temporary) / "again"))
            source = "from MLflow" if not wrong else "from another copy"
            for folder, fault in damaged.items():
                faults.append(self._copy(whole, folder, fault, source))
            if whole:
                self._read_objects(whole[0])
        return Verified(num_versions=1, num_bytes=self.num_bytes, faults=tuple(faults))

    # --- finding damage --------------------------------------------------------------------------

    def _local_copies(self) -> tuple[dict[Path, Fault], list[Path]]:
        """Damaged and intact copies in this checkout and its worktrees; quarantines the damaged."""
        damaged, whole = {}, []
        root, sha256 = self.registry.root, self.version.sha256
        trees = [root, *(tree / root.relative_to(root.anchor) for tree in _worktrees(root))]
        for folder in (tree / STATE / VERSIONS / sha256 for tree in trees):
            if not folder.exists():
                continue
            wrong = self._wrong(folder)
            if wrong:
                name = f"the copy of {self.version} in {folder.parent.relative_to(root)}"
                damaged[folder] = Fault("checkout", name, str(self.version), wrong=wrong)
            else:
                whole.append(folder)
        for folder, fault in damaged.items():
            damaged[folder] = replace(fault, kept=self._set_aside(folder, "versions"))
        return damaged, whole

    def _download(self, target: Path) -> tuple[Path, str]:
        """Download MLflow's files; return their folder and a description of the damage, or ""."""
        target.mkdir(parents=True)
        try:
            folder = self.registry.store.download(self.version, target)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return target, "deleted"
        except Unavailable:
            raise
        except RegistryError:
            return target, "files are missing or cannot be read"
        return folder, self._wrong(folder)

    def _wrong(self, folder: Path) -> str:
        """Describe how a folder differs from the registered files; "" if it does not."""
        files = [file for file in folder.rglob("*") if file.is_file()]
        self.num_bytes += sum(file.stat().st_size for file in files)
        try:
            return checksums.fault(folder, self.version.sha256) or ""
        except OSError as error:
            return f"{error.filename} cannot be read"

    def _unregistered_files(self, stored: Path, whole: list[Path]) -> list[str]:
        """Files in MLflow that an intact copy lacks; empty if no intact copy exists."""
        files = [file for file in stored.rglob("*") if file.is_file()] if whole else []
        names = [file.relative_to(stored).as_posix() for file in files]
        return [name for name in names if not (whole[0] / name).is_file()]

    def _read_objects(self, folder: Path) -> None:
        for stage in dag.locked(folder / packaging.PROVENANCE).values():
            for out in stage.get("outs", ()):
                if out["path"] not in self.uncached and MD5.fullmatch(str(out.get("md5"))):
                    self.objects[str(out["md5"])] = f"{out['path']} of {self.version}"

    # --- repair ----------------------------------------------------------------------------------

    def _set_aside(self, folder: Path, place: str) -> str:
        return self.quarantine.take(folder, f"{place}/{self.name}")

    def _upload(self, whole: list[Path], strangers: list[str], fault: Fault, again: Path) -> Fault:
        """Upload the files of a good copy to MLflow, in place of the damaged ones."""
        if not whole:
            return replace(fault, cure=self._cure())
        client, model_id = self.registry.store.client, self.version.model_id
        try:
            location = client.get_logged_model(model_id).artifact_location
            store = get_artifact_repository(location, tracking_uri=self.registry.uri)
            for name in strangers:
                bounded.within(self.registry.uri, bounded.FILES, store.delete_artifacts, name)
            client.log_model_artifacts(model_id, str(whole[0]))
            _, wrong = self._download(again)
        except (MlflowException, OSError) as error:
            wrong = first_line(error)
        if wrong:
            return replace(fault, cure=f"MLflow did not take the good copy: {wrong}.")
        place = whole[0].parent.relative_to(self.registry.root)
        return replace(fault, repaired=f"from the copy in {place}")

    def _copy(self, whole: list[Path], folder: Path, fault: Fault, source: str) -> Fault:
        if not whole:
            return replace(fault, cure=self._cure())
        with disk.replacing(folder) as temporary:
            shutil.copytree(whole[-1], temporary)
        wrong = self._wrong(folder)
        return replace(fault, cure=f"{wrong}.") if wrong else replace(fault, repaired=source)

    def _cure(self) -> str:
        if self.alias == CHAMPION:
            return (
                "It is champion: run `latentworks rollback` to serve the previous champion, or "
                "`latentworks register` in a checkout that has the result."
            )
        start = f"It is {self.alias}: run" if self.alias else "Run"
        return f"{start} `latentworks register` in a checkout that has the result."


def _worktrees(root: Path) -> list[Path]:
    return sorted((root / STATE / "workspaces").glob("*"))
