"""Clients of an HTTP server that take little of the machine which they share with it."""

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

WARM = 0.5  # seconds at the start that do not count
PATIENCE = 60.0  # seconds for the last answers
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Call:
    """A request, as it is sent, and how many commas are in the body of its answer."""

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
    """A call that is made again and again, and what came of it."""

    def __init__(self, call: Call, *, again: bool) -> None:
        """With `again` a connection asks as soon as it has its answer."""
        self.call, self.again = call, again
        self.idle: deque[Connection] = deque()
        self.due: deque[float] = deque()  # moments to ask at that came while none was idle
        self.seconds: list[float] = []  # until each good answer
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
    """One that is kept, with one request on it at a time."""

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
        if not self.transport.is_closing():  # by the server
            self.load.failed += 1


@asynccontextmanager
async def connected(port: int, call: Call, number: int, *, again: bool) -> AsyncIterator[Load]:
    """So many connections. After the block they get their last answers, and are closed."""
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
    """Good answers a second to so many clients that ask without a pause, and what failed."""
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
    """Seconds until each good answer at so many requests a second, and what failed.

    They are sent at random moments that are fixed before (a Poisson process), over `number`
    connections, and time counts from those moments.
    """
    pauses = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))
    async with connected(port, call, number, again=False) as load:
        for due in time.perf_counter() + pauses.cumsum():
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            load.ask(due)
    return load.seconds, load.failed
