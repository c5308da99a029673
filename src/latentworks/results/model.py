"""The model of a result, from the files that the stage `export` wrote: no TensorFlow, no registry.

    from latentworks.results import open_result

    model = open_result("path/to/checkout")
    images = model.sample(64, seed=0)  # uint8 [64, H, W, C]

The import of this module is quick; `open_result` imports ONNX Runtime.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from latentworks.errors import DataError
from latentworks.repository import dag

if TYPE_CHECKING:
    import numpy as np

    from latentworks.serving.servable import Servable

INTERFACE = "interface.json"  # a file that every servable has
OUT = "servable"  # name of the out that holds it


class Model:
    """A trained model with its sampler.

    Images are whole numbers from 0 to 255: uint8 [N, H, W, C], or of another size, which is brought
    to the size of the model. Each call takes at most 10,000 images. A `label`, the name or number
    of a class, is for models and samplers that know classes. All methods raise InputError.
    """

    def __init__(self, servable: Servable) -> None:
        self.servable = servable

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.servable.image_shape

    @property
    def latent_dim(self) -> int:
        return self.servable.latent_dim

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; empty if samples cannot be asked for by class."""
        return self.servable.interface.labels

    def label(self, text: str | None) -> str | int | None:
        """Return a label that was typed: a number unless a class has this name."""
        is_number = text is not None and text.isdecimal() and text not in self.labels
        return int(text) if is_number and text else text

    def sample(
        self, num: int = 16, seed: int | None = None, label: str | int | None = None
    ) -> np.ndarray:
        """Draw new images: uint8 [num, H, W, C]. Equal seeds give equal images."""
        return self.servable.sample(None, num, seed, label)

    def encode(self, images: object, label: str | int | None = None) -> np.ndarray:
        """Encode images to latents: float32 [N, D]."""
        return self.servable.encode(images, label)

    def decode(self, latents: object, label: str | int | None = None) -> np.ndarray:
        """Decode latents [N, D] to images: uint8 [N, H, W, C]."""
        return self.servable.decode(latents, label)

    def reconstruct(self, images: object, label: str | int | None = None) -> np.ndarray:
        """Encode and decode images: uint8 [N, H, W, C]."""
        return self.servable.reconstruct(images, label)


def open_result(folder: str | Path = ".") -> Model:
    """Open the model of a checkout, or of a copy of its folder `models/servable`.

    Raises DataError if the folder has no result, or another one than its dvc.lock records.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it at its import
    path = Path(folder)
    servable = path if (path / INTERFACE).is_file() else _exported(path)

    from latentworks.serving.servable import load  # imports ONNX Runtime

    return Model(load(servable))


def _exported(start: Path) -> Path:
    """Return the servable of the checkout around `start`. Raises DataError."""
    if not start.is_dir():
        raise DataError(f"{start}: no such folder. Expected a checkout with a result.")
    root = dag.root(start)
    if start != Path() and not start.resolve().is_relative_to(root):  # `root` is our own checkout
        raise DataError(
            f"{start} is no checkout, and no copy of a folder models/servable. Name one of them."
        )
    outs = (Path(out) for stage in dag.stages(root).values() for out in dag.outs_of(stage))
    out = next(each for each in outs if each.stem == OUT)
    cure = "Run `make repro`, or `dvc pull` if your DVC remote has the result."
    if not (root / out / INTERFACE).is_file():
        raise DataError(f"{root} has no result yet: {out} is missing. {cure}")
    recorded = dag.locked_md5(root, out)
    if recorded not in (None, dag.md5_of(root / out)):
        raise DataError(f"{root / out} is not the result that {dag.LOCK} records. {cure}")
    return root / out
