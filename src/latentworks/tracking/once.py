"""Creation of one object in MLflow, although its client repeats requests without an answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from mlflow.exceptions import MlflowException

from latentworks.errors import Unavailable

Found = TypeVar("Found")


def create_once(
    search: Callable[[], Sequence[Found]],
    create: Callable[[], object],
    delete: Callable[[Found], object] | None = None,
) -> Found:
    """Return the object that `search` finds first; call `create` before if it finds none.

    A request that a server has received but not answered is sent again, so `create` may make two:
    `delete` gets all but the first. Another process may also be faster than `create`. Raises
    Unavailable if `search` finds nothing after `create`.
    """
    found = search()
    if not found:
        with accepted("RESOURCE_ALREADY_EXISTS"):
            create()
        found = search()
    if not found:
        raise Unavailable("MLflow does not show an object that it has created. Try again.")
    first, *doubles = found
    for double in doubles:
        assert delete is not None  # the server allows one object of this name
        with accepted("RESOURCE_DOES_NOT_EXIST"):  # a repeated request has deleted it
            delete(double)
    return first


@contextmanager
def accepted(code: str) -> Iterator[None]:
    """Accept one of MLflow's error codes in a `with` block."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise
