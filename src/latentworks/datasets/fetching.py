"""Files from the network, taken from the first mirror that serves the content that is pinned.

A mirror is never trusted: not its lengths, its dates or its compression, but only the size and
the SHA-256 of what its gzipped files decompress to.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import requests
import urllib3
from tqdm import tqdm

from latentworks.errors import DataError

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


def fetch(
    files: Sequence[PinnedFile], mirrors: Sequence[Mirror], downloads: Path, folder: Path
) -> list[str]:
    """Bring all files into `folder`. `downloads` keeps what is incomplete for another try.

    Returns what became of each mirror that was asked. Raises DataError where none could serve.
    """
    outcomes: list[str] = []
    downloads.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for mirror in mirrors:
        try:
            mirror.fetch(files, downloads, folder)
        except MirrorError as error:
            outcomes.append(f"{mirror} failed ({error})")
        else:
            shutil.rmtree(downloads)
            return [*outcomes, f"{mirror} served"]
    raise DataError(
        f"no mirror could serve {files[0].name} and the files with it: {'; '.join(outcomes)}. "
        "Check the network and run it again, which goes on where it stopped."
    )


# --- decompression -------------------------------------------------------------------------------


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


# --- mirrors -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HTTPMirror:
    """A web server. A download that breaks is resumed, by this process or a later one."""

    url: str  # of the folder, with a slash at its end
    connect_timeout: float = 5  # seconds
    read_timeout: float = 15  # seconds of silence
    attempts: int = 4  # for each file
    backoff: float = 0.5  # seconds before the second attempt; doubled before each further one

    def __str__(self) -> str:
        return self.url

    def fetch(self, files: Sequence[PinnedFile], downloads: Path, folder: Path) -> None:
        for file in files:
            self._fetch(file, downloads / self._partial_name(file), folder / file.name)

    def _partial_name(self, file: PinnedFile) -> str:
        """Names the mirror too: the rest of a file can only come from where it began."""
        return f"{hashlib.sha256(self.url.encode()).hexdigest()[:12]}-{file.name}.gz"

    def _fetch(self, file: PinnedFile, partial: Path, target: Path) -> None:
        """Whether a download is complete is told by its content, whatever the server says."""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
            resumed = partial.exists()
            failure = self._download(file, partial)
            try:
                decompress(partial, target, file)
                return
            except MismatchError as error:
                partial.unlink()
                failure = str(error)
                if not resumed:  # the file itself is another one
                    break
            except (IncompleteError, FileNotFoundError) as error:
                failure = failure or str(error)
        raise MirrorError(failure)

    def _download(self, file: PinnedFile, partial: Path) -> str | None:
        """Download what is missing of `partial`. Returns what went wrong, for another attempt."""
        try:
            with requests.get(
                self.url + file.name + ".gz",
                headers=_resume_headers(partial),
                stream=True,
                timeout=(self.connect_timeout, self.read_timeout),
            ) as response:
                if response.status_code == requests.codes.requested_range_not_satisfiable:
                    partial.unlink()  # it was longer than the file now is
                    return "the file has changed"
                if 400 <= response.status_code < 500:
                    raise MirrorError(f"HTTP status {response.status_code}")
                response.raise_for_status()
                _append(response, partial, limit=file.size + CHUNK_BYTES)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return _reason(error)
        return None


def _validator(partial: Path) -> Path:
    """The file that says to which version of the server's file the part belongs."""
    return partial.with_suffix(".validator")


def _resume_headers(partial: Path) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if partial.exists() and partial.stat().st_size > 0:
        headers["Range"] = f"bytes={partial.stat().st_size}-"
        if _validator(partial).exists():
            headers["If-Range"] = _validator(partial).read_text()  # changed: the whole file comes
    return headers


def _append(response: requests.Response, partial: Path, limit: int) -> None:
    """Write the body behind what `partial` has, or over it where the server begins at the start."""
    start = 0
    if response.status_code == requests.codes.partial_content:
        start = partial.stat().st_size
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            partial.unlink()
            raise requests.RequestException("another range was sent than was asked for")
    else:
        partial.unlink(missing_ok=True)
        _remember_version(response.headers, _validator(partial))
    total = response.headers.get("Content-Length", "")
    with (
        partial.open("ab") as sink,
        tqdm(
            desc=partial.name.partition("-")[2],
            initial=start,
            total=start + int(total) if total.isdigit() else None,
            unit="B",
            unit_scale=True,
            disable=None,  # on a terminal only
        ) as progress,
    ):
        for chunk in response.raw.stream(CHUNK_BYTES // 16, decode_content=False):
            sink.write(chunk)
            progress.update(len(chunk))
            if sink.tell() > limit:
                break


def _remember_version(headers: Mapping[str, str], path: Path) -> None:
    """Keep what If-Range may hold: a strong ETag or else a date."""
    etag = headers.get("ETag", "")
    version = etag if etag.startswith('"') else headers.get("Last-Modified")
    if version:
        path.write_text(version)
    else:
        path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """What happened, without the layers in which requests and urllib3 wrap it."""
    inner = getattr(error, "reason", None) or next(iter(error.args), None)
    if isinstance(inner, Exception):
        return _reason(inner)
    return re.sub(r"^\S*HTTPS?Connection.*?[)>]: ", "", str(error)).rstrip(".")


@dataclass(frozen=True)
class DebianMirror:
    """A package of the Debian or Ubuntu that this machine runs; needs no rights on it."""

    package: str
    folder: str  # where the package has the files
    timeout: float = 300  # seconds for each command

    def __str__(self) -> str:
        return f"Debian's package {self.package}"

    def fetch(self, files: Sequence[PinnedFile], downloads: Path, folder: Path) -> None:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise MirrorError("there is no apt-get on this machine")
        with tempfile.TemporaryDirectory(dir=downloads) as temporary:
            unpacked = self._unpack(Path(temporary).resolve())
            for file in files:
                gzipped = unpacked / self.folder / f"{file.name}.gz"
                try:
                    decompress(gzipped, folder / file.name, file)
                except (IncompleteError, MismatchError) as error:
                    raise MirrorError(str(error)) from None
                except FileNotFoundError:
                    raise MirrorError(f"it has no {self.folder}/{gzipped.name}") from None

    def _unpack(self, folder: Path) -> Path:
        """apt checks the archive's signature and the package's hash, in a state of its own."""
        (folder / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        apt = ["apt-get", "--quiet=2", *_options(folder)]
        self._run([*apt, "update"], folder, check=False)  # some other archive may be out of order
        self._run([*apt, "download", self.package], folder)
        package = next(folder.glob("*.deb"))
        self._run(["dpkg-deb", "-x", package.name, "unpacked"], folder)
        return folder / "unpacked"

    def _run(self, command: list[str], folder: Path, check: bool = True) -> None:
        try:
            subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self.timeout,
                check=check,
            )
        except subprocess.TimeoutExpired:
            raise MirrorError(f"{command[0]} took over {self.timeout:.0f} seconds") from None
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines()
            raise MirrorError(lines[-1] if lines else f"{command[0]} failed") from None


def _options(folder: Path) -> Iterator[str]:
    for option in (
        f"Dir::State={folder}",
        f"Dir::Cache={folder / 'cache'}",
        "Debug::NoLocking=true",
        "APT::Sandbox::User=root",  # the folder belongs to whoever runs this
        "Acquire::Languages=none",
        "Acquire::Retries=1",
        "Acquire::http::Timeout=15",
        "Acquire::https::Timeout=15",
    ):
        yield from ("-o", option)
