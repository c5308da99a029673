"""Measure the seconds and the memory of 10,000 samples, drawn and decoded by a servable.

`python scripts/sampling_cost.py FOLDER` loads the servable in FOLDER and prints both as JSON. Two
cores are used. The memory is the peak of the anonymous and shared memory of the whole process,
which does nothing else. The time to load the servable is left out. This needs Linux.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NUM_IMAGES = 10_000
NUM_CORES = 2
SECONDS, MEGABYTES = "sampling.seconds", "sampling.peak_memory_mb"


def measure(folder: Path) -> dict[str, float]:
    """Measure the servable in `folder` in a process of its own. Not on Linux: return nothing."""
    if sys.platform != "linux":
        return {}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, check=True, text=True
    )
    cost: dict[str, float] = json.loads(done.stdout)
    return cost


def main(folder: Path) -> None:
    # Before the imports, whose libraries start a thread for each core.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_CORES])
    from latentworks.serving.servable import load
    from latentworks.system import memory

    memory.watch()
    servable: Any = load(folder)
    started = time.monotonic()
    images = servable.sample(None, num=NUM_IMAGES, seed=0)
    seconds = time.monotonic() - started
    assert len(images) == NUM_IMAGES
    print(json.dumps({SECONDS: round(seconds, 1), MEGABYTES: round(memory.peak() / 1e6)}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    main(parser.parse_args().folder)
