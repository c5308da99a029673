"""A program that replaces itself with a command, which ends when the parent of the program ends.

`python parent.py PARENT terminates|ignores-sigterm COMMAND …`; PARENT is the parent's process id.
Linux kills the command when its parent ends. On other systems the command runs on and keeps the
locks that it inherited, so that no other process works in the checkout meanwhile. The imports are
few, since every child process pays for them.
"""

import ctypes
import os
import signal
import sys

IGNORES = "ignores-sigterm"
DVC = "LATENTWORKS_DVC"  # environment variable of a stage: the process id of its parent, DVC
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def end_with_parent() -> None:
    """Make Linux kill this process (SIGKILL) when its parent ends. Does nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def become(parent: str, on_sigterm: str, call: list[str]) -> None:
    """Replace this process with the command `call`: see the module's docstring."""
    end_with_parent()
    if os.getppid() != int(parent):  # the parent has ended already
        sys.exit(1)
    if on_sigterm == IGNORES:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.environ[DVC] = str(os.getpid())
    os.execvp(call[0], call)


if __name__ == "__main__":
    become(sys.argv[1], sys.argv[2], sys.argv[3:])
