"""Programs that we start: they end when we do, however that is.

`python processes.py PARENT deaf|hearing COMMAND …` becomes the command, which Linux then ends with
its parent. Elsewhere it lives on, with the locks that we held: nobody works beside it.
"""

import ctypes
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

PATIENCE = 12.0  # seconds from SIGTERM to SIGKILL; a stage takes at most 10
LAST = 60.0  # and for a flow, which has more to end
AGAIN = 0.5  # seconds from one SIGTERM to the next
DVC = "LATENTWORKS_DVC"  # in the environment of a stage: the process whose child it has to be
PR_SET_PDEATHSIG = 1  # from linux/prctl.h

# In each process of ours, before it imports what is large: that stays, and to look through all of
# it for garbage after every 700 new objects takes a fifth of the time of TensorFlow's import.
gc.set_threshold(100_000)


def end_with_parent() -> None:
    """From here on, the end of the parent is that of this process: Linux sends SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def tied(call: list[str], *, deaf: bool = False) -> list[str]:
    """A command that becomes `call`, and ends with the thread that starts it."""
    hearing = "deaf" if deaf else "hearing"
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), hearing, *call]


@contextmanager
def started(
    call: list[str],
    folder: Path,
    env: dict[str, str],
    handles: tuple[int, ...] = (),
    *,
    deaf: bool = False,
    out: int | None = None,
    err: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own. It does not outlive the block, nor what it started.

    `handles` are locks that it has, too. With `deaf` it does not listen to SIGTERM; what it starts
    may. `out` and `err` are as for subprocess: by default, those of this process.
    """
    with subprocess.Popen(
        tied(call, deaf=deaf),
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
        except BaseException:  # Ctrl-C, SIGTERM, or a run that is cancelled
            _end(process, again=deaf)
            raise


def hand_over(call: list[str], handles: tuple[int, ...], env: dict[str, str]) -> int:
    """Run a command in the place of this process, with its output; returns the exit code.

    It has a session of its own, so that SIGTERM and Ctrl-C reach it alone, and what it has started
    is still there while it ends.
    """
    with subprocess.Popen(
        tied(call), env=env, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=handles
    ) as process:

        def tell(*_: object) -> None:
            process.terminate()
            deadline = threading.Timer(LAST, os.killpg, [process.pid, signal.SIGKILL])
            deadline.daemon = True
            deadline.start()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, tell)
        code = process.wait()
    return code if code >= 0 else 128 - code  # as a shell says it


def run(
    call: list[str], folder: Path, env: dict[str, str], handles: tuple[int, ...] = ()
) -> tuple[int, str, str]:
    """The exit code of a command, and what it printed to either side."""
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
    deaf: bool = False,
    err: int | None = subprocess.STDOUT,
) -> int:
    """Run a command, telling every line that it prints; return its exit code.

    With `err=None` what goes to standard error is left to that of this process.
    """
    with started(call, folder, env, handles, deaf=deaf, out=subprocess.PIPE, err=err) as process:
        assert process.stdout is not None
        for line in process.stdout:
            report(line.rstrip())
        process.wait()
    return process.returncode


def _end(process: subprocess.Popen[str], again: bool) -> None:
    """Let all that it has started finish what cannot be cut off, but not for long.

    A process that is deaf may start another one after it was told to end: that is told `again`.
    """
    deadline = time.monotonic() + PATIENCE
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


def _become(parent: str, hearing: str, call: list[str]) -> None:
    end_with_parent()
    if os.getppid() != int(parent):  # it has gone in the meantime
        sys.exit(1)
    if hearing == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.environ[DVC] = str(os.getpid())
    os.execvp(call[0], call)


if __name__ == "__main__":
    _become(sys.argv[1], sys.argv[2], sys.argv[3:])
