"""`python -m latentworks.server.trial FOLDER`: checks that the server can load a version.

This runs in a process of its own, which a broken version may end. The last line of its output is
the reason of a refusal.
"""

import sys
from pathlib import Path

from latentworks.server.model import Model, Named
from latentworks.serving.trial import exit_with_line


def main() -> None:
    Model(Named("trial", 0, ""), Path(sys.argv[1]))


if __name__ == "__main__":
    exit_with_line(main)
