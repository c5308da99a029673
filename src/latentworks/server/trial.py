"""`python -m latentworks.server.trial FOLDER`: whether the server could work with a version.

In a process of its own, since what is broken may end it. The reason is its last line.
"""

import json
import sys
from pathlib import Path

from latentworks.errors import LatentworksError, RegistryError, Unavailable
from latentworks.server.model import Model, Named


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        Model(Named("trial", 0, ""), folder)
    except LatentworksError as error:
        print(error)
        sys.exit(error.exit_code)
    except MemoryError:
        print("the pre-flight has not enough memory; it is tried again.")
        sys.exit(Unavailable.exit_code)
    except Exception as error:  # whatever a broken version does
        text = (str(error).splitlines() or [""])[0]
        print(f"pre-flight: it cannot be used: {type(error).__name__}: {json.dumps(text)[1:-1]}")
        sys.exit(RegistryError.exit_code)


if __name__ == "__main__":
    main()
