"""The stage `fetch` downloads from a real HTTP server that fails as real servers do."""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from latentworks.datasets import emoji, fashion_mnist
from latentworks.datasets.debian_mirror import DebianMirror
from latentworks.datasets.fetching import fetch
from latentworks.datasets.http_mirror import HTTPMirror
from latentworks.datasets.pinned import Mirror, PinnedFile
from latentworks.errors import DataError
from latentworks.stages import prepare
from latentworks.stages.fetch import main
from latentworks.system.disk import file_digest

CONTENT = np.random.default_rng(0).integers(0, 200, 300_000, dtype=np.uint8).tobytes()
FILE = PinnedFile("noise", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
GZIPPED = gzip.compress(CONTENT, mtime=0)
HALF = len(GZIPPED) // 2

DOWNLOADS, FOLDER = Path("downloads"), Path("folder")


@dataclass
class Request:
    """A request that the server received."""

    path: str
    offset: int  # first byte of its Range; 0 without a Range
    if_range: str | None


@dataclass
class Answer:
    """The server's behaviour for a single request."""

    status: int = 200
    body: bytes = GZIPPED  # of the complete file
    etag: str | None = '"1"'
    ranges: bool = True  # True if the server honours Range
    skew: int = 0  # bytes from the requested start to the start that is sent
    length: int = 0  # error of Content-Length, in bytes
    stop_after: int | None = None  # bytes sent before the server closes the connection
    silent: bool = False


@dataclass
class Server:
    """A local HTTP server. Each request takes the next answer; the last answer repeats."""

    url: str = ""
    answers: list[Answer] = field(default_factory=lambda: [Answer()])
    requests: list[Request] = field(default_factory=list)
    silence: threading.Event = field(default_factory=threading.Event)  # a silent answer began
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def offsets(self) -> list[int]:
        """The first byte that each request asked for."""
        return [request.offset for request in self.requests]

    def mirror(self) -> HTTPMirror:
        return HTTPMirror(self.url, connect_timeout=5, read_timeout=0.3, backoff=0)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        offset = re.match(r"bytes=(\d+)-$", handler.headers.get("Range", ""))
        if_range = handler.headers.get("If-Range")
        request = Request(handler.path, int(offset[1]) if offset else 0, if_range)
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.silent:
            self.silence.set()
            self.closing.wait()
            return
        start = request.offset if answer.ranges and if_range in (None, answer.etag) else 0
        status = answer.status
        if status == 200 and start >= len(answer.body):
            status, start = 416, len(answer.body)
        elif status == 200 and start:
            status, start = 206, start + answer.skew
        body = answer.body[start:]
        handler.send_response(status)
        if status == 206:
            end = f"{len(answer.body) - 1}/{len(answer.body)}"
            handler.send_header("Content-Range", f"bytes {start}-{end}")
        if answer.etag:
            handler.send_header("ETag", answer.etag)
        handler.send_header("Content-Length", str(len(body) + answer.length))
        handler.end_headers()
        handler.wfile.write(body[: answer.stop_after])


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.handle(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}/data/"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        http.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fetch_from(*mirrors: HTTPMirror) -> list[str]:
    return fetch([FILE], mirrors, DOWNLOADS, FOLDER)


def assert_fetched() -> None:
    assert (FOLDER / "noise").read_bytes() == CONTENT
    assert not DOWNLOADS.exists()


# --- one server ----------------------------------------------------------------------------------


def test_a_file_is_fetched_with_a_single_request(server: Server) -> None:
    assert fetch_from(server.mirror()) == [f"{server.url} served"]
    assert_fetched()
    assert server.requests == [Request("/data/noise.gz", 0, None)]


def test_fetch_resumes_after_a_broken_connection(server: Server) -> None:
    server.answers = [Answer(stop_after=HALF), Answer()]
    fetch_from(server.mirror())
    assert_fetched()
    assert server.requests[1:] == [Request("/data/noise.gz", HALF, '"1"')]


def test_a_second_fetch_resumes_a_failed_download(server: Server) -> None:
    server.answers = [Answer(stop_after=HALF), *[Answer(status=503, body=b"")] * 3, Answer()]
    with pytest.raises(DataError, match="503 Server Error"):
        fetch_from(server.mirror())
    fetch_from(server.mirror())
    assert_fetched()
    assert server.offsets == [0, HALF, HALF, HALF, HALF]


KILLED_FETCH = """
import sys
from pathlib import Path
from latentworks.datasets.fetching import fetch
from latentworks.datasets.http_mirror import HTTPMirror
from latentworks.datasets.pinned import Mirror, PinnedFile

url, name, size, sha256 = sys.argv[1:]
fetch([PinnedFile(name, int(size), sha256)], [HTTPMirror(url)], Path("downloads"), Path("folder"))
"""


def test_a_second_fetch_resumes_the_download_of_a_killed_fetch(server: Server) -> None:
    server.answers = [Answer(stop_after=HALF), Answer(silent=True), Answer()]
    fetching = subprocess.Popen(
        [sys.executable, "-c", KILLED_FETCH, server.url, FILE.name, str(FILE.size), FILE.sha256],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert server.silence.wait(60)
    fetching.kill()
    fetching.wait()
    fetch_from(server.mirror())
    assert_fetched()
    assert server.offsets == [0, HALF, HALF]


def test_fetch_succeeds_if_the_server_ignores_range(server: Server) -> None:
    server.answers = [Answer(stop_after=HALF), Answer(ranges=False)]
    fetch_from(server.mirror())
    assert_fetched()
    assert server.offsets == [0, HALF]


def test_a_file_that_changes_between_attempts_is_fetched_anew(server: Server) -> None:
    old = gzip.compress(CONTENT[::-1])
    server.answers = [Answer(body=old, etag='"0"', stop_after=HALF), Answer()]
    fetch_from(server.mirror())
    assert_fetched()
    assert server.requests[1:] == [Request("/data/noise.gz", HALF, '"0"')]


@pytest.mark.parametrize(
    "old",
    [gzip.compress(CONTENT[::-1], compresslevel=1), gzip.compress(CONTENT, compresslevel=0)],
    ids=["shorter than the new one", "longer"],
)
def test_a_changed_file_without_etag_is_fetched_anew(old: bytes, server: Server) -> None:
    stop_after = HALF if len(old) <= len(GZIPPED) else len(old) - 100
    cut = Answer(body=old, etag=None, stop_after=stop_after)
    server.answers = [cut, Answer(etag=None)]
    fetch_from(server.mirror())
    assert_fetched()
    assert server.offsets == [0, stop_after, 0]


def test_fetch_starts_again_if_the_server_sends_the_wrong_range(server: Server) -> None:
    server.answers = [Answer(stop_after=HALF), Answer(skew=-7), Answer()]
    fetch_from(server.mirror())
    assert_fetched()
    assert server.offsets == [0, HALF, 0]


@pytest.mark.parametrize(("length", "offsets"), [(-1000, [0, len(GZIPPED) - 1000]), (1000, [0])])
def test_fetch_succeeds_despite_a_wrong_content_length(
    length: int, offsets: list[int], server: Server
) -> None:
    server.answers = [Answer(length=length), Answer()]
    fetch_from(server.mirror())
    assert_fetched()
    assert server.offsets == offsets


def test_fetch_gives_up_on_a_silent_server_after_its_attempts(server: Server) -> None:
    server.answers = [Answer(silent=True)]
    with pytest.raises(DataError, match="Read timed out"):
        fetch_from(server.mirror())
    assert len(server.requests) == server.mirror().attempts


def test_fetch_requests_a_missing_file_only_once(server: Server) -> None:
    server.answers = [Answer(status=404, body=b"no such file")]
    with pytest.raises(DataError, match="HTTP status 404"):
        fetch_from(server.mirror())
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>Sign in to this network, please</html>", "not valid gzip"),
        (gzip.compress(CONTENT[:-1]), "noise has SHA-256 .* expected"),
        (gzip.compress(bytes(30 << 20)), f"noise is larger than {len(CONTENT)} bytes"),
        (GZIPPED[:-6] + b"x" + GZIPPED[-5:], "not valid gzip: CRC check failed"),
        (os.urandom(3 << 20), "not valid gzip"),
    ],
)
def test_fetch_refuses_unexpected_content_without_a_retry(
    body: bytes, message: str, server: Server
) -> None:
    server.answers = [Answer(body=body)]
    with pytest.raises(DataError, match=message):
        fetch_from(server.mirror())
    assert len(server.requests) == 1


# --- several mirrors -----------------------------------------------------------------------------


def test_fetch_tries_the_next_mirror_after_a_failed_one(server: Server) -> None:
    nobody = HTTPMirror("http://127.0.0.1:1/", backoff=0)
    unknown = HTTPMirror("http://mirror.invalid/", backoff=0)
    first, second, third = fetch_from(nobody, unknown, server.mirror())
    assert re.fullmatch(r"http://127.0.0.1:1/ failed \(.*Connection refused\)", first)
    assert re.fullmatch(r"http://mirror.invalid/ failed \(Failed to resolve .*\)", second)
    assert third == f"{server.url} served"
    assert_fetched()


def test_the_error_names_every_mirror_if_all_fail(server: Server) -> None:
    server.answers = [Answer(status=403)]
    nobody = HTTPMirror("http://127.0.0.1:1/", backoff=0)
    with pytest.raises(
        DataError, match=r"refused\); http:.*/data/ failed \(HTTP status 403\)"
    ) as e:
        fetch_from(nobody, server.mirror())
    assert "\n" not in str(e.value)


# --- the stage -----------------------------------------------------------------------------------


def write_params(kind: str, path: str) -> None:
    Path("params.yaml").write_text(json.dumps({"dataset": {"kind": kind, "path": path}}))


def of_fashion_mnist(*mirrors: Mirror) -> Callable[[Path, Path], list[str]]:
    """The download of Fashion-MNIST from these mirrors."""
    return partial(fashion_mnist.download, mirrors=mirrors)


def test_fetch_leaves_the_users_own_images_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    write_params("image_folder", "mine")
    main(Path("data/raw"))
    source = json.loads(Path("data/raw/source.json").read_text())
    assert source == {"kind": "image_folder", "files": {}}
    assert capsys.readouterr().out == "fetch: your own images stay at mine: nothing to fetch\n"


def test_a_missing_dataset_path_ends_in_one_line_and_exit_code_3() -> None:
    write_params("image_folder", "mine")
    finished = subprocess.run(
        [sys.executable, "-m", "latentworks.stages", "fetch", "data/raw"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 3
    assert finished.stderr.count("\n") == 1
    assert "mine: no such file or folder" in finished.stderr
    assert not Path("data").exists()


def test_fetch_refuses_user_images_in_the_folder_that_it_replaces() -> None:
    Path("data/raw/mine").mkdir(parents=True)
    write_params("image_folder", "data/raw/mine")
    with pytest.raises(
        DataError, match="data/raw/mine lies in data/raw, which stage fetch replaces"
    ):
        main(Path("data/raw"))
    assert Path("data/raw/mine").is_dir()


@pytest.mark.parametrize("fetched_before", [False, True])
def test_fetch_does_not_delete_the_users_files_in_its_output_folder(
    server: Server, fetched_before: bool
) -> None:
    if fetched_before:
        Path("mine").mkdir()
        write_params("image_folder", "mine")
        main(Path("data/raw"))
    Path("data/raw/mine").mkdir(parents=True)
    Path("data/raw/mine/photo.png").write_bytes(b"precious")
    write_params("fashion_mnist", "data/raw/fashion-mnist")
    with pytest.raises(DataError, match=r"which replaces data/raw\. Move your own files"):
        main(Path("data/raw"), of_fashion_mnist(server.mirror()))
    assert Path("data/raw/mine/photo.png").read_bytes() == b"precious"


def test_fetch_replaces_the_files_that_it_wrote_and_no_others(tmp_path: Path) -> None:
    write_params("emoji", "data/raw/emoji")

    def download(folder: Path, downloads: Path) -> list[str]:
        (folder / "Food").mkdir(parents=True)
        (folder / "Food/1f34e.png").write_bytes(b"apple")
        return ["served"]

    main(Path("data/raw"), download)
    Path("data/raw/emoji/Food/1f34e.png").write_bytes(b"damaged")
    main(Path("data/raw"), download)
    assert Path("data/raw/emoji/Food/1f34e.png").read_bytes() == b"apple"
    for name in ("1f34e.png", "mine/1f34e.png", "2024-05-01.png"):
        own = Path("data/raw") / name
        own.parent.mkdir(exist_ok=True)
        own.write_bytes(b"precious")
        with pytest.raises(DataError, match=rf"{name} is not a file of stage fetch"):
            main(Path("data/raw"), download)
        own.unlink()


@pytest.mark.parametrize("kind", ["pipe", "broken link"])
def test_fetch_names_pipes_and_broken_links_that_would_block_dvc(kind: str) -> None:
    Path("mine").mkdir()
    if kind == "pipe":
        os.mkfifo("mine/entry.png")
    else:
        Path("mine/entry.png").symlink_to("nowhere")
    write_params("image_folder", "mine")
    with pytest.raises(DataError, match=r"mine/entry\.png is .*\. Remove it\."):
        main(Path("data/raw"))


def test_a_failed_fetch_leaves_no_partial_folder(server: Server) -> None:
    server.answers = [Answer(status=404)]
    write_params("fashion_mnist", "data/raw/fashion-mnist")
    with pytest.raises(DataError, match="HTTP status 404"):
        main(Path("data/raw"), of_fashion_mnist(server.mirror()))
    assert list(Path("data").iterdir()) == []


@pytest.mark.system
def test_fashion_mnist_from_debian(capsys: pytest.CaptureFixture[str]) -> None:
    write_params("fashion_mnist", "data/raw/fashion-mnist")
    nobody = HTTPMirror("http://127.0.0.1:1/", backoff=0)
    debian = DebianMirror("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist")
    main(Path("data/raw"), of_fashion_mnist(nobody, debian))
    source = json.loads(Path("data/raw/source.json").read_text())
    assert source["files"] == {file.name: file.sha256 for file in fashion_mnist.FILES}
    for name, digest in source["files"].items():
        assert file_digest(Path("data/raw/fashion-mnist") / name) == digest
    opened = fashion_mnist.load(Path("data/raw/fashion-mnist"))
    assert opened.num_items == 70_000
    assert opened.class_names[9] == "Ankle boot"
    assert "refused); Debian's package dataset-fashion-mnist served" in capsys.readouterr().out


@pytest.mark.system
@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_emoji_from_npm() -> None:
    write_params("emoji", "data/raw/emoji")
    main(Path("data/raw"))
    assert len(json.loads(Path("data/raw/source.json").read_text())["files"]) == 3786
    source = emoji.load(Path("data/raw/emoji"))
    assert source.num_items == 3786
    assert source.class_names[:3] == ("Activities", "Animals & Nature", "Component")
    prepared = {"image_size": 16, "channels": 3, "fit": "resize", "background": 255}
    shares = {"val_fraction": 0.1, "test_fraction": 0.1, "min_images": 100}
    dataset = {"kind": "emoji", "path": "data/raw/emoji"}
    Path("params.yaml").write_text(json.dumps({"dataset": dataset, "prepare": prepared | shares}))
    prepare.main(Path("data/raw"), Path("data/prepared"))
    index = pd.read_parquet("data/prepared/index.parquet")
    emoji_of = index["name"].str.replace(r"-1f3f[b-f]", "", regex=True)  # without its skin tone
    assert len(index) > emoji_of.nunique() + 1000
    assert index.groupby(emoji_of)["split"].nunique().max() == 1
    assert {*index["split"]} == {"train", "val", "test"}
    main(Path("data/raw"))  # replaces what it wrote
    (Path("data/raw/emoji/Activities") / "1f380.png").write_bytes(b"another")
    with pytest.raises(DataError, match="not the emoji of emoji-datasource-twitter"):
        emoji.load(Path("data/raw/emoji"))


def test_without_npm_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    write_params("emoji", "data/raw/emoji")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DataError, match=r"npm could not serve .*: npm is not installed\."):
        main(Path("data/raw"))
    assert not Path("data/raw").exists()
