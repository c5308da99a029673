"""Connections with deadlines: for the head of a request, and for the rest of a refused body.

The answers of this module (408, 431 and 503) do not pass through the HTTP API.
"""

import asyncio
import resource
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from latentworks.server.app import HEADERS, RETRY

HEAD_TIMEOUT = 10.0  # seconds in which the head of a request must arrive
LINGER = 5.0  # seconds for the rest of a body whose request is answered already
UNREAD = 30.0  # seconds for a client to read the end of an answer, once the connection is closing
MAX_OPEN = 65_536  # open files and connections, if the system allows as many
MAX_HEAD = 65_536  # bytes
MAX_HEADERS = 100  # of one request, with those behind a chunked body
MAX_PIPELINED = 16  # requests that wait for the answer to an earlier one on their connection


def _answer(status: str, sentence: str, **more: str) -> bytes:
    body = f'{{"error":"{sentence}"}}'
    headers = {
        **more,
        "content-type": "application/json",
        "connection": "close",
        "content-length": str(len(body)),
        **HEADERS,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n{body}".encode()


TOO_SLOW = _answer(
    "408 Request Timeout",
    f"The head of the request did not arrive within {HEAD_TIMEOUT:.0f} seconds.",
)
TOO_LONG = _answer(
    "431 Request Header Fields Too Large",
    f"The head of the request is too large. Expected at most {MAX_HEAD} bytes.",
)
TOO_MANY = _answer(
    "503 Service Unavailable",
    "Too many connections from your address. Close some, or try again later.",
    **RETRY,
)


class Connection(HttpToolsProtocol):
    """A connection of uvicorn that no client can hold without a complete request.

    uvicorn alone waits without limit for a head and for the rest of a body, accepts a head of any
    size, and gives all its connections to one client.
    """

    numbers: ClassVar[Counter[str]] = Counter()  # of open connections, by the address of the client

    _address = ""  # of the client; "" before the connection is counted
    _deadline: asyncio.TimerHandle | None = None
    _in_head = True  # a head is awaited
    _has_begun = False  # in the bytes that were received last
    _num_bytes = 0  # of that head, without the bytes in which it began

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else "?"
        if self.numbers[address] >= most_per_client():
            self._refuse(TOO_MANY)
            return
        self._address = address
        self.numbers[address] += 1
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        if self._address:
            self.numbers[self._address] -= 1
            if not self.numbers[self._address]:
                del self.numbers[self._address]
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._has_begun = True
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_deadline()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many pipelined requests")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle.response_complete:
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._set_deadline(UNREAD, self.transport.abort)
        elif self.cycle.response_complete and self.cycle.more_body:
            self._set_deadline(LINGER, self._close)
        elif self.cycle.response_complete:  # uvicorn ends the connection if nothing comes
            self._in_head, self._num_bytes = True, 0

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._has_begun = False
        super().data_received(data)
        if self._in_head and not self._has_begun and not self.transport.is_closing():
            self._num_bytes += len(data)
            if self._num_bytes > MAX_HEAD:
                self._refuse(TOO_LONG)
            elif self._deadline is None:  # blank lines
                self._set_deadline(HEAD_TIMEOUT, self._too_slow)

    def _await_head(self) -> None:
        self._in_head, self._num_bytes = True, 0
        self._set_deadline(HEAD_TIMEOUT, self._too_slow)

    def _too_slow(self) -> None:
        if self.cycle and not self.cycle.response_complete:
            self._await_head()  # the previous request is still being answered
        else:
            self._refuse(TOO_SLOW)

    def _refuse(self, answer: bytes) -> None:
        if self.cycle and not self.cycle.response_complete:
            self.transport.abort()  # the answer would stand within that of the previous request
            return
        if not self.transport.is_closing():
            self.transport.write(answer)
        self._close()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._close()

    def _close(self) -> None:
        """Close the connection; after UNREAD, drop what the client has not read."""
        self.transport.close()
        self._set_deadline(UNREAD, self.transport.abort)

    def _set_deadline(self, seconds: float, action: Callable[[], None]) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(seconds, action)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def most_per_client() -> int:
    """Half of the connections that this process can have open, so that others have the rest."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (MAX_OPEN if soft == resource.RLIM_INFINITY else soft) // 2


def let_many_in() -> None:
    """Raise the limit of open files, often 1024, to MAX_OPEN or as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
