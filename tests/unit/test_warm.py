"""A program that starts warm ends as one that starts cold: see tests/warm/server.py."""

import os
import subprocess

import pytest

from checkouts import HANGS, environment, warm

LATE = "import threading as t, time; t.Thread(target=lambda: (time.sleep(0.2), print(1))).start()"


def test_only_a_fork_has_imported_mlflow() -> None:
    program = "import sys; print('mlflow' in sys.modules)"
    assert ended(program)[1] == "True\n"
    assert ended(program, LATENTWORKS_COLD="1")[1] == "False\n"


@pytest.mark.parametrize(
    "program",
    [
        "print(1)",
        "print(1, end='')",
        "import sys; sys.exit(3)",
        "import sys; sys.exit(-1)",
        "import sys; sys.exit(None)",
        "import sys; sys.exit('a fault')",
        "import sys; sys.exit('')",
        "import sys; sys.exit([1])",
        "import atexit; atexit.register(print, 'at exit')",
        "import atexit, sys; atexit.register(print, 'at exit'); sys.exit(3)",
        LATE,
        f"{LATE}; import sys; sys.exit(3)",
        "import os; os._exit(5)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.kill(os.getpid(), 15)",
        "import sys; sys.stderr.write('no line'); sys.stdout.close()",
    ],
)
def test_a_fork_ends_as_a_new_process_does(program: str) -> None:
    assert ended(program) == ended(program, LATENTWORKS_COLD="1")


def test_a_fork_reports_output_that_it_cannot_write() -> None:
    with open("/dev/full", "w") as full:
        assert call("print(1)", full.fileno()).returncode == 120


def test_a_fork_reports_an_error_and_an_interrupt() -> None:
    for program, code, line in (
        ("raise ValueError(1)", 1, "ValueError: 1"),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
    ):
        done = call(program)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (code, line)


def ended(program: str, **changes: str) -> tuple[int, str, str]:
    done = call(program, **changes)
    return done.returncode, done.stdout, done.stderr


def call(
    program: str, out: int = subprocess.PIPE, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -c PROGRAM`, warm unless `changes` says otherwise."""
    path = f"{warm()}{os.pathsep}{environment()['PATH']}"
    return subprocess.run(
        ["python", "-c", program],
        env=environment(**{"PATH": path, **changes}),
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        timeout=HANGS,
    )
