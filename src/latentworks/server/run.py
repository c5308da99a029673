"""The process of the server: starts from settings, serves, and shuts down."""

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from latentworks.errors import LatentworksError
from latentworks.server import app
from latentworks.server.budget import give_back_at_once
from latentworks.server.connections import Connection, let_many_in
from latentworks.server.follower import Follower
from latentworks.server.service import Following, Service
from latentworks.tracking.uri import without_password

GRACE = 30  # seconds that running calls have after SIGTERM
BACKLOG = 4096  # connections that the system queues until the server accepts them


@dataclass(frozen=True)
class Settings:
    """The settings of `latentworks serve`."""

    uri: str
    home: Path
    model: str
    alias: str
    host: str
    port: int
    every: float
    follow_any: bool
    max_waiting: int
    memory: int  # bytes
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    root_path: str = ""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C, and finish the running calls."""
    let_many_in()
    give_back_at_once()
    listening = listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    followed = f"{settings.model}@{settings.alias} of {without_password(settings.uri)}"
    address = f"[{host}]" if ":" in host else host
    print(f"http://{address}:{port} follows {followed}", file=sys.stderr)
    service = Service(Following(settings.model, settings.alias), max_waiting=settings.max_waiting)
    application = app.create(
        service,
        hosts=(settings.host, *settings.hosts),
        origins=settings.origins,
        memory=settings.memory,
    )
    Follower(service, settings.home, settings.uri, settings.every, settings.follow_any).start()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    application.router.lifespan_context = lifespan
    config = uvicorn.Config(
        application,
        access_log=False,
        log_level="warning",
        backlog=BACKLOG,
        headers=[*app.HEADERS.items()],
        http=Connection,
        ws="none",  # an upgrade would take the connection away from `Connection`
        root_path=settings.root_path,
        loop="auto",  # uvloop, except on Windows, which lacks it
        timeout_graceful_shutdown=GRACE,
    )
    uvicorn.Server(config).run([listening])  # on the loop of the config


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises LatentworksError if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise LatentworksError(
            f"Cannot listen at {host}, port {port}: {error.strerror}. Try another --port or --host."
        ) from None
