"""Run one stage as dvc.yaml does: `python -m latentworks.stages STAGE PATH …`."""

import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from latentworks.errors import LatentworksError
from latentworks.repository import package
from latentworks.system import locks, memory, parent
from latentworks.system.console import of_system

SECONDS = 8.0  # from SIGTERM until a stage is ended by force
TOLD = "was stopped by SIGTERM. Run the same command again to continue."
SCARCE = ("ResourceExhaustedError",)  # TensorFlow's errors for too little memory
TERMINATED = 128 + signal.SIGTERM  # exit code that a shell gives a process ended by the signal


if parent.DVC in os.environ:  # at once: the import of TensorFlow takes seconds
    parent.end_with_parent()
    # DVC ignores SIGTERM, and its children inherit that.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))


class Terminated(BaseException):
    """Raised in a stage by SIGTERM."""


def main(stage: str, *paths: str) -> None:
    """Call a stage with the paths of its command line; print an error of the user as one line."""
    parent.end_with_parent()
    if os.environ.get(parent.DVC, str(os.getppid())) != str(os.getppid()):
        sys.exit(
            _say(f"{stage} was not started, since DVC has ended. Run the same command again.", 1)
        )
    _set_deadline(stage)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it at its import
    memory.watch()
    try:
        root = Path.cwd()
        if package.pinned(root) and (fault := package.fault(root)):
            raise LatentworksError(f"Cannot run {stage}: {fault}")
        run = importlib.import_module(f"latentworks.stages.{stage}").main
        # Wait for a stage of a killed run: Linux ends it at once, other systems let it go on.
        with locks.exclusive(locks.of(root, stage), f"run {stage}"):
            run(*map(Path, paths))
    except LatentworksError as error:
        sys.exit(_say(str(error), error.exit_code))
    except Terminated:
        sys.exit(_say(f"{stage} {TOLD}", TERMINATED))
    except KeyboardInterrupt:
        sys.exit(_say(f"{stage} was interrupted. Run the same command again to continue.", 130))
    except Exception as error:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:  # a library replaced Terminated
            sys.exit(_say(f"{stage} {TOLD}", TERMINATED))
        if not isinstance(error, OSError | MemoryError) and type(error).__name__ not in SCARCE:
            raise
        scarce = "Memory ran out. End other programs, then run the same command again."
        sys.exit(_say(of_system(error) if isinstance(error, OSError) else scarce, 1))


def _set_deadline(stage: str) -> None:
    """Give the stage SECONDS from SIGTERM to its end.

    Python calls `_terminate` only between two batches, since each batch is one call into C. The
    thread reads the signal from a pipe at once, and ends the process after SECONDS.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def end() -> None:
        while os.read(reader, 1) != bytes([signal.SIGTERM]):
            pass
        time.sleep(SECONDS)
        os.write(sys.stderr.fileno(), f"error: {stage} {TOLD}\n".encode())
        os._exit(TERMINATED)  # safe: files are replaced atomically

    threading.Thread(target=end, daemon=True, name="deadline").start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
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
