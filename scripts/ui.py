"""MLflow's pages of this project's runs, as `make ui` opens them.

A store without a server gets one, on the next free port from 5000 on; the server ends with Ctrl-C.
"""

import os
import sys
from pathlib import Path

from latentworks.errors import LatentworksError
from latentworks.tracking import pages
from latentworks.tracking.faults import one_line
from latentworks.tracking.store import Store
from latentworks.tracking.uri import configure_client, tracking_uri

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
SETTINGS = {  # no telemetry, no process for each kind of job, and no pickles
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def main() -> None:
    configure_client()
    uri = tracking_uri(ROOT)
    with one_line(uri, "Run `make ui` again when MLflow answers."):
        store = Store(uri, ROOT)
        pages.complete(store.client, store.runs)
    if uri.startswith("http"):
        print(f"Open {pages.address(uri, store.experiment_id)}")
        return
    port = pages.free_port(HOST)
    address = pages.address(f"http://{HOST}:{port}", store.experiment_id)
    print(f"Open {address} when the server has started. Ctrl-C ends it.", flush=True)
    options = ("--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", uri)
    command = [sys.executable, "-m", "mlflow", "server", *options]
    os.execvpe(command[0], command, {**os.environ, **SETTINGS})


if __name__ == "__main__":
    try:
        main()
    except LatentworksError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
