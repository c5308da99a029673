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
