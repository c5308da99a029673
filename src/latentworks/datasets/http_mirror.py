"""A mirror that downloads pinned files from a web server."""

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from latentworks.datasets.pinned import (
    CHUNK_BYTES,
    IncompleteError,
    MirrorError,
    MismatchError,
    PinnedFile,
    decompress,
)


@dataclass(frozen=True)
class HTTPMirror:
    """A web server. An interrupted download is resumed, by this process or a later one."""

    url: str  # of the folder, with a trailing slash
    connect_timeout: float = 5  # seconds
    read_timeout: float = 15  # seconds of silence
    attempts: int = 4  # for each file
    backoff: float = 0.5  # seconds before the second attempt, then doubled each time

    def __str__(self) -> str:
        return self.url

    def fetch(self, files: Sequence[PinnedFile], downloads: Path, folder: Path) -> None:
        for file in files:
            self._fetch(file, downloads / self._partial_name(file), folder / file.name)

    def _partial_name(self, file: PinnedFile) -> str:
        """Name a partial download by mirror and file: only the same mirror can resume it."""
        return f"{hashlib.sha256(self.url.encode()).hexdigest()[:12]}-{file.name}.gz"

    def _fetch(self, file: PinnedFile, partial: Path, target: Path) -> None:
        """Download and decompress a file. Its content, not the server, tells if it is complete."""
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
                if not resumed:  # the whole file came from the server, and differs
                    break
            except (IncompleteError, FileNotFoundError) as error:
                failure = failure or str(error)
        raise MirrorError(failure)

    def _download(self, file: PinnedFile, partial: Path) -> str | None:
        """Download the missing rest of `partial`. Returns the fault if it is worth a retry."""
        try:
            with requests.get(
                self.url + file.name + ".gz",
                headers=_resume_headers(partial),
                stream=True,
                timeout=(self.connect_timeout, self.read_timeout),
            ) as response:
                if response.status_code == requests.codes.requested_range_not_satisfiable:
                    partial.unlink()  # longer than the server's file is now
                    return "the file on the server has changed"
                if 400 <= response.status_code < 500:
                    raise MirrorError(f"HTTP status {response.status_code}")
                response.raise_for_status()
                _append(response, partial, limit=file.size + CHUNK_BYTES)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return _reason(error)
        return None


def _validator(partial: Path) -> Path:
    """Path of the note that holds the server's ETag or date for a partial download."""
    return partial.with_suffix(".validator")


def _resume_headers(partial: Path) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if partial.exists() and partial.stat().st_size > 0:
        headers["Range"] = f"bytes={partial.stat().st_size}-"
        if _validator(partial).exists():
            # If the file has changed, the server sends the whole of it.
            headers["If-Range"] = _validator(partial).read_text()
    return headers


def _append(response: requests.Response, partial: Path, limit: int) -> None:
    """Append the body to `partial`, or replace `partial` if the server sent the whole file."""
    start = 0
    if response.status_code == requests.codes.partial_content:
        start = partial.stat().st_size
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            partial.unlink()
            raise requests.RequestException("the server sent another range than the one requested")
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
    """Save the value for If-Range: a strong ETag, or else the date."""
    etag = headers.get("ETag", "")
    version = etag if etag.startswith('"') else headers.get("Last-Modified")
    if version:
        path.write_text(version)
    else:
        path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Return the text of the innermost error, which requests and urllib3 wrap in others."""
    inner = getattr(error, "reason", None) or next(iter(error.args), None)
    if isinstance(inner, Exception):
        return _reason(inner)
    return re.sub(r"^\S*HTTPS?Connection.*?[)>]: ", "", str(error)).rstrip(".")
