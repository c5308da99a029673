"""Processes that cannot write files, by Landlock.

`python landlock.py COMMAND …` gives up the right to write, create, rename and remove files, then
replaces itself with the command. Neither the command nor its children get the right back. They can
still change the permissions and times of files and, before Linux 6.2, cut files off. Before Linux
5.13, and on other systems, the command runs as any other.
"""

import ctypes
import os
import struct
import sys

# System calls, the same on every processor, and the numbers of linux/landlock.h.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION = 1  # flag: return the version of Landlock
PATH_BENEATH = 1  # the kind of rule
WRITE_FILE = 1 << 1
CHANGES = sum(1 << bit for bit in (1, *range(4, 13)))  # write; remove and make files of each kind
REFER, TRUNCATE = 1 << 13, 1 << 14  # since versions 2 and 3
PR_SET_NO_NEW_PRIVS = 38  # from linux/prctl.h


def without_writes(call: list[str]) -> list[str]:
    """Wrap the command `call` so that it cannot write files."""
    return [sys.executable, "-I", "-S", __file__, *call]


def available() -> int:
    """Return the version of Landlock in this kernel; below 1 if there is none."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None)
    return int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION)))


def forbid_writes() -> None:
    """Take the right to change files from this thread and its children, where Landlock exists.

    Files that are open stay writable, and so does /dev/null.
    """
    libc, version = ctypes.CDLL(None, use_errno=True), available()
    if version < 1:
        return
    handled = CHANGES | REFER * (version >= 2) | TRUNCATE * (version >= 3)
    ruleset = _checked(
        libc.syscall(
            CREATE_RULESET, struct.pack("=Q", handled), ctypes.c_size_t(8), ctypes.c_uint32(0)
        )
    )
    null = os.open(os.devnull, os.O_PATH)
    rule = struct.pack("=Qi", WRITE_FILE, null)
    _checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, ctypes.c_uint32(0)))
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    os.close(null)
    os.close(ruleset)


def _checked(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


if __name__ == "__main__":
    forbid_writes()
    os.execvp(sys.argv[1], sys.argv[1:])
