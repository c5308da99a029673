"""Backups of a local store: the database, the artifacts and the trusted public keys in one file."""

import hashlib
import io
import os
import re
import shlex
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO

from latentworks.errors import LatentworksError, RegistryError
from latentworks.integrity.quarantine import Quarantine
from latentworks.integrity.report import count
from latentworks.registry.records import Records
from latentworks.registry.signatures import TRUSTED, Keys
from latentworks.serving import checksums
from latentworks.serving.checksums import SUMS
from latentworks.system import disk
from latentworks.system.console import first_line
from latentworks.tracking import local_store
from latentworks.tracking.local_store import ARTIFACTS
from latentworks.tracking.uri import tracking_uri, without_password

DATABASE = "mlflow.db"  # in a backup, whatever its name in the store
KEYS = "keys"  # folder of public keys, in a backup
EVERY = 5.0  # seconds between two lines about the progress
SCRATCH = ".restore-"  # begins the name of the folder into which a backup is extracted

Tell = Callable[[str], None]


def backup(root: Path, file: Path, tell: Tell) -> None:
    """Write the store of the checkout `root` into a tar file, which must not exist.

    Other commands may go on meanwhile: SQLite copies its database as of one moment, and the
    artifacts of that moment are complete. Ends with the SHA-256 of each file.
    """
    records = _local(root)
    file = file.absolute()
    folder = records.database.parent
    if not records.database.is_file() or not records.database.stat().st_size:
        local_store.refuse_lost(records.database)
        raise RegistryError("Nothing to back up: no run and no version was ever recorded here.")
    if damage := local_store.damage(records.database):
        raise RegistryError(
            f"{records.database} is damaged: {damage}. Run `latentworks verify`, which names the "
            "cure."
        )
    if os.path.lexists(file):
        raise LatentworksError(f"{file} exists. Choose another name.")
    if not file.parent.is_dir():
        raise LatentworksError(f"{file.parent} is not a folder.")
    if file.is_relative_to(folder / ARTIFACTS):
        raise LatentworksError(f"{file} lies among the files to back up. Choose another folder.")
    trusted = Keys.of_user().folder / TRUSTED
    with disk.replacing(file) as temporary, tarfile.open(temporary, "w") as archive:
        sums = _Sums(archive, tell)
        for record in records.all():  # first: the database must not lack what is on record
            sums.add(record.path, record.path.relative_to(folder).as_posix())
        with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
            copy = Path(scratch) / DATABASE
            with closing(sqlite3.connect(records.database)) as database:
                database.execute("VACUUM INTO ?", (str(copy),))
            sums.add(copy, DATABASE)
        for path in _files(folder / ARTIFACTS):
            if not path.is_relative_to(records.folder):
                sums.add(path, path.relative_to(folder).as_posix())
        for path in sorted(trusted.glob("*.pub")):
            sums.add(path, f"{KEYS}/{path.name}")
        sums.finish()
    tell(f"Backed up {count(sums.num_files, 'file')}, {sums.num_bytes / 1e6:,.1f} MB: {file}")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.endswith(".partial"):
            yield path


class _Sums:
    """Files that are added to an archive, with their SHA-256."""

    def __init__(self, archive: tarfile.TarFile, tell: Tell) -> None:
        self.archive = archive
        self.tell = tell
        self.lines: list[str] = []
        self.num_files = self.num_bytes = 0
        self._told = time.monotonic()

    def add(self, path: Path, name: str) -> None:
        """Add a file, unless it was deleted meanwhile, as an abandoned upload may be."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            info = tarfile.TarInfo(name)
            info.size = os.fstat(file.fileno()).st_size
            hashed = _Hashed(file)
            self.archive.addfile(info, hashed)
        self.lines.append(f"{hashed.digest.hexdigest()}  {name}\n")
        self.num_files += 1
        self.num_bytes += info.size
        if time.monotonic() - self._told > EVERY:
            self._told = time.monotonic()
            self.tell(f"{count(self.num_files, 'file')}, {self.num_bytes / 1e6:,.1f} MB so far")

    def finish(self) -> None:
        content = "".join(self.lines).encode()
        info = tarfile.TarInfo(SUMS)
        info.size = len(content)
        self.archive.addfile(info, io.BytesIO(content))


class _Hashed(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self.file.read(size)
        self.digest.update(piece)
        return piece


# --- restoring -----------------------------------------------------------------------------------


def restore(root: Path, file: Path, replace: bool, tell: Tell) -> None:
    """Put the store of a backup in the place of the store of the checkout `root`.

    What stands there is moved into the quarantine. Raises RegistryError, and changes nothing, if
    the backup is damaged, or if a database with content stands there and `replace` is false.
    """
    records = _local(root)
    target, folder = records.database, records.database.parent
    file.stat()  # raises OSError if it does not exist
    if not replace and _has_content(target):
        raise RegistryError(
            f"{target} has runs or versions. To move it to .latentworks/quarantine, and put the "
            "backup in its place, add --replace."
        )
    for left in folder.glob(f"{SCRATCH}*"):  # by a kill
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as name:
        scratch = Path(name)
        num_files = _extract(file, scratch)
        # The database comes last: until then, the same command begins again.
        _set_aside(root, [folder / ARTIFACTS], tell)
        if (scratch / ARTIFACTS).exists():
            (scratch / ARTIFACTS).rename(folder / ARTIFACTS)
        _set_aside(root, _with_sidecars(target), tell)
        os.replace(scratch / DATABASE, target)
        disk.flush_to_disk(folder)
        known = Keys.of_user().trusted()
        names = {path.stem for path in (scratch / KEYS).glob("*.pub")}
        strangers = sorted(name for name in names - {*known} if re.fullmatch("[0-9a-f]{16}", name))
    local_store.follow_move(target)
    tell(f"Restored {count(num_files, 'file')} from {file}. Run `latentworks verify`.")
    for name in strangers:
        key = f"{KEYS}/{name}.pub"
        tell(
            f"Its versions may be signed by key {name}, which is not trusted here. If you trust "
            f"it: `tar --extract --file {shlex.quote(str(file))} {key}`, then `latentworks keys "
            f"trust {key}`."
        )


def _with_sidecars(database: Path) -> list[Path]:
    return [*(Path(f"{database}{end}") for end in local_store.SIDECARS), database]


def _set_aside(root: Path, paths: list[Path], tell: Tell) -> None:
    """Move files or folders, if they exist, into the quarantine."""
    quarantine = Quarantine(root)
    for path in filter(os.path.lexists, paths):
        tell(f"moved {path.name} to {quarantine.take(path, f'mlflow/{path.name}')}")


def _has_content(database: Path) -> bool:
    """True for a database that is not missing, empty, damaged, or without any run and model."""
    if not database.is_file() or not database.stat().st_size or local_store.damage(database):
        return False
    with closing(sqlite3.connect(database)) as opened:
        tables = ("runs", "registered_models")
        try:
            return any(opened.execute(f"SELECT 1 FROM {table}").fetchone() for table in tables)
        except sqlite3.DatabaseError:
            return True  # another program's database


def _extract(file: Path, target: Path) -> int:
    """Extract a backup, and return its number of files. Raises RegistryError if it is damaged."""
    fault = f"{file} is no whole backup"
    expected: dict[str, str] = {}
    found: dict[str, str] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                path = PurePosixPath(member.name)
                if (
                    content is None
                    or path.is_absolute()
                    or {"..", "."} & {*path.parts, member.name}
                ):
                    raise RegistryError(
                        f"{fault}: {member.name!a} cannot be part of one. Nothing was changed."
                    )
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                with (target / path).open("wb") as copy:
                    shutil.copyfileobj(content, copy)
                    copy.flush()
                    os.fsync(copy.fileno())
                found[member.name] = disk.file_digest(target / path)
        if found.pop(SUMS, None):
            expected = checksums.read(target / SUMS)
    except (tarfile.TarError, ValueError, FileExistsError, NotADirectoryError) as error:
        raise RegistryError(f"{fault}: {first_line(error)}. Nothing was changed.") from None
    for name in sorted({*expected, *found, DATABASE}):
        if expected.get(name) != found.get(name) or name not in found:
            raise RegistryError(f"{fault}: {name} is damaged or missing. Nothing was changed.")
    return len(found)


def restore_records(root: Path, tell: Tell) -> None:
    """Put back versions and decisions that the database of the checkout `root` lacks.

    A database that is missing, empty or damaged is made anew; a damaged one is moved into the
    quarantine. Raises RegistryError if there is no record.
    """
    records = _local(root)
    database = records.database
    known = records.all()
    if not known:
        raise RegistryError(
            f"{records.folder} has no records of versions. Run `latentworks restore FILE` with a "
            "file of `latentworks backup`."
        )
    intact, damaged = [], []
    for record in known:
        try:
            record.read()
            intact.append(record)
        except ValueError as damage:
            damaged.append(f"the record of {record} {damage}: it was left out ({record.path})")
    if not intact:
        raise RegistryError(f"All records in {records.folder} are damaged. Nothing was changed.")
    if database.exists() and (not database.stat().st_size or local_store.damage(database)):
        _set_aside(root, _with_sidecars(database), tell)
    if database.exists():
        lacking = [record for record in intact if records.lacks(record)]
        # The standing of all versions of these models, and the aliases, follow the records.
        names = {record.name for record in lacking}
        back = [each for each in intact if each.name in names and not records.deleted(each)]
        records.put_back(back, standing=True)
    else:
        lacking = intact
        local_store.make(database, lambda made: Records(made).put_back(intact))
    for line in damaged:
        tell(line)
    for name in sorted({record.name for record in lacking}):
        kinds = [record.kind for record in lacking if record.name == name]
        versions, decisions = (kinds.count(kind) for kind in ("version", "decision"))
        tell(f"{name}: {count(versions, 'version')} and {count(decisions, 'decision')} are back")
    if lacking:
        tell("Run `latentworks verify`, then `latentworks sync`, which writes this result's run.")
    elif not damaged:
        tell(f"{database} lacks none of the versions and decisions on record.")


def _local(root: Path) -> Records:
    uri = tracking_uri(root)
    records = Records.at(uri)
    if records is None:
        raise RegistryError(
            f"MLflow at {without_password(uri)} keeps its database itself: back it up and restore "
            "it there. See docs/deployment.md."
        )
    return records
