"""Files pinned by their content, and the interface of the mirrors that serve them.

Lengths, dates and compression that a mirror reports are not trusted. A file is accepted by the
size and the SHA-256 of its decompressed content alone.
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
    """A file identified by its decompressed content."""

    name: str
    size: int  # bytes
    sha256: str


class MirrorError(Exception):
    """A mirror cannot serve the files; another mirror may."""


class Mirror(Protocol):
    """A source of the gzipped files, each named as the file with `.gz` appended."""

    def fetch(self, files: Sequence[PinnedFile], downloads: Path, folder: Path) -> None:
        """Write all files, decompressed and verified, to `folder`. Raises MirrorError."""
        ...


class IncompleteError(Exception):
    """A download ends too early; its bytes so far are valid."""


class MismatchError(Exception):
    """A download is not the pinned file."""


def decompress(gzipped: Path, target: Path, file: PinnedFile) -> None:
    """Write the content of `gzipped` to `target`. Raises IncompleteError or MismatchError."""
    if gzipped.stat().st_size < MIN_GZIP_BYTES:
        raise IncompleteError(f"{file.name} is incomplete")
    digest, size = hashlib.sha256(), 0
    try:
        with gzip.open(gzipped) as source, target.open("wb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                size += len(chunk)
                if size > file.size:  # stops a gzip bomb
                    raise MismatchError(f"{file.name} is larger than {file.size} bytes")
                digest.update(chunk)
                sink.write(chunk)
    except EOFError:
        raise IncompleteError(f"{file.name} is incomplete") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise MismatchError(f"{file.name} is not valid gzip: {error}") from None
    if digest.hexdigest() != file.sha256:
        raise MismatchError(f"{file.name} has SHA-256 {digest.hexdigest()}, expected {file.sha256}")
