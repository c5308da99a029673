"""MLflow shows what the files say: one run for each result, a model with its sampler.

A run is found by the digests of its files, so a stage that DVC skips leaves no hole, and a run
that is missing (a new store, a server that was down) is written again from the files. Writing
the same thing twice changes nothing.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentworks import params
from latentworks.errors import LatentworksError
from latentworks.repository import dag, git, timings
from latentworks.repository.result import Outputs
from latentworks.system import locks
from latentworks.tracking.live import Live
from latentworks.tracking.uri import SQLITE, configure_client, tracking_uri, without_password

if TYPE_CHECKING:
    from latentworks.tracking.runs import Store
PATIENCE = 10.0  # seconds that a stage waits, in all, for a store
LAST_PATIENCE = 4.0  # of a stage that was told to end
MAX_WAITING = 100  # epochs kept for a server that is slow; what is left out is written at the end
MAKING = 120.0  # seconds for a new store of files, which takes some 10, and for MLflow's import


def _sections(root: Path, stage: str) -> dict[str, Any]:
    """The parameters that made what is there when `stage` ends.

    dvc.lock has them for the stages before it; params.yaml may have been edited since those ran.
    """
    sections: dict[str, Any] = {}
    with suppress(LatentworksError):  # edited into something unreadable: the view has less to show
        sections |= params.read(root / params.PARAMS)
        recorded = dag.recorded(root)
        names = list(dag.stages(root))
        for earlier in names[: names.index(stage)]:
            if earlier in recorded:
                sections |= recorded[earlier].params
    return sections


def log(stage: str, outputs: Outputs) -> None:
    """Show what `stage` made in the run of this result. Never fails, and never waits for long."""
    timings.write(stage, outputs.digest_of(stage))
    root = dag.root()
    outbox = Outbox(root)
    made = replace(outputs, params=_sections(root, stage))
    outbox.send(lambda store: store.write(made))
    outbox.close()


def sync(outputs: Outputs, root: Path) -> str | None:
    """Write the run of the files in `root`, or what it lacks; return what is wrong.

    Nothing waits behind it, so that a slow server has all the time it takes; each call of MLflow's
    client ends by itself where none answers.
    """
    with locks.exclusive(locks.of(root, "sync"), "write to MLflow"):
        outbox = Outbox(root, patience=None)
        outbox.send(lambda store: store.write_all(outputs))  # one call, so that any fault is told
        return outbox.close()


class LiveRun:
    """The run of a training that is under way."""

    def __init__(self, outbox: Outbox, live: Live, outputs: Outputs) -> None:
        self.outbox = outbox
        self.live = live
        self.outputs = outputs
        self.code = git.code(outbox.root)

    def log_epoch(self, epoch: dict[str, float], grid: np.ndarray) -> None:
        """Add a point to the curves and the reconstructions as they are now, uint8 [h, w, C]."""
        self.live.add(int(epoch["epoch"]), grid)
        if self.outbox.num_waiting() < MAX_WAITING:
            self.outbox.send(lambda store: store.log_epoch(epoch))

    def finish(self, model: Path) -> None:
        """The training is over and its model is written: the run belongs to this model now."""
        outputs = replace(self.outputs, model=model)
        timings.write("train", outputs.digest_of("train"), self.code)
        self.live.became(outputs.model_digest())
        self.outbox.send(lambda store: store.finish_training(outputs))


@contextmanager
def live_run(fingerprint: str, outputs: Outputs) -> Iterator[LiveRun]:
    """Open the run of a training, or the one in which the same training was interrupted."""
    root = dag.root()
    outbox = Outbox(root)
    outputs = replace(outputs, params=_sections(root, "train"))
    live = Live(root, without_password(outbox.uri))
    live.begin(fingerprint)
    outbox.send(lambda store: store.start_training(fingerprint, outputs))
    try:
        yield LiveRun(outbox, live, outputs)
    except Exception:
        outbox.send(lambda store: store.stop_training("FAILED"))
        raise
    except BaseException:  # told to end
        outbox.patience = LAST_PATIENCE
        outbox.send(lambda store: store.stop_training("KILLED"))
        raise
    finally:
        outbox.close()


class Outbox:
    """Calls to MLflow, made one after the other in a thread of their own.

    A training never waits for a server. Only `close` does, for so many seconds; with None, until
    all is sent.
    """

    def __init__(self, root: Path, patience: float | None = PATIENCE) -> None:
        self.root = root
        self.uri = tracking_uri(root)
        database = Path(self.uri.removeprefix(SQLITE))
        new = self.uri.startswith(SQLITE) and not database.exists()
        self.patience = MAKING if new and patience is not None else patience
        self.fault: str | None = None
        self._imported = threading.Event()
        self._given_up = False
        self._calls: queue.SimpleQueue[Callable[[Store], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def send(self, call: Callable[[Store], None]) -> None:
        """Make `call` when its turn comes."""
        self._calls.put(call)

    def num_waiting(self) -> int:
        return self._calls.qsize()

    def close(self) -> str | None:
        """Wait until all is sent or the patience is over; say what went wrong, once."""
        self._calls.put(None)
        self._imported.wait(MAKING)  # which is no server's fault
        self._thread.join(self.patience)
        if self._thread.is_alive():
            self._given_up = True
            self.fault = f"it was not done in {self.patience:.0f} seconds"
        if self.fault:
            print(
                f"warning: MLflow at {without_password(self.uri)} was not updated: {self.fault}. "
                "Nothing is lost: `latentworks sync` writes the run from the files.",
                file=sys.stderr,
            )
        return self.fault

    def _work(self) -> None:
        configure_client()
        # It takes seconds; in this thread no stage waits for them before it has to.
        from latentworks.tracking.runs import Store

        self._imported.set()
        store: Store | None = None
        while (call := self._calls.get()) is not None and not self._given_up:
            try:
                if store is None:
                    store = Store(self.uri, self.root)
                call(store)
                self.fault = None  # the last call counts: it writes what earlier ones could not
            except Exception as error:  # whatever it is, a training is worth more than its view
                fault = (str(error).splitlines() or [type(error).__name__])[0][:200]
                self.fault = without_password(fault)
        if store is not None:
            store.close()
