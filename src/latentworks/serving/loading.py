"""Loads a servable with the code that was exported with it, not with the code of this checkout."""

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentworks.serving.servable import Servable

SERVABLE = Path("artifacts/servable")  # in a model folder


def load(folder: Path) -> "Servable":
    """Load the servable in the model folder of a version.

    Each version has its own package name, so that one process can run two versions.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it at its import
    (package,) = (folder / "code").iterdir()
    if str(folder / "code") not in sys.path:
        sys.path.append(str(folder / "code"))
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:  # SHA256SUMS covers the folder, so that it must not get .pyc files
        module = importlib.import_module(f"{package.name}.serving.servable")
        servable: Servable = module.load(folder / SERVABLE)  # imports that of its sampler, too
        return servable
    finally:
        sys.dont_write_bytecode = writes_bytecode
