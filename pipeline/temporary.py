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

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL
from prefect.settings.legacy import Setting

from latentworks.errors import LatentworksError
from latentworks.system import processes
from pipeline.server import SERVER_AUTH, new_auth

PATIENCE = 120.0  # seconds; a busy machine needs 16 to 30


@contextmanager
def server() -> Iterator[dict[Setting, str]]:
    """Yield the settings of its clients. Raises LatentworksError if it does not start.

    The password is in no file. Prefect would start a server itself, but that server outlives a
    killed flow.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    call = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    call += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error"]
    auth = new_auth()
    environment = {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}",  # no page at all
        SERVER_AUTH: auth,
    }
    with processes.started(call, Path.cwd(), environment, out=subprocess.DEVNULL) as process:
        try:
            address = f"http://127.0.0.1:{port}/api"
            _wait(process, f"{address}/health")
            yield {PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: auth}
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
