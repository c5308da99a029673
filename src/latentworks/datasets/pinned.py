"""Files that are pinned by their content, and the mirrors that have them.

A mirror is never trusted: not its lengths, its dates or its compression, but only the size and
the SHA-256 of what its gzipped files decompress to.
"""

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 1 << 20
MIN_GZIP_BYTES = 18  # header and trailer


@dataclass(frozen=True)
class PinnedFile:
    """A file by its content, decompressed."""

    name: str
    size: int  # bytes
    sha256: str


class MirrorError(Exception):
    """This mirror cannot serve the files; another one may."""


class Mirror(Protocol):
    """A place that has the files, gzipped, under the names of the files and `.gz`."""

    def fetch(self, files: Sequence[PinnedFile], downloads: Path, folder: Path) -> None:
        """Put all files, decompressed and checked, into `folder`. Raises MirrorError."""
        ...


class IncompleteError(Exception):
    """The download ends too early; what there is of it is good."""


class MismatchError(Exception):
    """The download is not the file that was expected."""


def decompress(gzipped: Path, target: Path, file: PinnedFile) -> None:
    """Write the content of `gzipped` to `target`. Raises IncompleteError or MismatchError."""
    if gzipped.stat().st_size < MIN_GZIP_BYTES:
        raise IncompleteError(f"{file.name} is incomplete")
    digest, size = hashlib.sha256(), 0
    try:
        with gzip.open(gzipped) as source, target.open("wb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                size += len(chunk)
                if size > file.size:  # so that a gzip bomb unfolds no further
                    raise MismatchError(f"{file.name} is larger than {file.size} bytes")
                digest.update(chunk)
                sink.write(chunk)
    except EOFError:
        raise IncompleteError(f"{file.name} is incomplete") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise MismatchError(f"{file.name} is not valid gzip: {error}") from None
    if digest.hexdigest() != file.sha256:
        raise MismatchError(f"{file.name} has SHA-256 {digest.hexdigest()}, expected {file.sha256}")
