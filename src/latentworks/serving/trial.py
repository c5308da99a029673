"""The end of a program that tries a model, which may be broken: one line and an exit code."""

import json
import sys
from collections.abc import Callable

from latentworks.errors import LatentworksError, RegistryError, Unavailable
from latentworks.system.console import first_line


def exit_with_line(program: Callable[[], None]) -> None:
    """Call `program`; print its exception as the last line of standard output, and exit."""
    try:
        program()
    except LatentworksError as error:
        print(error)
        sys.exit(error.exit_code)
    except MemoryError:
        print("pre-flight: not enough memory")
        sys.exit(Unavailable.exit_code)
    except Exception as error:  # a broken model may raise anything
        text = json.dumps(first_line(error))[1:-1]
        print(f"pre-flight: the model fails: {type(error).__name__}: {text}")
        sys.exit(RegistryError.exit_code)
