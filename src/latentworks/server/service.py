"""The version at work, and the calls that wait for it."""

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from latentworks.errors import LatentworksError
from latentworks.server.batching import Batching
from latentworks.server.model import Model

ASIDE = ThreadPoolExecutor(2, "aside")  # no more, so that memory has a bound
SILENCE = 180.0  # seconds; to fetch and try a version takes less
T = TypeVar("T")


async def aside(large: bool, do: Callable[..., T], *arguments: Any) -> T:
    """`do(*arguments)`; where it is much, in a thread, so that others are answered meanwhile."""
    if not large:
        return do(*arguments)
    return await asyncio.get_running_loop().run_in_executor(ASIDE, do, *arguments)


class NotReady(LatentworksError):
    """There is no version yet that could answer."""


class Overloaded(LatentworksError):
    """As much is waiting as may wait."""


@dataclass
class Following:
    """What is known of the alias that the server follows."""

    model: str
    alias: str
    target: int | None = None  # the version that it names
    answered: float | None = None  # when the registry last did, on the monotonic clock
    fault: str = ""  # why it does not answer
    refused: dict[int, str] = field(default_factory=dict)  # versions that did not pass, and why

    @property
    def registry(self) -> str:
        """How it stands with the registry: "answers", or what else."""
        if self.fault or self.answered is None:
            return self.fault or "not asked yet"
        silent = time.monotonic() - self.answered
        return (
            "answers" if silent < SILENCE else f"nothing was heard of it for {silent:.0f} seconds"
        )


class Service:
    """What the HTTP side asks. `model` may be another one at any time."""

    def __init__(self, following: Following, *, max_waiting: int) -> None:
        self.following = following
        self.model: Model | None = None
        self.swaps = 0
        self.max_waiting = max_waiting
        self.waiting = 0
        self._batching = Batching()

    def swap(self, model: Model) -> None:
        """From now on calls are answered by this one; those that came before, by the one before."""
        self.swaps += self.model is not None
        self.model = model
        # What is there now stays; to look through it for garbage, again and again, takes long.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self.following.refused.pop(model.version.number, None)

    @property
    def at_work(self) -> Model:
        """Raises NotReady."""
        if self.model is None:
            name = f"{self.following.model}@{self.following.alias}"
            raise NotReady(f"there is no version of {name} to answer with yet; see /ready.")
        return self.model

    async def call(
        self, model: Model, verb: str, inputs: Any, params: Mapping[str, Any], *, large: bool
    ) -> Any:
        """The outputs of a verb. `large`: whether to settle the inputs may take long.

        Raises InputError and Overloaded.
        """
        if self.waiting >= self.max_waiting:
            raise Overloaded(f"{self.waiting} calls are waiting already; try again in a second.")
        self.waiting += 1
        try:
            inputs = await aside(large, model.settled, verb, inputs)
            return await self._batching.call(model.call, verb, inputs, params)
        except asyncio.CancelledError:  # it took longer than the end of the server waits
            raise Overloaded("the server is ending; try again in a second.") from None
        finally:
            self.waiting -= 1

    async def close(self) -> None:
        await asyncio.to_thread(self._batching.close)

    def state(self) -> dict[str, Any]:
        """For /ready: who answers, and how it stands with the alias."""
        following = self.following
        return {
            "ready": self.model is not None,
            "model": str(self.model.version) if self.model else None,
            "alias": f"{following.model}@{following.alias}",
            "target": following.target,
            "registry": following.registry,
            "refused": {str(number): why for number, why in following.refused.items()},
        }
