"""A proxy of a real server that forwards calls, or makes the server seem dead, slow or failing."""

import http.client
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW = 2.0  # seconds before an answer
TRIES = 3  # calls of MLflow's client until it gives up


@dataclass
class Outage:
    """An outage that begins at a request that writes, or at once, and goes on."""

    write: float  # the number of that request, counted from 1; 0: at once; infinite: never
    is_done: bool = False  # the server carries this request out, and the client gets no answer
    num_writes: int = 0  # until now

    @property
    def began(self) -> bool:
        return self.num_writes >= self.write

    def kind(self, method: str, path: str) -> str:
        """Return how the next call fails; "sound" if it does not."""
        writes = method != "GET" and not urlsplit(path).path.endswith("/search")
        if writes and not self.began:
            self.num_writes += 1
            if self.began and self.is_done:
                return "unanswered"
        return "dead" if self.began else "sound"


class Proxy(ThreadingHTTPServer):
    """A proxy of a real server. It forwards calls, or fails as `kind` says."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.kind = "sound"
        self.pause = SLOW
        self.calls = itertools.count()
        self.asked: Counter[str] = Counter()  # the calls for each file
        self.outage: Outage | None = None  # which says the kind of each call instead
        self.released = threading.Event()  # silent calls may end
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """The handler of one call."""

    server: Proxy
    protocol_version = "HTTP/1.1"

    def handle_call(self) -> None:
        kind, number = self.server.kind, next(self.server.calls)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.outage is not None:
            kind = self.server.outage.kind(self.command, self.path)
        if kind == "dead":
            self.close_connection = True  # cut the connection without an answer
            return
        if kind == "silent":
            self.server.released.wait()
            self.close_connection = True
            return
        if kind == "dripping" or (kind == "dripping files" and "mlflow-artifacts" in self.path):
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):  # until the client has gone
                while not self.server.released.wait(0.2):
                    self.wfile.write(b" ")
            self.close_connection = True
            return
        if kind == "locked":
            self._answer(401, b"<html>Log in</html>", "text/html")
            return
        if kind == "slow":
            self.server.released.wait(self.server.pause)
        if kind == "losing files" and "mlflow-artifacts/artifacts/" in self.path:
            asked = self.server.asked
            asked[self.path] += 1
            if list(asked).index(self.path) % 2 and asked[self.path] <= TRIES:
                self._answer(500, b"no")
                return
        if kind == "refusing" and number % 2:
            self._answer(500, b"no")
            return
        upstream = self.server.upstream
        connection = http.client.HTTPConnection(str(upstream.hostname), upstream.port)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if kind == "unanswered":
            self.close_connection = True
        elif kind == "forgetting" and number % 2:  # the call was done; the client sees an error
            self._answer(500, b"no")
        else:
            self._answer(answer.status, content, answer.getheader("Content-Type", ""))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_call  # noqa: N815

    def _answer(self, status: int, content: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with suppress(OSError):  # the client may have gone
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing on the terminal of the tests."""


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    with Proxy(upstream) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
