"""The memory that all requests may take together: their bodies, arrays and answers."""

import asyncio
import ctypes
import threading
import time
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentworks.errors import LatentworksError

MEMORY = 800_000_000  # bytes
CHUNK = 65_536  # bytes of an answer that are sent at once
READ_TIMEOUT = 10.0  # seconds in which a client must begin to read an answer
RATE = 100_000  # bytes per second that a client must read after that
LARGE = 1_000_000  # bytes of an array that is given back to the system when it is freed
M_MMAP_THRESHOLD = -3  # of glibc's mallopt
TURN = 5.0  # seconds that the oldest request waits for memory
TICK = 0.02  # seconds until it asks again

P = ParamSpec("P")
T = TypeVar("T")


class Overloaded(LatentworksError):
    """The server has as many calls, or as much in memory, as it allows."""


class Budget:
    """The bytes that requests have claimed."""

    def __init__(self, total: int = MEMORY) -> None:
        self.total = total
        self.claimed = 0
        self.shares: dict[Share, None] = {}  # in the order of their first claims
        self.lock = threading.Lock()


class Share:
    """The bytes that one request has claimed. Threads may share it."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.claimed = 0

    def claim(self, num_bytes: int) -> None:
        """Claim bytes before they are allocated. A request alone gets what it claims.

        Raises Overloaded.
        """
        with self.budget.lock:
            others = self.budget.claimed - self.claimed
            if others and self.budget.claimed + num_bytes > self.budget.total:
                raise Overloaded("The memory for requests is in use. Try again in a second.")
            self.budget.claimed += num_bytes
            self.claimed += num_bytes
            self.budget.shares.setdefault(self)

    async def in_turn(
        self, do: Callable[P, Awaitable[T]], /, *arguments: P.args, **options: P.kwargs
    ) -> T:
        """Return `await do(...)`, which claims bytes. The oldest request waits for memory.

        Requests that all hold a part of the memory, and need more, would otherwise all be refused.
        `do` is repeated until the others have given enough back. Raises Overloaded for the oldest
        after TURN seconds, and for others at once.
        """
        before, deadline = self.claimed, time.monotonic() + TURN
        while True:
            try:
                return await do(*arguments, **options)
            except Overloaded:
                self._give_back(self.claimed - before)
                if not self._is_oldest() or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(TICK)

    def close(self) -> None:
        """Give all bytes back."""
        self._give_back(self.claimed)
        with self.budget.lock:
            self.budget.shares.pop(self, None)

    def _is_oldest(self) -> bool:
        with self.budget.lock:
            return next(iter(self.budget.shares), None) is self

    def _give_back(self, num_bytes: int) -> None:
        with self.budget.lock:
            self.budget.claimed -= num_bytes
            self.claimed -= num_bytes


class Sharing:
    """Middleware: `scope["state"]["share"]` is the share of a request until its answer is sent."""

    def __init__(self, app: ASGIApp, budget: Budget) -> None:
        self.app = app
        self.budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        share = scope["state"]["share"] = Share(self.budget)

        connection = scope["state"].get("connection")

        async def send_in_time(message: Message) -> None:
            small = len(message.get("body", b"")) <= CHUNK
            if connection is None or (small and not connection.flow.write_paused):
                await send(message)  # does not wait
                return
            try:
                async with asyncio.timeout(READ_TIMEOUT + len(message.get("body", b"")) / RATE):
                    await _send_chunks(message, send)
            except TimeoutError:  # the client reads too slowly, or not at all
                connection.transport.abort()
                await asyncio.sleep(0)  # until the connection has ended

        try:
            await self.app(scope, receive, send_in_time)
        finally:
            share.close()


async def _send_chunks(message: Message, send: Send) -> None:
    """Send a large body in parts, so that the server waits for a client that reads slowly."""
    body, more_body = memoryview(message.get("body", b"")), message.get("more_body", False)
    if len(body) <= CHUNK:
        await send(message)
        return
    for start in range(0, len(body), CHUNK):
        end = start + CHUNK
        await send(
            {**message, "body": bytes(body[start:end]), "more_body": more_body or end < len(body)}
        )


def give_back_at_once() -> None:
    """Let glibc's allocator return each large array to the system as soon as it is freed.

    It would otherwise keep some 100 MB for later arrays. Other systems have other allocators.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
