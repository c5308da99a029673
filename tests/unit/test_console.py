"""Commands end with one line and their exit code, also while a call of a library goes on."""

import errno
import fcntl
import os
import pty
import subprocess
import sys
import termios
import time

import pytest

from checkouts import ROOT, environment
from latentworks.system import console, relay
from latentworks.system.progress import Ticker

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


def test_a_line_names_a_few_and_counts_the_others() -> None:
    assert console.few(["a"]) == "a"
    assert console.few(["a", "b", "c"]) == "a, b, c"
    assert console.few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert console.few(["a"] * 2001, 1) == "a and 2,000 more"


# --- text of other programs, and of slow work ----------------------------------------------------


def test_errors_of_the_system_are_sentences_without_numbers() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        os.stat("/missing/file")
    assert console.of_system(caught.value) == "Cannot use /missing/file: no such file or directory."
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert console.of_system(full) == (
        "Cannot go on: no space left on device. Free some space, then run the same command again."
    )


def test_only_slow_work_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with console.slow("quick work"):
        pass
    begun = time.monotonic()
    with console.slow("slow work"):
        while not (said := capsys.readouterr().err) and time.monotonic() < begun + 60:
            pass
        assert time.monotonic() > begun + console.SLOW
    assert said == "slow work …\n"


def test_a_relay_leaves_out_marked_lines_alone(capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def is_shown(line: str) -> bool:
        asked.append(line)
        return "keep" in line

    written = b"one\n\x1b[31mERROR\x1b[39m: hide\nerror: keep\nerr\n\r 10%|#\r 20%|##\nerror: h"
    with relay.standard_error(is_shown, "error: ") as writer:
        for byte in written:  # each byte is read alone
            os.write(writer, bytes([byte]))
            while fcntl.ioctl(writer, termios.FIONREAD, bytes(4)) != bytes(4):
                time.sleep(0)
        os.write(writer, b"ide\nlast")
    assert asked == ["ERROR: hide", "error: keep", "error: hide"]
    assert capfd.readouterr().err == "one\nerror: keep\nerr\n\r 10%|#\r 20%|##\nlast"


RELAY = """
import subprocess, sys
from latentworks.system import relay
code = "import os; print(os.isatty(2), *os.get_terminal_size(2)); os.write(2, b'bar')"
with relay.standard_error(bool, "error: ") as err:
    subprocess.run([sys.executable, "-c", code], stderr=err, check=True)
"""


@pytest.mark.cold
def test_a_relay_to_a_terminal_is_a_terminal_of_its_size() -> None:
    """A progress bar is drawn on a terminal alone, and as wide as it is."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (33, 77))
    call = [sys.executable, "-c", RELAY]
    env = environment(PYTHONPATH=str(ROOT / "src"))
    done = subprocess.run(call, env=env, stdout=subprocess.PIPE, stderr=theirs, text=True)
    assert done.stdout == "True 77 33\n"
    assert os.read(ours, 100) == b"bar"
    os.close(ours)
    os.close(theirs)


def test_a_line_of_progress_is_due_after_its_seconds() -> None:
    assert not Ticker(3600).is_due()
    ticker = Ticker(0)
    assert ticker.is_due()
    assert ticker.is_due()
