"""A mirror that takes pinned files from a Debian package."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentworks.datasets import commands
from latentworks.datasets.pinned import (
    IncompleteError,
    MirrorError,
    MismatchError,
    PinnedFile,
    decompress,
)


@dataclass(frozen=True)
class DebianMirror:
    """A package of the Debian or Ubuntu on this machine, downloaded without root rights."""

    package: str
    folder: str  # of the files in the package
    timeout: float = 300  # seconds for each command

    def __str__(self) -> str:
        return f"Debian's package {self.package}"

    def fetch(self, files: Sequence[PinnedFile], downloads: Path, folder: Path) -> None:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise MirrorError("apt-get or dpkg-deb is not installed")
        with tempfile.TemporaryDirectory(dir=downloads) as temporary:
            unpacked = self._unpack(Path(temporary).resolve())
            for file in files:
                gzipped = unpacked / self.folder / f"{file.name}.gz"
                try:
                    decompress(gzipped, folder / file.name, file)
                except (IncompleteError, MismatchError) as error:
                    raise MirrorError(str(error)) from None
                except FileNotFoundError:
                    name = f"{self.folder}/{gzipped.name}"
                    raise MirrorError(f"the package has no file {name}") from None

    def _unpack(self, folder: Path) -> Path:
        """Download and unpack the package; apt verifies the archive's signature and the hash.

        All of apt's state is kept in `folder`.
        """
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        loudness = "--quiet=0" if sys.stdout.isatty() else "--quiet=2"  # apt draws progress bars
        apt = ["apt-get", loudness, *_options(folder)]
        commands.run(
            [*apt, "update"], folder, self.timeout, check=False
        )  # an unrelated archive may fail
        commands.run([*apt, "download", self.package], folder, self.timeout)
        package = next(folder.glob("*.deb"))
        commands.run(["dpkg-deb", "-x", package.name, "unpacked"], folder, self.timeout)
        return folder / "unpacked"


def _options(folder: Path) -> Iterator[str]:
    for option in (
        f"Dir::State={folder}",
        f"Dir::Cache={folder / 'cache'}",
        "Debug::NoLocking=true",
        "APT::Sandbox::User=root",  # the folder belongs to the current user
        "Acquire::Languages=none",
        "Acquire::Retries=1",
        "Acquire::http::Timeout=15",
        "Acquire::https::Timeout=15",
    ):
        yield from ("-o", option)
