"""Files appear whole or not at all."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentworks.system import disk


def content(path: Path) -> dict[str, str]:
    """Return the texts of a file or folder and of all files beside it, by name."""
    files = [file for file in path.parent.rglob("*") if file.is_file()]
    return {file.relative_to(path.parent).as_posix(): file.read_text() for file in files}


def write(path: Path, text: Any, *, folder: bool) -> None:
    with disk.replacing(path) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "inside").write_text(text)
        else:
            temporary.write_text(text)


@pytest.mark.parametrize("folder", [False, True])
def test_a_block_that_raises_keeps_the_previous_content(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "out"
    write(path, "old", folder=folder)
    before = content(path)
    with pytest.raises(TypeError):
        write(path, 3, folder=folder)  # creates the file, and then fails
    assert content(path) == before
    write(path, "new", folder=folder)
    assert content(path) == dict.fromkeys(before, "new")


KILLED = """
import os, signal, sys
from pathlib import Path
from latentworks.system import disk
with disk.replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_write_keeps_the_previous_content(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, "old", folder=False)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert done.returncode == -signal.SIGKILL
    assert content(path) == {"out": "old", ".out.partial": "half"}
    write(path, "new", folder=False)
    assert content(path) == {"out": "new"}


@pytest.mark.parametrize("folder", [False, True])
def test_content_is_flushed_before_the_rename_and_the_name_after_it(
    tmp_path: Path, folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut cannot be tried, so that the order of the system calls is recorded."""
    calls: list[tuple[str, str]] = []

    def recording(name: str, named: Callable[[Any], Path]) -> None:
        call = getattr(os, name)

        def record(*arguments: Any) -> None:
            calls.append((name, named(arguments[0]).relative_to(tmp_path).as_posix()))
            call(*arguments)

        monkeypatch.setattr(os, name, record)

    recording("fsync", lambda handle: Path(os.readlink(f"/proc/self/fd/{handle}")))
    recording("replace", Path)
    write(tmp_path / "out", "new", folder=folder)
    flushed = [".out.partial", ".out.partial/inside"] if folder else [".out.partial"]
    assert calls == [
        *(("fsync", name) for name in flushed),
        ("replace", ".out.partial"),
        ("fsync", "."),
    ]
