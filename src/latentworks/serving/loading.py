"""A servable run by the code that it was exported with, whatever this checkout has by now."""

import importlib
import sys
from pathlib import Path
from typing import Any

SERVABLE = Path("artifacts/servable")  # in a model folder


def load(folder: Path) -> Any:
    """The servable in the model folder of a version.

    Its package has a name of its own, so that two versions can be at work in one process.
    """
    (package,) = (folder / "code").iterdir()
    if str(folder / "code") not in sys.path:
        sys.path.append(str(folder / "code"))
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:  # a folder that is hashed gets no other files
        module = importlib.import_module(f"{package.name}.serving.servable")
        return module.load(folder / SERVABLE)  # which imports the sampler's module
    finally:
        sys.dont_write_bytecode = writes_bytecode
