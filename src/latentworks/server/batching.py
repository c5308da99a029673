"""Batching: one call of the model answers requests that arrive together."""

import asyncio
import queue
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from latentworks.errors import InputError
from latentworks.serving.servable import Outputs

BY_ROWS = ("reconstruct", "encode", "decode", "anomaly_score")  # row i of inputs gives row i
Call = Callable[[object, object, Mapping[str, object]], Outputs]  # of verb, inputs and params
LARGE = 64  # rows; larger calls have a thread of their own, so that small ones need not wait
MAX_ROWS = 256  # in one call of the model


@dataclass
class Job:
    """A call whose answer a request awaits."""

    call: Call  # of the version when the request arrived
    verb: object
    inputs: object
    params: Mapping[str, object]
    answer: "Future[Outputs]" = field(default_factory=Future)

    @property
    def rows(self) -> int:
        """The number of images or latents that the call takes or returns."""
        sent = len(self.inputs) if isinstance(self.inputs, list | np.ndarray) else 1
        num = self.params.get("num", 1)
        return max(sent, num) if isinstance(num, int) else sent

    @property
    def kind(self) -> Hashable:
        """The key of jobs that one call can answer together; None for a job on its own."""
        if self.verb not in BY_ROWS or not isinstance(self.inputs, np.ndarray):
            return None
        if any(type(value) not in (int, str, bool) for value in self.params.values()):
            return None
        params = frozenset(self.params.items())
        return (self.call, self.verb, params, self.inputs.shape[1:], self.inputs.dtype)


class Lane:
    """A thread that takes all waiting jobs at once and answers them."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            waiting = [job]
            while not self._jobs.empty() and sum(each.rows for each in waiting) < MAX_ROWS:
                another = self._jobs.get()
                if another is None:
                    self._jobs.put(None)
                    break
                waiting.append(another)
            for jobs in _grouped(waiting):
                _do(jobs)
            del job, waiting, jobs  # frees their arrays while the thread waits


class Batching:
    """Calls of the server: small jobs in one thread, large jobs in another."""

    def __init__(self) -> None:
        self._small, self._large = Lane("small calls"), Lane("large calls")

    async def call(
        self, call: Call, verb: object, inputs: object, params: Mapping[str, object]
    ) -> Outputs:
        """Return `call(verb, inputs, params)`, batched with other calls if possible.

        Arrays have the shape of the verb, [N, …]. Raises what the call raises.
        """
        job = Job(call, verb, inputs, params)
        (self._large if job.rows > LARGE else self._small).put(job)
        return await asyncio.wrap_future(job.answer)

    def close(self) -> None:
        """Finish all jobs and end both threads."""
        for lane in (self._small, self._large):
            lane.close()


def _grouped(jobs: list[Job]) -> list[list[Job]]:
    groups: dict[Hashable, list[Job]] = {}
    for number, job in enumerate(jobs):
        kind = job.kind
        groups.setdefault(("alone", number) if kind is None else kind, []).append(job)
    return [*groups.values()]


def _do(jobs: list[Job]) -> None:
    jobs = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
    if len(jobs) > 1:
        try:
            answers = _together(jobs)
        except Exception:  # each job is then tried alone, below, to find the faulty one
            pass
        else:
            for job, answer in zip(jobs, answers, strict=True):
                job.answer.set_result(answer)
            return
    for job in jobs:
        try:
            job.answer.set_result(job.call(job.verb, job.inputs, job.params))
        except InputError as error:
            error.__context__ = None  # its frames would keep the inputs in memory
            job.answer.set_exception(error.with_traceback(None))
        except Exception as error:
            job.answer.set_exception(error)


def _together(jobs: list[Job]) -> Sequence[Outputs]:
    first = jobs[0]
    inputs = np.concatenate([np.asarray(job.inputs) for job in jobs])
    answer = first.call(first.verb, inputs, first.params)
    ends = np.cumsum([job.rows for job in jobs])[:-1]
    if isinstance(answer, dict):
        parts = {name: np.split(values, ends) for name, values in answer.items()}
        return [{name: parts[name][number] for name in parts} for number in range(len(jobs))]
    return np.split(answer, ends)
