"""Calls to MLflow from stages and commands, so that a slow or dead server never stops a training.

The files decide; MLflow shows them: one run for each result. A run is found by the digests of its
files. So a stage that DVC skips leaves no gap, and a run that is missing (a new store, a server
that was down) is written again from the files. To write a run twice changes nothing.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentworks import params
from latentworks.errors import LatentworksError
from latentworks.repository import dag, git, timings
from latentworks.repository.result import Result
from latentworks.system import locks
from latentworks.system.console import abandoned
from latentworks.tracking.live import Live
from latentworks.tracking.uri import SQLITE, configure_client, tracking_uri, without_password

if TYPE_CHECKING:
    from latentworks.tracking.store import Store
PATIENCE = 10.0  # seconds that a stage waits for a store, in total
LAST_PATIENCE = 4.0  # seconds, after SIGTERM
MAX_WAITING = 100  # epochs queued for a slow server; the others are written at the end
LATER = "Nothing is lost: `latentworks sync` writes the run from the files."
MAKING = 120.0  # seconds for a new SQLite store, which takes about 10, and for MLflow's import


def _sections(root: Path, stage: str) -> params.RawSections:
    """Return the sections of params.yaml that made the files at the end of `stage`.

    For earlier stages dvc.lock has them, since params.yaml may have been edited after they ran.
    """
    sections: params.RawSections = {}
    with suppress(LatentworksError):  # params.yaml became unreadable: the run shows fewer params
        current = params.read(root / params.PARAMS)
        stages = dag.stages(root)
        until_now = list(stages)[: list(stages).index(stage) + 1]
        for name in until_now:
            chosen = [each for each in stages[name].get("params", ()) if isinstance(each, str)]
            sections |= {section: current[section] for section in chosen if section in current}
        recorded = dag.recorded(root)
        for earlier in until_now[:-1]:
            if earlier in recorded:
                sections |= recorded[earlier].params
    return sections


def log(stage: str, result: Result) -> None:
    """Write the outs of `stage` to the run of this result. Never fails, and never waits long.

    `result` has the outs that the stage has read and written. runs.py lists those that are shown.
    """
    root = dag.root()
    with suppress(LatentworksError):  # dvc.yaml became unreadable: the timings are not shown
        timings.write(stage, result.digest_for(dag.stages(root)[stage]) or "")
    outbox = Outbox(root)
    made = replace(result, params=_sections(root, stage))
    outbox.send(lambda store: store.write(made))
    outbox.close()


def sync(result: Result, root: Path) -> str | None:
    """Write the run of the result in `root`, as far as MLflow lacks it; return the error, or None.

    No stage waits for it, so it has an hour, with the default deadline of a call, or what is left
    of the time of a command that syncs and does more.
    """
    from latentworks.tracking import bounded  # imports MLflow

    with (
        locks.exclusive(locks.of(root, "sync"), "write to MLflow"),
        bounded.waiting(bounded.ALL * bounded.deadline()) as patience,
    ):
        outbox = Outbox(root, patience)
        outbox.send(lambda store: store.write_all(result))  # one call: none hides its error
        return outbox.close()


class LiveRun:
    """The run of a training in progress."""

    def __init__(self, outbox: Outbox, live: Live, result: Result) -> None:
        self.outbox = outbox
        self.live = live
        self.result = result
        self.code = git.code(outbox.root)

    def log_epoch(self, epoch: dict[str, float], grid: np.ndarray) -> None:
        """Add a point to the curves, and a picture of reconstructions, uint8 [h, w, C]."""
        self.live.add(int(epoch["epoch"]), grid)
        if self.outbox.num_waiting() < MAX_WAITING:
            self.outbox.send(lambda store: store.log_epoch(epoch))

    def finish(self, model: Path) -> None:
        """Give the run to the model, which the finished training has written."""
        result = replace(self.result, outs={**self.result.outs, **Result.of(model).outs})
        timings.write("train", result.model_digest(), self.code)
        self.live.became(result.model_digest())
        self.outbox.send(lambda store: store.finish_training(result))


@contextmanager
def live_run(fingerprint: str, result: Result) -> Iterator[LiveRun]:
    """Open the run of a training, or reopen it if the same training was interrupted."""
    root = dag.root()
    outbox = Outbox(root)
    result = replace(result, params=_sections(root, "train"))
    live = Live(root, without_password(outbox.uri))
    live.begin(fingerprint)
    outbox.send(lambda store: store.start_training(fingerprint, result))
    try:
        yield LiveRun(outbox, live, result)
    except Exception:
        outbox.send(lambda store: store.stop_training("FAILED"))
        raise
    except BaseException:  # SIGTERM or Ctrl-C
        outbox.patience = LAST_PATIENCE
        outbox.send(lambda store: store.stop_training("KILLED"))
        raise
    finally:
        outbox.close()


class Outbox:
    """Calls to MLflow, made one after the other in a separate thread.

    Only `close` waits for the server: at most `patience` seconds.
    """

    def __init__(self, root: Path, patience: float = PATIENCE) -> None:
        self.root = root
        self.uri = tracking_uri(root)
        database = Path(self.uri.removeprefix(SQLITE))
        new = self.uri.startswith(SQLITE) and not database.exists()
        self.patience = max(patience, MAKING) if new else patience
        self.fault: str | None = None
        self._imported = threading.Event()
        self._given_up = False
        self._calls: queue.SimpleQueue[Callable[[Store], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def send(self, call: Callable[[Store], None]) -> None:
        """Queue a call."""
        self._calls.put(call)

    def num_waiting(self) -> int:
        return self._calls.qsize()

    def close(self) -> str | None:
        """Wait for the queued calls, at most `patience` seconds; print and return the error."""
        self._calls.put(None)
        self._imported.wait(MAKING)  # the import is slow, not the server
        self._thread.join(self.patience)
        if self._thread.is_alive():
            self._given_up = True
            abandoned.set()
            self.fault = f"the calls did not end within {self.patience:.0f} seconds. {LATER}"
        if self.fault:
            print(
                f"warning: MLflow at {without_password(self.uri)} was not updated: {self.fault}",
                file=sys.stderr,
            )
        return self.fault

    def _work(self) -> None:
        configure_client()
        # This import takes seconds. In this thread it delays no stage.
        from latentworks.tracking.faults import reason_and_cure
        from latentworks.tracking.store import Store

        self._imported.set()
        store: Store | None = None
        while (call := self._calls.get()) is not None and not self._given_up:
            try:
                if store is None:
                    store = Store(self.uri, self.root)
                call(store)
                self.fault = None  # the last call decides: it writes all that is missing
            except Exception as error:  # any error: a training must not fail because of MLflow
                self.fault = reason_and_cure(self.uri, error, LATER)
        if store is not None:
            store.close()
