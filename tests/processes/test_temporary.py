"""The temporary Prefect server of a flow starts behind a dead proxy, or the flow ends."""

import subprocess
from pathlib import Path

from checkouts import HANGS, ROOT, Checkout, environment
from latentworks.runner.worktree import RETRAINING, Worktree
from servers import dead_proxy

NOT_STARTED = "Prefect's temporary server did not start. See the lines above."


def test_a_temporary_server_is_asked_without_a_proxy_and_not_named(tmp_path: Path) -> None:
    script = """
from pipeline import temporary
from prefect import flow
from prefect.settings import temporary_settings
with temporary.server() as settings, temporary_settings(settings):
    flow(lambda: None, name="tests")()
"""
    ours = environment(PYTHONPATH=str(ROOT), PREFECT_HOME=str(tmp_path / "home"), **dead_proxy())
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        ["python", "-c", script],
        cwd=tmp_path,
        env=ours,
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr
    assert "Finished in state Completed()" in done.stderr
    assert "127.0.0.1" not in done.stderr  # the address ends with the flow


def test_retrain_ends_if_the_temporary_server_does_not_start(
    untouched: Checkout, tmp_path: Path
) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    ours = {"PYTHONPATH": str(checkout.path / "src")}
    ours["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{tmp_path}/missing/file"
    done = checkout.run("python", "-m", "pipeline", "retrain", expected=1, **ours)
    assert "unable to open database file" in done.stderr
    assert done.stderr.splitlines()[-1] == NOT_STARTED
    assert not Worktree(checkout.path, RETRAINING).is_held


DRIPPING = """
import socket
import sys
import threading

with socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1])) as server:
    connection, _ = server.accept()
    print("dripping", file=sys.stderr)
    while True:
        connection.sendall(b"H")
        threading.Event().wait(0.2)
"""


def test_a_temporary_server_that_drips_has_one_deadline(tmp_path: Path) -> None:
    """Each piece of the answer comes in time, so no timeout of the connection helps."""
    (tmp_path / "uvicorn.py").write_text(DRIPPING)  # `python -m` prefers the folder that it is in
    script = "from pipeline import temporary\nwith temporary.server(patience=10): pass"
    ours = environment(PYTHONPATH=str(ROOT), PREFECT_HOME=str(tmp_path))
    done = subprocess.run(
        ["python", "-P", "-c", script],
        cwd=tmp_path,
        env=ours,
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert "dripping\n" in done.stderr
    assert done.stderr.splitlines()[-1].endswith(NOT_STARTED)
