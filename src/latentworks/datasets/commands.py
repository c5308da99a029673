"""Programs that download: they end with this process, and have a deadline."""

import os
import subprocess
import sys
from pathlib import Path

from latentworks.datasets.pinned import MirrorError
from latentworks.system import processes


def run(command: list[str], folder: Path, timeout: float, check: bool = True) -> None:
    """Run a command in `folder`, with its progress on a terminal.

    Raises MirrorError after `timeout` seconds, and, if `check`, at another exit code than 0.
    """
    try:
        subprocess.run(
            processes.tied(command),
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=None if sys.stdout.isatty() else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=timeout,
            check=check,
        )
    except subprocess.TimeoutExpired:
        raise MirrorError(f"{command[0]} took over {timeout:.0f} seconds") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        raise MirrorError(lines[-1] if lines else f"{command[0]} failed") from None
