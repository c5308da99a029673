"""Child processes that end when this process ends, even if it is killed: see `parent.py`."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentworks.system import parent

KILL_AFTER = 12.0  # seconds from SIGTERM to SIGKILL; a stage ends within 10
LAST = 60.0  # seconds from SIGTERM to SIGKILL for a flow, which has more to end
AGAIN = 0.5  # seconds between two SIGTERMs

# Set before large imports: collecting garbage after every 700 new objects takes a fifth of
# TensorFlow's import time, and imported objects are never garbage.
gc.set_threshold(100_000)


def tied(call: list[str], *, ignore_sigterm: bool = False) -> list[str]:
    """Wrap the command `call` so that it ends with the thread that starts it.

    With `ignore_sigterm`, the command ignores SIGTERM.
    """
    on_sigterm = parent.IGNORES if ignore_sigterm else "terminates"
    return [sys.executable, "-I", "-S", parent.__file__, str(os.getpid()), on_sigterm, *call]


@contextmanager
def started(
    call: list[str],
    folder: Path,
    env: dict[str, str],
    handles: tuple[int, ...] = (),
    *,
    ignore_sigterm: bool = False,
    out: int | None = None,
    err: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Start a process in a session of its own. Neither it nor its children outlive the block.

    `handles`: locks that the process inherits. With `ignore_sigterm`, the process ignores SIGTERM;
    its children need not. `out` and `err` are as in subprocess: inherited by default.
    """
    with subprocess.Popen(
        tied(call, ignore_sigterm=ignore_sigterm),
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=handles,
    ) as process:
        try:
            yield process
        except BaseException:  # Ctrl-C, SIGTERM, or a cancelled run
            _end(process, again=ignore_sigterm)
            raise


def hand_over(call: list[str], handles: tuple[int, ...], env: dict[str, str]) -> int:
    """Run a command on behalf of this process; return its exit code.

    The command has a session of its own. SIGTERM, Ctrl-C and SIGHUP are passed to it as SIGTERM,
    and not to its children, which still run while the command ends.
    """
    with subprocess.Popen(
        tied(call), env=env, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=handles
    ) as process:

        def terminate(*_: object) -> None:
            process.terminate()
            deadline = threading.Timer(LAST, os.killpg, [process.pid, signal.SIGKILL])
            deadline.daemon = True
            deadline.start()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, terminate)
        code = process.wait()
    return code if code >= 0 else 128 - code  # 128 + signal, as in a shell


def run(
    call: list[str], folder: Path, env: dict[str, str], handles: tuple[int, ...] = ()
) -> tuple[int, str, str]:
    """Run a command; return its exit code, its output and its error output."""
    pipe = subprocess.PIPE
    with started(call, folder, env, handles, out=pipe, err=pipe) as process:
        out, err = process.communicate()
    return process.returncode, out, err


def stream(
    call: list[str],
    folder: Path,
    report: Callable[[str], None],
    env: dict[str, str],
    handles: tuple[int, ...] = (),
    *,
    ignore_sigterm: bool = False,
    err: int | None = subprocess.STDOUT,
) -> int:
    """Run a command, call `report` with each line of its output, and return its exit code.

    With `err=None`, the standard error of this process is inherited.
    """
    with started(
        call, folder, env, handles, ignore_sigterm=ignore_sigterm, out=subprocess.PIPE, err=err
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            report(line.rstrip())
        process.wait()
    return process.returncode


def _end(process: subprocess.Popen[str], again: bool) -> None:
    """Send SIGTERM to a process and its children, and SIGKILL after KILL_AFTER seconds.

    With `again`, SIGTERM is repeated, for children that the process starts after the first one.
    """
    deadline = time.monotonic() + KILL_AFTER
    try:
        while (left := deadline - time.monotonic()) > 0:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=min(left, AGAIN) if again else left)
                break
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
