"""The recorded memory of a stage is what it cannot do without."""

import subprocess
import sys
from pathlib import Path

import pytest

from checkouts import ROOT, environment

SIZE = 200_000_000  # bytes
MAPPED = f"""
import numpy as np
pages = np.memmap(sys.argv[1], np.uint8, "r", shape=({SIZE},))[::4096].sum()
"""
OWN = f"held = bytearray(b'1' * {SIZE})"
SEEN = f"""
while memory._seen[0] < before + {SIZE}:
    time.sleep(0.01)
"""
FREED = f"{OWN}{SEEN}del held"
OF_A_CHILD = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", "{OWN}; input()"], stdin=subprocess.PIPE)
{SEEN}
child.communicate(b"\\n")
"""


@pytest.mark.cold
@pytest.mark.parametrize(
    ("work", "is_needed"), [(MAPPED, False), (OWN, True), (FREED, True), (OF_A_CHILD, True)]
)
def test_mapped_files_do_not_count(work: str, is_needed: bool, tmp_path: Path) -> None:
    file = tmp_path / "data"
    with file.open("wb") as empty:
        empty.truncate(SIZE)
    script = f"""
import sys, time
from latentworks.system import memory
memory.watch()
before = memory.peak()
{work}
print(memory.peak() - before)
"""
    path = environment(PYTHONPATH=str(ROOT / "src"))
    call = [sys.executable, "-c", script, str(file)]
    done = subprocess.run(
        call, env=path, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    assert (int(done.stdout) >= SIZE) == is_needed
