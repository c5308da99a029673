"""Watches an alias and brings its versions, in a process of its own.

It says what it finds in lines of JSON on standard output: where the alias leads, a folder whose
files and answers were checked, why a version is refused, or why the registry does not answer.
MLflow, which takes seconds to import, and versions that may be broken stay out of the server.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from latentworks.errors import LatentworksError, RegistryError, Unavailable
from latentworks.registry.versions import VERSIONS, Versions, one_line
from latentworks.system import processes
from latentworks.tracking.uri import URI

PATIENCE = 120.0  # seconds for a pre-flight
RETRY = 300.0  # seconds until a refused version is tried again: files may have been away


def watch(uri: str, home: Path, name: str, alias: str, every: float) -> None:
    """Look every so many seconds, for as long as this process runs."""
    store = None
    settled: tuple[int, str] | None = None  # what was said about last: number and sha256
    again = math.inf  # when what was refused is tried once more
    while True:
        try:
            with one_line(uri, "Waiting for it."):
                store = store or Versions(uri, home / VERSIONS)
                version = store.aliased(name, alias)
                if version is None:
                    _say(fault=f"{name} has no version with the alias {alias}; it is waited for")
                else:
                    _say(target=version.number)
                    if settled != (version.number, version.sha256) or time.monotonic() > again:
                        about = {"number": version.number, "sha256": version.sha256}
                        try:
                            folder = store.fetch(version)
                            _try(folder)
                        except Unavailable:
                            raise
                        except RegistryError as error:
                            _say(refused=str(error), **about)
                            again = time.monotonic() + RETRY
                        else:
                            _say(folder=str(folder), **about)
                            again = math.inf
                        settled = (version.number, version.sha256)
        except (LatentworksError, OSError) as error:
            _say(fault=str(error))
        except Exception as error:  # what a registry that is none can bring about
            text = (str(error).splitlines() or [""])[0][:200]
            _say(fault=f"the registry cannot be understood: {type(error).__name__}: {text}")
        time.sleep(every)


def _try(folder: Path) -> None:
    """Load a version and ask it its golden questions, in a process of its own.

    Raises RegistryError where it does not pass, Unavailable where that cannot be told now.
    """
    call = [sys.executable, "-P", "-m", "latentworks.server.trial", str(folder)]
    try:
        tried = subprocess.run(
            processes.tied(call),
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # a folder that is hashed stays
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise RegistryError(f"pre-flight: no answer in {PATIENCE:.0f} seconds") from None
    if tried.returncode == -signal.SIGKILL:  # most often for want of memory
        raise Unavailable("the pre-flight was killed; it is tried again.")
    if tried.returncode != 0:
        said = tried.stdout.strip().splitlines() or [f"it ended with {tried.returncode}"]
        kind = Unavailable if tried.returncode == Unavailable.exit_code else RegistryError
        raise kind(said[-1])


def _say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    home, name, alias, every = sys.argv[1:]
    watch(os.environ[URI], Path(home), name, alias, float(every))
