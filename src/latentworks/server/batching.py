"""Requests that arrive together are answered by one call of the model."""

import asyncio
import queue
import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentworks.errors import InputError

BY_ROWS = ("reconstruct", "encode", "decode", "anomaly_score")  # row N of the answer is of row N
LARGE = 64  # rows: a call with more goes another way, so that nobody waits behind it
MAX_ROWS = 256  # in one call


@dataclass
class Job:
    """A call that somebody waits for."""

    call: Callable[[str, Any, Mapping[str, Any]], Any]  # of the version that was there when it came
    verb: str
    inputs: Any
    params: Mapping[str, Any]
    answer: "Future[Any]" = field(default_factory=Future)

    @property
    def rows(self) -> int:
        """How many images or latents it is about."""
        sent = len(self.inputs) if isinstance(self.inputs, list | np.ndarray) else 1
        num = self.params.get("num", 1)
        return max(sent, num) if isinstance(num, int) else sent

    @property
    def kind(self) -> Hashable:
        """Jobs of one kind can be one call; None for one that stays alone."""
        if self.verb not in BY_ROWS or not isinstance(self.inputs, np.ndarray):
            return None
        if any(type(value) not in (int, str) for value in self.params.values()):
            return None
        params = frozenset(self.params.items())
        return (self.call, self.verb, params, self.inputs.shape[1:], self.inputs.dtype)


class Lane:
    """A thread that does jobs, all that are waiting at once."""

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
            del job, waiting, jobs  # their arrays are not kept while there is nothing to do


class Batching:
    """What the server calls: small jobs together, large ones beside them."""

    def __init__(self) -> None:
        self._small, self._large = Lane("small calls"), Lane("large calls")

    async def call(
        self,
        call: Callable[[str, Any, Mapping[str, Any]], Any],
        verb: str,
        inputs: Any,
        params: Mapping[str, Any],
    ) -> Any:
        """`call(verb, inputs, params)`, together with others where that can be.

        Arrays are as the verb works on them, [N, …]. Raises what the call raises.
        """
        job = Job(call, verb, inputs, params)
        (self._large if job.rows > LARGE else self._small).put(job)
        return await asyncio.wrap_future(job.answer)

    def close(self) -> None:
        """Return when all that was asked for is done."""
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
        except Exception:  # by whose fault shows below
            pass
        else:
            for job, answer in zip(jobs, answers, strict=True):
                job.answer.set_result(answer)
            return
    for job in jobs:
        try:
            job.answer.set_result(job.call(job.verb, job.inputs, job.params))
        except InputError as error:
            error.__context__ = None  # frames, which would keep the inputs
            job.answer.set_exception(error.with_traceback(None))
        except Exception as error:
            job.answer.set_exception(error)


def _together(jobs: list[Job]) -> list[Any]:
    first = jobs[0]
    answer = first.call(first.verb, np.concatenate([job.inputs for job in jobs]), first.params)
    ends = np.cumsum([job.rows for job in jobs])[:-1]
    if isinstance(answer, dict):
        parts = {name: np.split(values, ends) for name, values in answer.items()}
        return [{name: parts[name][number] for name in parts} for number in range(len(jobs))]
    return np.split(answer, ends)
