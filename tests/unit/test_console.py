"""Commands end with one line and their exit code, also while a call of a library goes on."""

import subprocess
import sys

import pytest

from checkouts import ROOT, environment

SCRIPT = """
import threading
from latentworks.errors import RegistryError
from latentworks.system import console
threading.Thread(target=threading.Event().wait).start()  # Python joins it at its end
console.abandoned.set()
with console.one_line_errors():
    END
"""


@pytest.mark.cold
@pytest.mark.parametrize(
    ("end", "exit_code", "said"),
    [
        ("pass", 0, ""),
        ("raise RegistryError('No version.')", 6, "No version."),
        ("raise SystemExit(143)", 143, ""),
        ("raise KeyboardInterrupt", 130, ""),
        ("import typer; raise typer.Exit(7)", 7, ""),
        ("raise ValueError('a mistake')", 1, "Traceback"),
    ],
)
def test_a_command_does_not_wait_for_an_abandoned_call(end: str, exit_code: int, said: str) -> None:
    call = [sys.executable, "-c", SCRIPT.replace("END", end)]
    done = subprocess.run(
        call,
        env=environment(PYTHONPATH=str(ROOT / "src")),
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert done.returncode == exit_code
    assert done.stderr.startswith(said) if said else not done.stderr
