"""The shipped feature network, trained on Fashion-MNIST, for grey images of about the same size.

`scripts/feature_network.py` writes the file and prints the constant SHA256.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

from latentworks.errors import Damaged

FILE = Path(__file__).with_name("shipped.npz")
SHA256 = "9160d60a572b72f41a554bdc5034267ceaeef258c22af07bda414de5168323e3"
CLASS_NAMES = "class_names"  # an array of text beside the weights
SIDES = range(28, 33)  # sides of the grey images for which the network is used


def load(path: Path = FILE) -> tuple[dict[str, np.ndarray], list[str]]:
    """Load the weights, float16 by path, and the names of the classes. Raises Damaged."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise Damaged(
            f"{path.name}: not the network that ships with the package. Expected SHA-256 {SHA256}. "
            f"Received: {found}. Restore it: `git checkout {path.name}` in its folder."
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    names = [str(name) for name in arrays.pop(CLASS_NAMES)]
    return arrays, names
