"""What can go wrong for a user, and the exit code that says so.

A message is one sentence or a few: what happened, what was expected, what was received, the cure.
"""


class LatentworksError(Exception):
    """Shown as its message alone, without a traceback."""

    exit_code = 1


class ParamsError(LatentworksError):
    """params.yaml does not say what it should."""

    exit_code = 2


class DataError(LatentworksError):
    """The images cannot be used, or too few of them can."""

    exit_code = 3


class TrainingError(LatentworksError):
    """The training went wrong: it diverged, for instance."""

    exit_code = 4


class InputError(LatentworksError):
    """What was sent to a model is not what it works on."""

    exit_code = 5


class RegistryError(LatentworksError):
    """A model cannot be registered or found."""

    exit_code = 6


class Unavailable(RegistryError):
    """The registry does not answer, or not now."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


class NoChampion(RegistryError):
    """There is nothing yet to compare with."""


class Refused(LatentworksError):
    """A version does not deserve the alias; the message says why."""

    exit_code = 7


class Differs(LatentworksError):
    """What was made again is not what was recorded."""

    exit_code = 9


class UnsafeModel(LatentworksError):
    """A model file is not one of ours, or could run code when it is opened."""

    exit_code = 10


class Damaged(LatentworksError):
    """Stored data is not what was recorded, and there is nothing to mend it from."""

    exit_code = 11


class Busy(LatentworksError):
    """Another process does the same at the moment; the message says which."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


def by_exit_code(exit_code: int) -> type[LatentworksError]:
    """The error that a process of ours had which ended so."""
    waiting: list[type[LatentworksError]] = [LatentworksError]
    kinds: dict[int, type[LatentworksError]] = {}
    while waiting:
        kind = waiting.pop()
        kinds.setdefault(kind.exit_code, kind)
        waiting += kind.__subclasses__()
    return kinds.get(exit_code, LatentworksError)
