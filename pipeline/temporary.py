"""A Prefect server for the length of one flow. It ends with the process that started it."""

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

PATIENCE = 120.0  # seconds; 16 to 30 on a busy machine


@contextmanager
def server() -> Iterator[str]:
    """The address of its API. Raises LatentworksError where it does not come up.

    Prefect would start one itself, which outlives a flow that is killed.
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
    raise LatentworksError("Prefect's temporary server did not start; the lines above say why.")
