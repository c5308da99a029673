"""Follows an alias: loads the versions that the watching process reports."""

import json
import os
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from latentworks.errors import LatentworksError, Unavailable
from latentworks.registry.signatures import Keys
from latentworks.server.model import Model, Named
from latentworks.server.report import Report
from latentworks.server.service import Service
from latentworks.serving import checksums
from latentworks.system import disk, processes
from latentworks.system.console import first_line
from latentworks.tracking.uri import URI

PATHS = re.compile(r"(?<![\w:…])/[^\s'\",;)]+")  # absolute ones
AGAIN = 5.0  # seconds until a watching process that has ended is started again


class Follower:
    """Keeps a service on the version that an alias names."""

    def __init__(
        self, service: Service, home: Path, uri: str, every: float, follow_any: bool
    ) -> None:
        """Follow the alias of `service`.

        `home`: the folder for copies of versions. `every`: seconds between two checks.
        `follow_any`: also serve a version that no decision on record made champion.
        """
        self.service, self.home, self.uri = service, home, uri
        self.every, self.follow_any = every, follow_any
        following = service.following
        self.note = home / f"{following.model}@{following.alias}.json"

    def start(self) -> None:
        """Load the copy of the version that was served last, if it is undamaged, and follow on."""
        self._begin()
        threading.Thread(target=self._follow, name="following", daemon=True).start()

    def _begin(self) -> None:
        try:
            last = disk.read_json(self.note)
            folder = self.home / last["folder"]
            version = Named(self.service.following.model, last["number"], last["sha256"])
            signed = {**last["tags"], "sha256": version.sha256}
            Keys.of_user().check(str(version), version.name, signed)
            checksums.verify(folder, version.sha256, str(version))
            self.service.swap(Model(version, folder))
        except FileNotFoundError:
            pass
        except Exception as error:  # a damaged copy may raise anything; it is fetched again
            print(
                f"The stored copy cannot be used and will be fetched again: {_line(error)}",
                file=sys.stderr,
            )

    def _follow(self) -> None:
        following = self.service.following
        call = [sys.executable, "-P", "-m", "latentworks.server.watcher"]
        call += [str(self.home), following.model, following.alias]
        call += [str(self.every), str(self.follow_any)]
        env = {**os.environ, URI: self.uri}  # other users could read a password in an argument
        while True:
            try:
                code = processes.stream(call, Path.cwd(), self._carry_out, env, err=None)
                ended = f"ended with {code}"
                if code == Unavailable.exit_code:  # and has said why
                    time.sleep(AGAIN)
                    continue
            except Exception as error:  # the server must go on following after any fault
                ended = f"failed: {_line(error)}"
            following.shown = ""
            following.fault = f"the watching process {ended}; it is started again"
            time.sleep(AGAIN)

    def _carry_out(self, line: str) -> None:
        following = self.service.following
        report: Report = json.loads(line)
        if "fault" in report:
            if report["fault"] != following.fault:
                print(report["fault"], file=sys.stderr)
            following.shown, following.fault = report.get("shown", ""), report["fault"]
        if "target" in report:
            target = following.target = report["target"]
            following.fault = ""
            # Refusals of versions that the alias no longer names are forgotten.
            following.refused = {n: why for n, why in following.refused.items() if n == target}
            following.answered = time.monotonic()
        if "refused" in report:
            following.refused[report["number"]] = self._public(report["refused"])
            print(f"refused: {report['refused']}", file=sys.stderr)
        if "folder" in report:
            version = Named(following.model, report["number"], report["sha256"])
            self._swap(version, report["folder"], report["tags"])

    def _swap(self, version: Named, folder: str, tags: dict[str, str]) -> None:
        if self.service.model is not None and self.service.model.version == version:
            return
        try:
            model = Model(version, Path(folder))
        except Exception as error:
            self.service.following.refused[version.number] = self._public(_line(error))
            print(f"refused: {version}: {_line(error)}", file=sys.stderr)
            return
        with suppress(OSError):  # without the note, the next start fetches from the registry
            place = str(Path(folder).relative_to(self.home))
            about: Report = {"number": version.number, "sha256": version.sha256, "folder": place}
            about["tags"] = tags  # with the signature, which the next start checks
            disk.write_json(self.note, about)
        self.service.swap(model)
        print(f"serving {version}", file=sys.stderr)

    def _public(self, reason: str) -> str:
        """Return a reason for everybody: without paths of this machine."""
        return PATHS.sub("…", reason.replace(str(self.home), "…"))


def _line(error: Exception) -> str:
    if isinstance(error, LatentworksError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"
