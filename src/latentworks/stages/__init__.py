"""The verbs, one file for each DVC stage, read from top to bottom."""

import ctypes
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from latentworks.errors import LatentworksError

PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def run(main: Callable[..., None]) -> None:
    """Call a stage with the paths of its command line; a user's mistake ends in one line."""
    _end_with_parent()
    try:
        main(*(Path(argument) for argument in sys.argv[1:]))
    except LatentworksError as error:
        sys.exit(_say(str(error), error.exit_code))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", 130))
    except (OSError, MemoryError) as error:
        what = getattr(error, "strerror", None) or "out of memory"
        where = getattr(error, "filename", None)
        sys.exit(_say(f"{what}: {where}" if where else what, 1))


def _end_with_parent() -> None:
    """Where DVC is killed, its stage would write on beside the next run's. Linux can end it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _say(message: str, exit_code: int) -> int:
    sys.stdout.flush()
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return exit_code
