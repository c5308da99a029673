"""The server's side of following an alias: what the watching process says, carried out."""

import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from latentworks.errors import LatentworksError
from latentworks.server.model import Model, Named
from latentworks.server.service import Service
from latentworks.serving import checksums
from latentworks.system import disk, processes
from latentworks.tracking.uri import URI

AGAIN = 5.0  # seconds until a watching process that ended is started anew


class Follower:
    """Keeps a service at the version that an alias names."""

    def __init__(self, service: Service, home: Path, uri: str, every: float) -> None:
        """`home`: where copies of versions are. `every`: seconds between two looks."""
        self.service, self.home, self.uri, self.every = service, home, uri, every
        following = service.following
        self.note = home / f"{following.model}@{following.alias}.json"

    def start(self) -> None:
        """Begin with the copy of last time, where it is whole, and follow from there."""
        self._begin()
        threading.Thread(target=self._follow, name="following", daemon=True).start()

    def _begin(self) -> None:
        try:
            noted = disk.read_json(self.note)
            folder = self.home / noted["folder"]
            version = Named(self.service.following.model, noted["number"], noted["sha256"])
            checksums.verify(folder, version.sha256, str(version))
            self.service.swap(Model(version, folder))
        except FileNotFoundError:
            pass
        except Exception as error:  # whatever a damaged copy does: it is fetched again
            print(f"the copy of last time cannot be used: {_line(error)}", file=sys.stderr)

    def _follow(self) -> None:
        following = self.service.following
        call = [sys.executable, "-P", "-m", "latentworks.server.watcher"]
        call += [str(self.home), following.model, following.alias, str(self.every)]
        env = {**os.environ, URI: self.uri}  # an argument would show its password to everybody
        while True:
            try:
                code = processes.stream(call, Path.cwd(), self._carry_out, env, err=None)
                ended = f"ended with {code}"
            except Exception as error:  # whatever it is: it is tried again, as long as we serve
                ended = f"failed: {_line(error)}"
            following.fault = f"the process that watches {ended}; it is started again"
            time.sleep(AGAIN)

    def _carry_out(self, line: str) -> None:
        following = self.service.following
        found: dict[str, Any] = json.loads(line)
        if "fault" in found:
            if found["fault"] != following.fault:
                print(found["fault"], file=sys.stderr)
            following.fault = found["fault"]
        if "target" in found:
            target = following.target = found["target"]
            following.fault = ""
            # What the alias has left is no longer of interest.
            following.refused = {n: why for n, why in following.refused.items() if n == target}
            following.answered = time.monotonic()
        if "refused" in found:
            following.refused[found["number"]] = found["refused"]
            print(f"refused: {found['refused']}", file=sys.stderr)
        if "folder" in found:
            self._swap(Named(following.model, found["number"], found["sha256"]), found["folder"])

    def _swap(self, version: Named, folder: str) -> None:
        if self.service.model is not None and self.service.model.version == version:
            return
        try:
            model = Model(version, Path(folder))
        except Exception as error:
            self.service.following.refused[version.number] = _line(error)
            return
        with suppress(OSError):  # on a full disk the next start has to ask the registry
            place = str(Path(folder).relative_to(self.home))
            about = {"number": version.number, "sha256": version.sha256, "folder": place}
            disk.write_json(self.note, about)
        self.service.swap(model)
        print(f"{version} is at work", file=sys.stderr)


def _line(error: Exception) -> str:
    if isinstance(error, LatentworksError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
