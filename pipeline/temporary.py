"""A temporary Prefect server for one flow. It ends with the process that started it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentworks.errors import LatentworksError
from latentworks.system import processes

PATIENCE = 120.0  # seconds; a busy machine needs 16 to 30


@contextmanager
def server() -> Iterator[str]:
    """Yield the address of the server's API. Raises LatentworksError if it does not start.

    Prefect would start a server itself, but that server outlives a killed flow.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    call = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    call += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    environment = {**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}
    with processes.started(call, Path.cwd(), environment, out=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}/api"
            _wait(process, f"{address}/health")
            yield address
        finally:
            process.terminate()


def _wait(process: "subprocess.Popen[str]", address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise LatentworksError("Prefect's temporary server did not start. See the lines above.")
