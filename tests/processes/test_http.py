"""The HTTP server among strangers: who is answered, for how long, and with how much memory."""

import asyncio
import base64
import concurrent.futures
import gzip
import io
import socket
import struct
import subprocess
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from PIL import Image

from checkouts import HANGS, Checkout, Project
from latentworks.server.app import MAX_BODY
from latentworks.server.budget import MEMORY, Budget, Overloaded, Share
from servers import closed_port, for_servers, server_of, serving, until

ORIGIN = "https://app.example.org"


@pytest.fixture(scope="module")
def url(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, with options that other tests do not need."""
    options = ("--allowed-hosts", "models.example.org,models", "--cors", ORIGIN)
    home = tmp_path_factory.mktemp("serving")
    with server_of(project.server, home, *options, "--root-path", "/ml/") as url:
        yield url


def connect(url: str, address: str = "127.0.0.1") -> socket.socket:
    """Open a connection from an address of this machine."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60, source_address=(address, 0))


def answers(connection: socket.socket, sent: bytes) -> Iterator[bytes]:
    """Send a few bytes again and again, and yield what comes; b"" once the connection is closed."""
    connection.settimeout(0.5)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            try:
                connection.sendall(sent)
                yield connection.recv(10_000)
            except ConnectionError:
                yield b""


# --- connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "num_bytes", "status"),
    [
        ("POST /nothing", 0, 404),
        ("GET /live", 0, 200),
        ("POST /decode/x", 0, 404),
        ("DELETE /decode", 0, 405),
        ("POST /decode", MAX_BODY + 1, 413),
    ],
)
def test_a_connection_is_closed_if_the_body_of_an_answered_request_does_not_end(
    url: str, request_line: str, num_bytes: int, status: int
) -> None:
    """The client sends a byte now and then, which must not renew the deadline."""
    head = f"{request_line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
    with connect(url) as connection:
        connection.sendall(head.encode() + b" " * num_bytes)
        came = answers(connection, b" ")
        assert next(came, b"").startswith(f"HTTP/1.1 {status}".encode())
        assert b"" in came


def test_blank_lines_between_requests_do_not_keep_a_connection_open(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert any(b"HTTP/1.1 408" in answer for answer in answers(connection, b"\r\n"))


def test_a_connection_serves_further_requests_after_a_refusal(url: str) -> None:
    with connect(url) as connection:
        head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000\r\n\r\n"
        connection.sendall(head)
        assert connection.recv(10_000).startswith(b"HTTP/1.1 404")
        connection.sendall(b"x" * 200_000 + b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert any(b"HTTP/1.1 200" in answer for answer in answers(connection, b""))


def test_an_upgrade_and_many_headers_do_not_take_a_connection_away(url: str) -> None:
    head = "GET /live HTTP/1.1\r\nHost: localhost\r\n"
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    with connect(url) as connection:
        connection.sendall(f"{head}{upgrade}\r\n".encode())
        assert b"" in answers(connection, b"\r\n")
    many = "".join(f"X-{number}: 1\r\n" for number in range(200))
    with connect(url) as connection:
        connection.sendall(f"{head}{many}\r\n".encode())
        assert connection.recv(10_000).startswith(b"HTTP/1.1 400")


def test_a_client_that_reads_no_answer_is_left(url: str) -> None:
    """It sends a thousand requests and reads nothing, so that the server cannot write."""
    with connect(url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1)
        deadline = time.monotonic() + 120
        with pytest.raises(ConnectionError):
            send_until(connection, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", deadline)


def send_until(connection: socket.socket, request: bytes, deadline: float) -> None:
    """Send a request again and again until the connection or the time ends."""
    while time.monotonic() < deadline:
        with suppress(TimeoutError):
            connection.sendall(request)


def test_one_address_gets_at_most_half_of_the_connections(project: Project, tmp_path: Path) -> None:
    """The server is started cold: a fork would not have the limit of open files."""
    port = closed_port()
    call = ["sh", "-c", f"ulimit -n 200; exec latentworks serve --port {port}"]
    settings = {"MLFLOW_TRACKING_URI": project.server, "LATENTWORKS_COLD": "1"}
    with serving(call, port, "/live", tmp_path, **settings) as url:
        connections = [connect(url, "127.0.0.2") for _ in range(100)]
        with connect(url, "127.0.0.2") as refused:
            answer = refused.recv(10_000)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after" in answer.lower()
            assert b"Too many connections from your address." in answer
        assert requests.get(f"{url}/live", timeout=HANGS).ok  # from another address
        for connection in connections:
            connection.close()

        def is_answered() -> bool:
            with connect(url, "127.0.0.2") as again:
                again.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return again.recv(10_000).startswith(b"HTTP/1.1 200")

        until(is_answered)


# --- memory --------------------------------------------------------------------------------------


def many_pixels(side: int, *, palette: bool = False) -> bytes:
    """A PNG of a few kB with `side` rows and columns of black pixels of one bit."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 3 * palette, 0, 0, 0))
    header += chunk(b"PLTE", bytes(6)) if palette else b""
    rows = chunk(b"IDAT", zlib.compress(bytes(side * (1 + (side + 7) // 8)), 9))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


def process_of(url: str) -> psutil.Process:
    port = int(url.rpartition(":")[2])
    (pid,) = {
        each.pid
        for each in psutil.net_connections("tcp4")
        if each.status == psutil.CONN_LISTEN and each.laddr.port == port
    }
    return psutil.Process(pid)


def peak(pid: int) -> int:
    """The largest number of bytes that a process had in memory since its peak was reset."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


PICTURE = many_pixels(7000)
PALETTE = many_pixels(7000, palette=True)
LISTS = b'{"inputs":[' + b"[]," * 5_000_000 + b"[]]}"
OBJECTS = b'{"inputs":[' + b'{"":0},' * 2_200_000 + b"0]}"
ALL = b'{"num":10000,"seed":0}'


FLOODS = {  # requests that are sent together
    "pictures": [("encode", PICTURE)] * 40,
    "palettes": [("encode", PALETTE)] * 20,
    "lists": [("encode", LISTS)] * 6,
    "objects": [("encode", OBJECTS)] * 6,
    "samples": [("sample", ALL)] * 40,
}
FLOODS["all kinds"] = [same[0] for same in FLOODS.values()] * 5


def flood(url: str, sent: list[tuple[str, bytes]]) -> Counter[int]:
    """Send requests, all at once, and count the statuses of their answers."""

    def ask(verb: str, body: bytes) -> int:
        answer = requests.post(f"{url}/{verb}", data=body, timeout=120)
        if answer.status_code == 503:
            assert answer.headers["Retry-After"] == "1"
        return answer.status_code

    with concurrent.futures.ThreadPoolExecutor(len(sent)) as pool:
        return Counter(pool.map(ask, *zip(*sent, strict=True)))


class Probe:
    """Asks /live about twenty times a second, as long as its block lasts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seconds: list[float] = []  # that each answer took
        self.statuses: Counter[int] = Counter()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Probe":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def __str__(self) -> str:
        median, most = np.percentile(self.seconds or [np.inf], [50, 95]) * 1e3
        return f"/live: {len(self.seconds)} times, median {median:.0f} ms, 95 % in {most:.0f} ms"

    def _ask(self) -> None:
        with requests.Session() as session:
            while not self.over.wait(0.05):
                began = time.monotonic()
                try:
                    status = session.get(f"{self.url}/live", timeout=60).status_code
                except requests.RequestException:
                    status = 0
                self.statuses[status] += 1
                self.seconds.append(time.monotonic() - began)


@pytest.mark.parametrize("kind", FLOODS)
def test_memory_is_bounded_and_given_back(url: str, kind: str) -> None:
    process = process_of(url)
    assert requests.post(f"{url}/sample", json={"num": 1}, timeout=60).ok
    resting = process.memory_info().rss
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # resets the peak
    with Probe(url) as probe:
        counts = flood(url, FLOODS[kind])
    print(f"{kind}: {counts}, {resting / 1e6:.0f} MB, then {peak(process.pid) / 1e6:.0f} MB")
    print(probe)
    assert set(probe.statuses) == {200}
    assert set(counts) <= {200, 422, 503}, counts
    assert counts[200] + counts[422] >= 1, counts
    assert peak(process.pid) <= 2.5 * resting + MEMORY
    until(lambda: process.memory_info().rss < 1.5 * resting)


def test_a_request_alone_gets_what_it_claims_and_others_are_told_to_wait() -> None:
    budget = Budget(100)
    first, second = Share(budget), Share(budget)
    first.claim(60)
    first.claim(80)
    with pytest.raises(Overloaded):
        second.claim(1)
    first.close()
    second.claim(100)
    with pytest.raises(Overloaded):
        first.claim(1)
    second.close()
    assert budget.claimed == 0


def test_the_oldest_of_requests_that_block_each_other_waits_and_is_answered() -> None:
    """Each of four holds a part of the memory, and needs more than the others leave."""
    budget = Budget(100)
    turns: list[int] = []

    async def request(number: int) -> None:
        share = Share(budget)

        async def claim(num_bytes: int) -> None:
            share.claim(num_bytes)

        await share.in_turn(claim, 25)
        await asyncio.sleep(0)  # until each holds its part
        try:
            await share.in_turn(claim, 60)
            turns.append(number)
        finally:
            share.close()

    async def all_at_once() -> list[BaseException | None]:
        return await asyncio.gather(*map(request, range(4)), return_exceptions=True)

    answers = asyncio.run(all_at_once())
    assert turns == [0]
    assert [type(answer) for answer in answers] == [type(None), *[Overloaded] * 3]
    assert budget.claimed == 0
    assert not budget.shares


# --- hosts, origins and proxies ------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1@evil", ""]
)
def test_a_request_for_another_host_is_refused(url: str, host: str) -> None:
    """A page of another site, whose name leads to this server, cannot read its answers."""
    answer = requests.get(f"{url}/version", headers={"Host": host}, timeout=HANGS)
    assert answer.status_code == 421
    assert "--allowed-hosts" in answer.json()["error"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000", "models:80"]
)
def test_names_of_the_server_and_ip_addresses_are_answered(url: str, host: str) -> None:
    assert requests.get(f"{url}/live", headers={"Host": host}, timeout=HANGS).ok


def test_pages_of_the_given_origin_alone_may_read_answers(url: str) -> None:
    allowed = "Access-Control-Allow-Origin"
    preflight = {"Access-Control-Request-Method": "POST"}
    for origin, expected in ((ORIGIN, ORIGIN), ("https://evil.example", None)):
        asked = requests.post(
            f"{url}/sample", json={"num": 1}, headers={"Origin": origin}, timeout=HANGS
        )
        assert asked.headers.get(allowed) == expected
        headers = {"Origin": origin, **preflight}
        asked = requests.options(f"{url}/sample", headers=headers, timeout=HANGS)
        assert asked.headers.get(allowed) == expected


def test_redirects_are_relative_and_get_has_head(url: str) -> None:
    answer = requests.get(f"{url}/docs/", allow_redirects=False, timeout=HANGS)
    assert (answer.status_code, answer.headers["Location"]) == (307, "../docs")
    assert requests.get(f"{url}/docs/", timeout=HANGS).ok
    for path in ("/live", "/ready", "/version", "/metrics", "/", "/docs", "/sample?num=1"):
        got = requests.get(f"{url}{path}", timeout=HANGS)
        head = requests.head(f"{url}{path}", timeout=HANGS)
        assert head.status_code == got.status_code == 200, path
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        assert not head.content


def test_pages_cannot_be_framed_and_load_only_their_own_scripts(url: str) -> None:
    for path in ("/", "/docs"):
        headers = requests.get(f"{url}{path}", timeout=HANGS).headers
        assert headers["X-Frame-Options"] == "DENY"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_an_ipv6_address_is_printed_as_a_link(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    uri = f"sqlite:///{tmp_path / 'empty.db'}"
    with subprocess.Popen(
        ["latentworks", "serve", "--host", "::1", "--port", "0"],
        cwd=tmp_path,
        env=for_servers(MLFLOW_TRACKING_URI=uri),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split()[0]
        process.terminate()
    assert address.startswith("http://[::1]:")


def test_in_a_sub_folder_of_a_checkout_the_server_uses_its_store(
    untouched: Checkout, tmp_path: Path
) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    with subprocess.Popen(
        ["latentworks", "serve", "--port", "0"],
        cwd=checkout.path / "src",
        env=for_servers(),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.terminate()
    assert said.endswith(f" of sqlite:///{checkout.path}/mlflow.db\n")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--cors", "https://example.org/app", "--cors takes an origin, such as"),
        ("--allowed-hosts", "models:8000", "--allowed-hosts takes names without a port"),
        ("--root-path", "ml", "--root-path takes a path, such as /ml"),
    ],
)
def test_an_option_with_a_wrong_value_is_refused(
    tmp_path: Path, option: str, value: str, said: str
) -> None:
    call = ["latentworks", "serve", option, value]
    done = subprocess.run(call, cwd=tmp_path, env=for_servers(), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert f"Received: {value!r}." in done.stderr


def test_refusals_at_invocations_are_those_of_mlflow_behind_a_proxy_too(url: str) -> None:
    answer = requests.post(f"{url}/invocations", json={"instances": [], "x": 1}, timeout=HANGS)
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "BAD_REQUEST"


# --- bodies --------------------------------------------------------------------------------------


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), 99).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "headers", "named"),
    [
        (picture("GIF"), {}, "a GIF picture"),
        (picture("BMP"), {}, "a BMP picture"),
        (picture("TIFF"), {}, "a TIFF picture"),
        (gzip.compress(b'{"num": 1}', mtime=0), {}, "compressed by gzip"),
        (b"\x00\x01", {"Content-Encoding": "br"}, "compressed by br"),
        (b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}, "a form (multipart)"),
    ],
    ids=["gif", "bmp", "tiff", "gzip", "brotli", "form"],
)
def test_a_body_in_another_format_is_refused_by_its_name(
    url: str, body: bytes, headers: dict[str, str], named: str
) -> None:
    for verb in ("encode", "invocations"):
        answer = requests.post(f"{url}/{verb}", data=body, headers=headers, timeout=HANGS)
        assert answer.status_code == 415
        assert f"The body is {named}. Expected JSON" in answer.text


def test_base64_is_read_with_line_breaks_and_as_b64(url: str) -> None:
    def encoded(inputs: Any) -> Any:
        answer = requests.post(f"{url}/encode", json={"inputs": inputs}, timeout=HANGS)
        assert answer.ok, answer.text
        return answer.json()["outputs"]

    text = base64.b64encode(picture("PNG")).decode()
    broken = base64.encodebytes(picture("PNG")).decode()
    assert "\n" in broken.strip()
    latents = encoded([text])
    for inputs in ([broken], [{"b64": text}], {"b64": broken}, text):
        assert encoded(inputs) == latents
