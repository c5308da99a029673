"""The service: the version that is served, and the calls that wait for it."""

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar, TypeVarTuple

from latentworks.errors import LatentworksError
from latentworks.server.batching import Batching
from latentworks.server.budget import Overloaded, Share
from latentworks.server.model import Model
from latentworks.serving.servable import Outputs

ASIDE = ThreadPoolExecutor(2, "aside")  # two threads bound the memory
OUTPUT = 16  # bytes of memory for each number of an answer: as float32, as uint8 and as text
SILENCE = 180.0  # seconds; fetching and checking a version takes less
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def aside(large: bool, do: Callable[[*Ts], T], *arguments: *Ts) -> T:
    """Return `do(*arguments)`. If `large`, a thread runs it, so that other requests can go on."""
    if not large:
        return do(*arguments)
    return await asyncio.get_running_loop().run_in_executor(ASIDE, do, *arguments)


class NotReady(LatentworksError):
    """No version is loaded yet."""


@dataclass
class Following:
    """The state of the alias that the server follows."""

    model: str
    alias: str
    target: int | None = None  # the version that the alias names
    answered: float | None = None  # monotonic time of the registry's last answer
    fault: str = ""  # why the registry does not answer, or names no version
    shown: str = ""  # the same for everybody: without addresses
    refused: dict[int, str] = field(default_factory=dict)  # refused versions, and the reasons

    @property
    def registry(self) -> str:
        """The state of the registry, for everybody: "answers", or how it does not."""
        if self.fault or self.answered is None:
            return "not asked yet" if not self.fault else self.shown or "does not answer"
        silent = time.monotonic() - self.answered
        return "answers" if silent < SILENCE else f"no answer for {silent:.0f} seconds"


class Service:
    """Answers the calls of the HTTP API. `model` may be replaced at any time."""

    def __init__(self, following: Following, *, max_waiting: int) -> None:
        self.following = following
        self.model: Model | None = None
        self.swaps = 0
        self.max_waiting = max_waiting
        self.waiting = 0
        self._batching = Batching()

    def swap(self, model: Model) -> None:
        """Answer new calls by `model`. Calls that arrived before keep the previous one."""
        self.swaps += self.model is not None
        self.model = model
        # The objects of the model stay, so that the garbage collector need not search them.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self.following.refused.pop(model.version.number, None)

    @property
    def served_model(self) -> Model:
        """The version that is served. Raises NotReady."""
        if self.model is None:
            name = f"{self.following.model}@{self.following.alias}"
            raise NotReady(f"No version of {name} is loaded yet. See /ready.")
        return self.model

    async def call(
        self,
        model: Model,
        verb: object,
        inputs: object,
        params: Mapping[str, object],
        *,
        large: bool,
        share: Share,
    ) -> Outputs:
        """Return the outputs of a verb. `large` is True if resizing the inputs may take long.

        `share` claims the bytes of memory that the answer takes. Raises InputError and Overloaded.
        """
        if self.waiting >= self.max_waiting:
            raise Overloaded(f"{self.waiting} calls are waiting already. Try again in a second.")
        self.waiting += 1
        try:
            inputs, params = await aside(large, model.checked, verb, inputs, params)
            num_bytes = OUTPUT * model.num_outputs(verb, inputs, params)
            await share.in_turn(aside, False, share.claim, num_bytes)
            return await self._batching.call(model.call, verb, inputs, params)
        except asyncio.CancelledError:  # the call took longer than the server's shutdown waits
            raise Overloaded("The server is shutting down. Try again in a second.") from None
        finally:
            self.waiting -= 1

    async def close(self) -> None:
        await asyncio.to_thread(self._batching.close)

    def state(self) -> dict[str, object]:
        """Return the content of /ready: the version that is served, and the state of the alias."""
        following = self.following
        return {
            "ready": self.model is not None,
            "model": str(self.model.version) if self.model else None,
            "alias": f"{following.model}@{following.alias}",
            "target": following.target,
            "registry": following.registry,
            "refused": {str(number): why for number, why in following.refused.items()},
        }
