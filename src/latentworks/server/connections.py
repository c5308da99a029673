"""Connections that refuse a head which arrives too slowly (408) or is too large (431).

These two answers do not pass through the HTTP API.
"""

import asyncio
import resource

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from latentworks.server.app import HEADERS

PATIENCE = 10.0  # seconds in which the head of a request must arrive
MAX_OPEN = 65_536  # open files and connections, if the system allows as many
MAX_HEAD = 65_536  # bytes


def _answer(status: str, sentence: str) -> bytes:
    body = f'{{"error":"{sentence}"}}'
    headers = {
        "content-type": "application/json",
        "connection": "close",
        "content-length": str(len(body)),
        **HEADERS,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n{body}".encode()


TOO_SLOW = _answer(
    "408 Request Timeout", f"The head of the request did not arrive within {PATIENCE:.0f} seconds."
)
TOO_LONG = _answer(
    "431 Request Header Fields Too Large",
    f"The head of the request is too large. Expected at most {MAX_HEAD} bytes.",
)


class Connection(HttpToolsProtocol):
    """A connection of uvicorn that refuses a head which is too slow or too large.

    uvicorn alone waits for a head without limit, and accepts a head of any size.
    """

    _end: asyncio.TimerHandle | None = None  # runs while a head is awaited
    _num_bytes = 0  # of that head, so far

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._wait_no_more()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._wait_no_more()
        self._num_bytes = 0
        self._end = self.loop.call_later(PATIENCE, self._too_slow)

    def _wait_no_more(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._end is not None and not self.transport.is_closing():
            self._num_bytes += len(data)
            if self._num_bytes > MAX_HEAD:
                self._refuse(TOO_LONG)

    def _too_slow(self) -> None:
        if self.cycle and not self.cycle.response_complete:
            self._wait()  # the previous request is still being answered
        else:
            self._refuse(TOO_SLOW)

    def _refuse(self, answer: bytes) -> None:
        self._wait_no_more()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


def let_many_in() -> None:
    """Raise the limit of open files, often 1024, to MAX_OPEN or as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
