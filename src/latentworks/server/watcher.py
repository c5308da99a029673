"""Watches an alias and fetches its versions, in a process of its own.

The process writes lines of JSON to standard output: the version that the alias names, the folder of
a version that passed its checks, why a version is refused, or why the registry does not answer.
This keeps MLflow, which takes seconds to import, and broken versions out of the server.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from latentworks.errors import LatentworksError, RegistryError, Unavailable
from latentworks.registry.decisions import Decisions
from latentworks.registry.signatures import COVERED, KEY, SIGNATURE
from latentworks.registry.versions import VERSIONS, Version, Versions
from latentworks.server.report import Report
from latentworks.system import console, processes
from latentworks.system.console import first_line
from latentworks.tracking import bounded
from latentworks.tracking.faults import one_line
from latentworks.tracking.uri import URI

TAGS = (KEY, SIGNATURE, *COVERED)  # what a check of the signature needs
PREFLIGHT_TIMEOUT = 120.0  # seconds for a pre-flight
RETRY = 300.0  # seconds until a refused version is checked again: files may have been away


def watch(uri: str, home: Path, name: str, alias: str, every: float, follow_any: bool) -> None:
    """Check the alias every `every` seconds, without end.

    With `follow_any`, also report a version that no decision on record made champion.
    """
    store = None
    reported: tuple[int, str] | None = None  # number and sha256 of the version reported last
    again = math.inf  # when a refused version is checked again
    while True:
        try:
            # Each check has a deadline of its own for all its calls.
            with one_line(uri, "Waiting for it."), bounded.together(bounded.Budget()):
                store = store or Versions(uri, home / VERSIONS)
                version = store.aliased(name, alias)
                if version is None:
                    fault = f"{name} has no version with the alias {alias}{store.doubt(name)}."
                    fault += " Waiting for one."
                    _say({"fault": fault, "shown": fault})
                else:
                    _say({"target": version.number})
                    if reported != (version.number, version.sha256) or time.monotonic() > again:
                        about: Report = {
                            "number": version.number,
                            "sha256": version.sha256,
                            "tags": {tag: version.tags.get(tag, "") for tag in TAGS},
                        }
                        try:
                            if not follow_any:
                                _demand_decision(store, version)
                            folder = store.fetch(version)
                            _try(folder)
                        except Unavailable:
                            raise
                        except RegistryError as error:
                            _say({"refused": str(error), **about})
                            again = time.monotonic() + RETRY
                        else:
                            _say({"folder": str(folder), **about})
                            again = math.inf
                        reported = (version.number, version.sha256)
        except (LatentworksError, OSError) as error:
            _say({"fault": str(error)})
            if console.abandoned.is_set():  # the thread would stay; the server starts a new watcher
                os._exit(error.exit_code if isinstance(error, LatentworksError) else 1)
        except Exception as error:  # a server that is no registry may cause anything
            fault = f"{type(error).__name__}: {first_line(error)}"
            _say({"fault": f"The registry sent no valid answer: {fault}"})
        time.sleep(every)


def _demand_decision(store: Versions, version: Version) -> None:
    """Raise RegistryError unless a decision on record made this version champion."""
    decided = Decisions(store.client).champions(version.name)
    if version.number not in decided:
        last = f"made version {max(decided)} champion" if decided else "made none champion"
        raise RegistryError(
            f"{version} is champion by no decision on record: somebody moved the alias. The last "
            f"decision {last}. Move the alias back, and run `latentworks promote "
            f"{version.number}`; or serve with --follow-any."
        )


def _try(folder: Path) -> None:
    """Load a version and repeat its golden calls, in a process of its own.

    Raises RegistryError if the version fails, Unavailable if the check cannot be completed now.
    """
    call = [sys.executable, "-P", "-m", "latentworks.server.trial", str(folder)]
    try:
        tried = subprocess.run(
            processes.tied(call),
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # SHA256SUMS covers the folder
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PREFLIGHT_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise RegistryError(f"pre-flight: no answer in {PREFLIGHT_TIMEOUT:.0f} seconds") from None
    if tried.returncode == -signal.SIGKILL:  # most often because memory ran out
        raise Unavailable("pre-flight: the process was killed. The server tries again.")
    if tried.returncode != 0:
        silent = f"pre-flight: the process ended with exit code {tried.returncode}"
        lines = tried.stdout.strip().splitlines() or [silent]
        kind = Unavailable if tried.returncode == Unavailable.exit_code else RegistryError
        raise kind(lines[-1])


def _say(report: Report) -> None:
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    home, name, alias, every, follow_any = sys.argv[1:]
    watch(os.environ[URI], Path(home), name, alias, float(every), follow_any == str(True))
