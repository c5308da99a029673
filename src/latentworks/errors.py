"""The errors that a user can meet, and the exit code of a command that ends with each.

* LatentworksError (1): any error below.
  * ParamsError (2): params.yaml is invalid.
  * DataError (3): the images cannot be used, or too few of them can.
  * TrainingError (4): training failed, for example because the loss diverged.
  * InputError (5): a model was sent inputs that it does not accept.
  * RegistryError (6): a model cannot be registered or found.
    * Unavailable (69): the registry does not respond, or cannot serve the request now.
    * NoChampion (6): no version is champion yet.
    * Untrusted (12): a version is not signed by a key that the user trusts.
      * Tampered (12): a version has the signature of other files.
  * Refused (7): a result or a version does not qualify for the registry or the alias.
  * Differs (9): a rebuilt version differs from the recorded one.
  * UnsafeModel (10): a model file was not written by latentworks, or could run code when opened.
  * Damaged (11): stored data is damaged, and no intact copy is left to repair it from.
  * Busy (75): another process holds the lock.

Unavailable and Busy pass: the same command can succeed later. Refused, Differs, Tampered and
UnsafeModel are for good. All others need a change, which the message names.

A message is one line (ParamsError: one line per fault): what failed, why, with the value received,
and what to do next.
"""


class LatentworksError(Exception):
    """Base of all errors that a command shows as one line, without a traceback."""

    exit_code = 1


class ParamsError(LatentworksError):
    """params.yaml is invalid."""

    exit_code = 2


class DataError(LatentworksError):
    """The images cannot be used, or too few of them can."""

    exit_code = 3


class TrainingError(LatentworksError):
    """Training failed, for example because the loss diverged."""

    exit_code = 4


class InputError(LatentworksError):
    """A model was sent inputs that it does not accept."""

    exit_code = 5


class RegistryError(LatentworksError):
    """A model cannot be registered or found."""

    exit_code = 6


class Unavailable(RegistryError):
    """The registry does not respond, or cannot serve the request now: try again later."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


class NoChampion(RegistryError):
    """No version is champion yet, so nothing can be compared with it."""


class Untrusted(RegistryError):
    """A version is not signed by a key that the user trusts."""

    exit_code = 12


class Tampered(Untrusted):
    """A version has the signature of other files."""


class Refused(LatentworksError):
    """A result does not qualify for the registry, or a version for the alias."""

    exit_code = 7


class Differs(LatentworksError):
    """A rebuilt version differs from the recorded one."""

    exit_code = 9


class UnsafeModel(LatentworksError):
    """A model file was not written by latentworks, or could run code when it is opened."""

    exit_code = 10


class Damaged(LatentworksError):
    """Stored data is damaged, and no intact copy is left to repair it from."""

    exit_code = 11


class Busy(LatentworksError):
    """Another process holds the lock; the message names the process."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later


def by_exit_code(exit_code: int) -> type[LatentworksError]:
    """Return the error class of a latentworks process that ended with `exit_code`."""
    waiting: list[type[LatentworksError]] = [LatentworksError]
    kinds: dict[int, type[LatentworksError]] = {}
    while waiting:
        kind = waiting.pop()
        kinds.setdefault(kind.exit_code, kind)
        waiting += kind.__subclasses__()
    return kinds.get(exit_code, LatentworksError)
