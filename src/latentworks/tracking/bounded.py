"""MLflow's client, with a deadline for each of its calls, and one for all calls of a command.

A timeout of `requests` bounds the wait for the next piece of an answer. A server that sends a byte
a second, or a database whose driver tries again and again, would hold a command, and its lock, for
ever.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from mlflow import MlflowClient
from mlflow.store.db.db_types import DATABASE_ENGINES
from sqlalchemy import create_engine

from latentworks.errors import LatentworksError, Unavailable
from latentworks.system import console
from latentworks.tracking.uri import SQLITE, without_password

SECONDS = "LATENTWORKS_MLFLOW_SECONDS"  # environment variable: the deadline of a call
DEFAULT = 60.0  # seconds; a call is sent three times, with five seconds for each piece
FILES = 10  # a call that moves files has so many times the deadline
ALL = 60  # all calls of one command together have so many
MOVING = ("log_artifact", "log_image", "log_model_artifacts")

T = TypeVar("T")
P = ParamSpec("P")


class Budget:
    """The seconds that the calls of one command may take together."""

    def __init__(self, seconds: float | None = None) -> None:
        self.left = ALL * deadline() if seconds is None else seconds


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def together(budget: Budget) -> Iterator[None]:
    """Take the time of all calls in a `with` block from `budget`, except those in other threads.

    The time between the calls does not count.
    """
    before = _budget.get()
    _budget.set(budget)
    try:
        yield
    finally:
        _budget.set(before)


@contextmanager
def waiting(seconds: float) -> Iterator[float]:
    """Yield `seconds`, or what is left of the budget if it is less; take the block's time from it.

    Without a budget, yield `seconds`.
    """
    budget, began = _budget.get(), time.monotonic()
    try:
        yield seconds if budget is None else max(0.0, min(seconds, budget.left))
    finally:
        if budget is not None:
            budget.left -= time.monotonic() - began


def client(uri: str) -> MlflowClient:
    """Return a client of the store at `uri`. Its calls raise Unavailable at their deadline."""
    if uri.startswith(SQLITE):
        return MlflowClient(tracking_uri=uri)
    return cast(MlflowClient, _Bounded(uri, within(uri, 1, _connect, uri)))


def _connect(uri: str) -> MlflowClient:
    """Return a client of the server or the database at `uri`.

    MLflow repeats a connection to a database for 100 seconds, and tells the reason at the end.
    """
    if uri.partition("://")[0].partition("+")[0] in DATABASE_ENGINES:
        engine = create_engine(uri)
        engine.connect().close()
        engine.dispose()
    return MlflowClient(tracking_uri=uri)


class _Bounded:
    """A client whose methods end at a deadline."""

    def __init__(self, uri: str, client: MlflowClient) -> None:
        self._uri = uri
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found
        factor = FILES if name in MOVING else 1
        return lambda *arguments, **named: within(self._uri, factor, found, *arguments, **named)


def within(uri: str, factor: int, do: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Call `do` for the store at `uri`.

    Raises Unavailable after `factor` deadlines, or when the budget of the command is used up. The
    call then goes on in a thread that ends with this process; its answer is not used.
    """
    answers: list[T] = []
    faults: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(do(*arguments, **named))
        except BaseException as fault:
            faults.append(fault)

    one = factor * deadline()
    thread = threading.Thread(target=work, daemon=True, name="a call of MLflow")
    with waiting(one) as seconds:
        if seconds:
            thread.start()
            thread.join(seconds)
    if faults:
        raise faults[0]
    if answers:
        return answers[0]
    if thread.is_alive():
        console.abandoned.set()
    place = without_password(uri)
    if seconds < one:
        raise Unavailable(
            f"MLflow at {place} did not complete all calls of this command within "
            f"{ALL * deadline():g} seconds, {ALL} times the deadline of one call "
            f"({SECONDS} sets another deadline. Received: {deadline():g})."
        )
    raise Unavailable(
        f"MLflow at {place} did not complete a call within {seconds:.0f} "
        f"seconds ({SECONDS} sets another deadline)."
    )


def deadline() -> float:
    """Return the deadline of a call in seconds."""
    text = os.environ.get(SECONDS) or str(DEFAULT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:
        raise LatentworksError(f"{SECONDS} is a number of seconds. Received: {text!r}.")
    return seconds
