"""`python -m latentworks.stages STAGE PATH …`: run one stage, as dvc.yaml does."""

import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from latentworks.errors import LatentworksError
from latentworks.system import locks, processes

SECONDS = 8.0  # from SIGTERM to the end of a stage that is at something long
TOLD = "was told to end; the next run goes on from here"
SCARCE = ("ResourceExhaustedError",)  # TensorFlow's words for too little memory
TERMINATED = 128 + signal.SIGTERM  # what a shell calls a process that the signal ended


if processes.DVC in os.environ:  # now, and not when TensorFlow has been imported, seconds later
    processes.end_with_parent()
    # DVC does not listen to it, and what it starts would not either.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))


class Terminated(BaseException):
    """SIGTERM: whoever runs the stage wants it to end."""


def main(stage: str, *paths: str) -> None:
    """Call a stage with the paths of its command line; a user's mistake ends in one line."""
    processes.end_with_parent()
    if os.environ.get(processes.DVC, str(os.getppid())) != str(os.getppid()):
        sys.exit(_say("DVC was ended before this stage began", 1))
    _set_deadline(stage)
    try:
        run = importlib.import_module(f"latentworks.stages.{stage}").main
        # One that was killed is gone in a moment; where its system does not end it, it goes on.
        with locks.exclusive(locks.of(Path.cwd(), stage), f"run {stage}"):
            run(*map(Path, paths))
    except LatentworksError as error:
        sys.exit(_say(str(error), error.exit_code))
    except Terminated:
        sys.exit(_say(f"{stage} {TOLD}", TERMINATED))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", 130))
    except Exception as error:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:  # a library made another of it
            sys.exit(_say(f"{stage} {TOLD}", TERMINATED))
        if not isinstance(error, OSError | MemoryError) and type(error).__name__ not in SCARCE:
            raise
        what = getattr(error, "strerror", None) or "out of memory"
        where = getattr(error, "filename", None)
        sys.exit(_say(f"{what}: {where}" if where else what, 1))


def _set_deadline(stage: str) -> None:
    """From SIGTERM on, whatever the stage is at, it has so many seconds.

    Python calls `_terminate` between two batches, each of which is one call for it. The other end
    of the pipe hears of the signal at once.
    """
    hears, told = os.pipe()
    os.set_blocking(told, False)

    def end() -> None:
        while os.read(hears, 1) != bytes([signal.SIGTERM]):
            pass
        time.sleep(SECONDS)
        os.write(sys.stderr.fileno(), f"error: {stage} {TOLD}\n".encode())
        os._exit(TERMINATED)  # every file is whole at any time

    threading.Thread(target=end, daemon=True, name="deadline").start()
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def _say(message: str, exit_code: int) -> int:
    sys.stdout.flush()
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return exit_code


if __name__ == "__main__":
    main(*sys.argv[1:])
