"""Compare the speed of `latentworks serve` and `mlflow models serve` for the same version.

Run it in a checkout with a champion; MLFLOW_TRACKING_URI names the registry, as everywhere. Both
servers run at once, each with one worker process and default settings, and take turns: one gets
requests, the other is idle. Both get the same bytes at /invocations; only latentworks returns PNG.

Requests per second are those of 1 and of 32 clients that send the next request as soon as they have
an answer. Latencies are measured for latentworks alone, at LOAD times the rate of 32 clients in the
same round. Requests are due at random moments that are fixed before, and latency counts from those
moments, even if all 32 connections are busy. An answer fails if its status is not 200, or if it has
too many or too few numbers. Seconds until ready count from the start of a command to the first 200
of /ready, or of MLflow's /ping; latentworks starts with an empty folder first, then with a verified
copy. Figures are medians of ROUNDS and STARTS. The clients run in this process, on the same cores
as the servers.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from load import Call, latencies, per_second
from tqdm import tqdm

from latentworks.repository import dag, dvc
from latentworks.system import processes
from latentworks.tracking.uri import absolute, tracking_uri

ROUNDS, STARTS = 5, 5
SECONDS = 4.0  # duration of each measurement
CLIENTS = (1, 32)
LOAD = 0.7  # share of the highest rate, for latencies
PATIENCE = 120.0  # seconds until a server is ready
OURS, MLFLOW = "latentworks", "mlflow"
RATE = "requests/s"
BUSY, FAILED = "busy", "failed"
ONLY_OURS = ("decode to PNG",)
READY = {OURS: "/ready", MLFLOW: "/ping"}
Figures = dict[tuple[str, str], list[float]]  # by row of the table and server


def main() -> None:
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="autoencoder", help="name of a registered model")
    name = parser.parse_args().model
    load = f"load average {os.getloadavg()[0]:.2f} before"
    print(f"{os.cpu_count()} cores, {load}; mlflow {metadata.version(MLFLOW)}")
    with tempfile.TemporaryDirectory() as folder:
        found = answers(name, Path(folder)) | starts(name, Path(folder))
    print_table(found)


# --- servers -------------------------------------------------------------------------------------


@contextmanager
def serving(server: str, name: str, home: Path) -> Iterator[tuple[int, float]]:
    """Start a server; yield its port and the seconds until ready. It ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = {
        OURS: f"latentworks serve --model {name} --home {home}",
        MLFLOW: f"mlflow models serve --env-manager local --workers 1 -m models:/{name}@champion",
    }[server] + f" --host 127.0.0.1 --port {port}"
    uri = absolute(tracking_uri(dag.root()))
    env = dvc.environment(home, {"MLFLOW_TRACKING_URI": uri})
    home.mkdir(exist_ok=True)
    log = home / f"{server}.log"
    with log.open("w") as out:
        handle, began = out.fileno(), time.perf_counter()
        with processes.started(call.split(), home, env, out=handle, err=handle) as process:
            try:
                wait_until_ready(server, port, process, log)
                yield port, time.perf_counter() - began
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)


def wait_until_ready(server: str, port: int, process: "subprocess.Popen[str]", log: Path) -> None:
    deadline = time.perf_counter() + PATIENCE
    while process.poll() is None and time.perf_counter() < deadline:
        try:
            if ask(port, "GET", READY[server])[0] == 200:
                return
        except ConnectionError:
            pass
        time.sleep(0.01)
    sys.exit(f"{server} was not ready within {PATIENCE:.0f} s. Its log:\n{log.read_text()}")


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


# --- figures -------------------------------------------------------------------------------------


def starts(name: str, folder: Path) -> Figures:
    """Measure the seconds until ready. `folder`/home has a copy of the version."""
    found: Figures = defaultdict(list)
    for number in tqdm(range(STARTS), "starts"):
        for row, server, home in (
            ("ready at first start, s", OURS, str(number)),
            ("ready, s", OURS, "home"),
            ("ready, s", MLFLOW, "home"),
        ):
            with serving(server, name, folder / home) as (_, seconds):
                found[row, server].append(seconds)
    return found


def answers(name: str, folder: Path) -> Figures:
    """Measure requests per second and latencies."""
    found: Figures = defaultdict(list)
    home = folder / "home"
    with serving(MLFLOW, name, home) as (theirs, _), serving(OURS, name, home) as (ours, _):
        ports = {OURS: ours, MLFLOW: theirs}
        calls = calls_of(ours)
        turns = [(title, turn) for turn in range(ROUNDS) for title in calls]
        for title, turn in tqdm(turns, "rounds"):
            for server in sorted(ports, reverse=turn % 2 == 1):
                if server == OURS or title not in ONLY_OURS:
                    measure(found, title, calls[title], server, ports[server])
    return found


def calls_of(port: int) -> dict[str, Call]:
    """The calls to measure, of one row each, by title."""
    interface = json.loads(ask(port, "GET", "/version")[1])
    latents = [[0.5] * interface["latent_dim"]]
    images = json.loads(ask(port, "POST", "/sample", b'{"num": 1, "seed": 0}')[1])["outputs"]
    commas = int(np.prod(interface["image_shape"])) - 1

    def invocations(verb: str, inputs: Any) -> Call:
        return Call.of("/invocations", {"inputs": inputs, "params": {"verb": verb}}, commas)

    return {
        "decode": invocations("decode", latents),
        "reconstruct": invocations("reconstruct", images),
        "decode to PNG": Call.of("/decode", {"inputs": latents, "images": "base64"}, 1),
    }


def measure(found: Figures, title: str, call: Call, server: str, port: int) -> None:
    for number in CLIENTS:
        cpu, wall = time.process_time(), time.perf_counter()
        rate, failed = uvloop.run(per_second(port, call, number, SECONDS))
        found[BUSY, ""].append((time.process_time() - cpu) / (time.perf_counter() - wall))
        found[FAILED, server].append(failed)
        found[f"{title}, {number} client{'s'[: number - 1]}, {RATE}", server].append(rate)
    if server == OURS:
        times, failed = uvloop.run(latencies(port, call, number, SECONDS, LOAD * rate))
        found[FAILED, server].append(failed)
        for percent in (50, 99):
            row = f"{title}, {LOAD:.0%} of that: p{percent}, ms"
            found[row, server].append(1000 * float(np.percentile(times, percent)))


def print_table(found: Figures) -> None:
    busiest, failed = max(found.pop((BUSY, ""))), {}
    for server in (OURS, MLFLOW):
        failed[server] = sum(found.pop((FAILED, server)))
    print(f"{'medians':<40}{OURS:>12}{MLFLOW:>12}{'ratio':>8}")
    for row in dict.fromkeys(row for row, _ in found):
        medians = [float(np.median(found.get((row, each), [np.nan]))) for each in (OURS, MLFLOW)]
        cells = [f"{x:.{2 if x < 100 else 0}f}" if x == x else "" for x in medians]
        ratio = medians[0] / medians[1] if row.endswith(RATE) else np.nan
        print(
            f"{row:<40}{cells[0]:>12}{cells[1]:>12}" + (f"{ratio:>8.1f}" if ratio == ratio else "")
        )
    print(f"failed: {failed}. The clients took at most {busiest:.0%} of a core.")


if __name__ == "__main__":
    main()
