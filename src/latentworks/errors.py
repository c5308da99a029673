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
    """A model cannot be registered, or the registry does not answer."""

    exit_code = 6


class Refused(LatentworksError):
    """A version does not deserve the alias; the message says why."""

    exit_code = 7
