"""Processes that cannot write files, and read only some of them, by Landlock.

`python landlock.py PATH … -- COMMAND …` gives up the right to write, create, rename and remove
files, and to read or run files that are not beneath one of the paths. It then replaces itself with
the command. Neither the command nor its children get the rights back. Where they know the path of
a file, they can still see its size and times, change its times and permissions and, before Linux
6.2, cut it off. Before Linux 5.13, and on other systems, the command runs as any other.
"""

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

# System calls, the same on every processor, and the numbers of linux/landlock.h.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION = 1  # flag: return the version of Landlock
PATH_BENEATH = 1  # the kind of rule
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = (1 << bit for bit in range(4))
CHANGES = sum(1 << bit for bit in (1, *range(4, 13)))  # write; remove and make files of each kind
REFER, TRUNCATE = 1 << 13, 1 << 14  # since versions 2 and 3
PR_SET_NO_NEW_PRIVS = 38  # from linux/prctl.h


def confined(call: list[str], readable: Iterable[Path]) -> list[str]:
    """Wrap the command `call` so that it cannot write files, and reads only beneath `readable`."""
    return [sys.executable, "-I", "-S", __file__, *map(str, readable), "--", *call]


def without(hidden: Iterable[Path], path: Path) -> Iterator[Path]:
    """Yield `path`, or the parts of this folder that neither hold nor lie in `hidden` paths.

    All paths are resolved. A folder that cannot be listed is left out.
    """
    if any(map(path.is_relative_to, hidden)):
        return
    if not any(each.is_relative_to(path) for each in hidden):
        yield path
        return
    with suppress(OSError):
        for part in path.iterdir():
            if not part.is_symlink():  # a rule about a link holds for the place that it names
                yield from without(hidden, part)


def available() -> int:
    """Return the version of Landlock in this kernel; below 1 if there is none."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None)
    return int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION)))


def confine(readable: Iterable[str]) -> None:
    """Take rights to files from this thread and its children, where Landlock exists.

    They cannot change files, and read and run only those beneath `readable`, as far as these exist.
    Files that are open stay as they are, and /dev/null can be used.
    """
    libc, version = ctypes.CDLL(None, use_errno=True), available()
    if version < 1:
        return
    handled = EXECUTE | READ_FILE | READ_DIR | CHANGES
    handled |= REFER * (version >= 2) | TRUNCATE * (version >= 3)
    ruleset = _checked(
        libc.syscall(
            CREATE_RULESET, struct.pack("=Q", handled), ctypes.c_size_t(8), ctypes.c_uint32(0)
        )
    )
    allowed = dict.fromkeys(filter(os.path.exists, readable), EXECUTE | READ_FILE | READ_DIR)
    for path, rights in {**allowed, os.devnull: READ_FILE | WRITE_FILE}.items():
        try:
            opened = os.open(path, os.O_PATH)
        except OSError:  # it is gone, or this user may not reach it
            continue
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= ~READ_DIR  # a right to folders alone
        rule = struct.pack("=Qi", rights, opened)
        _checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, ctypes.c_uint32(0)))
        os.close(opened)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.syscall(RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    os.close(ruleset)


def _checked(answer: int) -> int:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


if __name__ == "__main__":
    end = sys.argv.index("--")
    confine(sys.argv[1:end])
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])
