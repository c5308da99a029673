"""Clients of an HTTP server that use little of the machine that they share with it."""

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

WARM = 0.5  # seconds of warm-up, not counted
PATIENCE = 60.0  # seconds to wait for the last answers
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Call:
    """The bytes of a request, and the number of commas expected in the body of its answer."""

    request: bytes
    commas: int

    @classmethod
    def of(cls, path: str, body: Any, commas: int) -> "Call":
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return cls(
            b"%sContent-Length: %d\r\n\r\n%s" % (head.encode(), len(content), content), commas
        )


class Load:
    """A call that many connections repeat, and the durations and failures of its answers."""

    def __init__(self, call: Call, *, again: bool) -> None:
        """With `again`, a connection sends the next request as soon as it has its answer."""
        self.call, self.again = call, again
        self.idle: deque[Connection] = deque()
        self.due: deque[float] = deque()  # moments of requests that wait for an idle connection
        self.seconds: list[float] = []  # duration of each good answer
        self.failed = 0
        self.num_open = 0

    def ask(self, due: float) -> None:
        if self.idle:
            self.idle.popleft().send(due)
        else:
            self.due.append(due)

    def answered(self, connection: "Connection", is_good: bool) -> None:
        now = time.perf_counter()
        if is_good:
            self.seconds.append(now - connection.due)
        self.failed += not is_good
        self.idle.append(connection)
        if self.again:
            self.ask(now)
        elif self.due:
            self.ask(self.due.popleft())


class Connection(asyncio.Protocol):
    """A kept-alive connection with one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.answer = b""
        self.due = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.load.num_open += 1
        self.load.idle.append(self)

    def send(self, due: float) -> None:
        self.due = due
        self.transport.write(self.load.call.request)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, is_whole, body = self.answer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if is_whole and (length is None or len(body) >= int(length[1])):
            is_right = (
                head.startswith(b"HTTP/1.1 200 ") and body.count(b",") == self.load.call.commas
            )
            self.answer = b""
            self.load.answered(self, is_right)

    def connection_lost(self, _: Exception | None) -> None:
        self.load.num_open -= 1
        if not self.transport.is_closing():  # the server closed it
            self.load.failed += 1


@asynccontextmanager
async def connected(port: int, call: Call, number: int, *, again: bool) -> AsyncIterator[Load]:
    """Open `number` connections. They close after the block, when the last answers are in."""
    load, loop = Load(call, again=again), asyncio.get_running_loop()
    for _ in range(number):
        await loop.create_connection(lambda: Connection(load), "127.0.0.1", port)
    yield load
    load.again = False
    async with asyncio.timeout(PATIENCE):
        while load.due or len(load.idle) < load.num_open:
            await asyncio.sleep(0.01)
    for each in load.idle:
        each.transport.close()


async def per_second(port: int, call: Call, number: int, seconds: float) -> tuple[float, int]:
    """Return the good answers per second to `number` clients that never pause, and the failures."""
    async with connected(port, call, number, again=True) as load:
        for _ in range(number):
            load.ask(time.perf_counter())
        await asyncio.sleep(WARM)
        before, started = len(load.seconds), time.perf_counter()
        await asyncio.sleep(seconds)
        rate = (len(load.seconds) - before) / (time.perf_counter() - started)
    return rate, load.failed


async def latencies(
    port: int, call: Call, number: int, seconds: float, rate: float
) -> tuple[list[float], int]:
    """Return the seconds until each good answer at `rate` requests per second, and the failures.

    Requests are due at random moments that are fixed before (a Poisson process), and go over
    `number` connections. The seconds count from those moments, even if all connections are busy.
    """
    pauses = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))
    async with connected(port, call, number, again=False) as load:
        for due in time.perf_counter() + pauses.cumsum():
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            load.ask(due)
    return load.seconds, load.failed
