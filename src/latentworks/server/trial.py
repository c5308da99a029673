"""`python -m latentworks.server.trial FOLDER`: checks that the server can load a version.

This runs in a process of its own, which a broken version may end. The last line of its output is
the reason of a refusal.
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
        print("pre-flight: not enough memory. The server tries again.")
        sys.exit(Unavailable.exit_code)
    except Exception as error:  # a broken version may raise anything
        text = (str(error).splitlines() or [""])[0]
        print(f"pre-flight: the model fails: {type(error).__name__}: {json.dumps(text)[1:-1]}")
        sys.exit(RegistryError.exit_code)


if __name__ == "__main__":
    main()
