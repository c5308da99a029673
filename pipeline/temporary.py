"""A temporary Prefect server for one flow. It ends with the process that started it."""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL
from prefect.settings.legacy import Setting

from latentworks.errors import LatentworksError
from latentworks.system import processes
from pipeline.server import SERVER_AUTH, new_auth

LAST = 5.0  # seconds for the events at the end
START_TIMEOUT = 120.0  # seconds; a busy machine needs 16 to 30


@contextmanager
def server(patience: float = START_TIMEOUT) -> Iterator[dict[Setting, str]]:
    """Yield the settings of its clients.

    Raises LatentworksError if the server does not answer within `patience` seconds.

    The password is in no file. Prefect would start a server itself, but that server outlives a
    killed flow.
    """
    # The server inherits the socket, so that no other program gets the port, and the password.
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    call = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    call += ["--fd", str(listener.fileno()), "--log-level", "error"]
    auth = new_auth()
    environment = {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",  # no page at all
        SERVER_AUTH: auth,
    }
    with (
        listener,
        processes.started(
            call, Path.cwd(), environment, (listener.fileno(),), out=subprocess.DEVNULL
        ) as process,
    ):
        listener.close()  # ours: calls to a server that has ended are refused
        try:
            address = f"http://127.0.0.1:{port}/api"
            _wait(process, f"{address}/health", patience)
            _hide_addresses()
            yield {PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: auth}
        finally:
            # Before the server ends: Prefect would report each line and event that is still queued.
            APILogHandler().flush()
            EventsWorker.drain_all(timeout=LAST)
            process.terminate()


def _hide_addresses() -> None:
    """Leave out Prefect's lines with addresses of pages: they end with the flow."""
    for runs in ("flow_runs", "task_runs"):
        logging.getLogger(f"prefect.{runs}").addFilter(_is_no_address)


def _is_no_address(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("View at ")


def _wait(process: "subprocess.Popen[str]", address: str, patience: float) -> None:
    """Wait for an answer in a thread: the timeout of a call bounds only each piece of an answer."""
    answered, over = threading.Event(), threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                with urllib.request.urlopen(address, timeout=5):
                    answered.set()
                    return
            except (OSError, HTTPException):
                over.wait(0.1)

    threading.Thread(target=ask, daemon=True, name="wait for Prefect").start()
    deadline = time.monotonic() + patience
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if answered.wait(0.1):
                return
    finally:
        over.set()
    raise LatentworksError("Prefect's temporary server did not start. See the lines above.")
