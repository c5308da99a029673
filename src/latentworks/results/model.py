"""The model of a result, from the files that the stage `export` wrote: no TensorFlow, no registry.

    from latentworks.results import open_result

    model = open_result("path/to/checkout")
    images = model.sample(64, seed=0)  # uint8 [64, H, W, C]

The import of this module is quick; `open_result` imports ONNX Runtime.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentworks.errors import DataError
from latentworks.repository import dag

if TYPE_CHECKING:
    import numpy as np

    from latentworks.serving.servable import Servable

INTERFACE = "interface.json"  # a file that every servable has
OUT = "servable"  # name of the out that holds it
ROWS = 256  # images or latents in one call of the servable, if they are small


class Model:
    """A trained model with its sampler.

    Images are whole numbers from 0 to 255, [N, h, w, c], or have the type and the range of the
    training images. Other sizes are brought to the size of the model. Images that the model
    returned, uint8 [N, H, W, C], are marked as `prepared`; without a range of its own, uint8 is the
    same either way. A `label`, the name or number of a class, is for models and samplers that know
    classes. Arrays may be of any length, since the work is done in parts; `sample` draws up to
    10,000 images. All methods raise InputError.
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
        from latentworks.preprocess import to_pixels

        latents, labels = self.servable.drawn(num, seed, label)

        def decoded(part: slice) -> np.ndarray:
            given = None if labels is None else labels[part]
            return to_pixels(self.servable.decode_latents(latents[part], given))

        return _joined(decoded, _parts(len(latents), ROWS))

    def encode(
        self, images: Any, label: str | int | None = None, *, prepared: bool = False
    ) -> np.ndarray:
        """Encode images to latents: float32 [N, D]."""
        return _in_parts(lambda part: self.servable.encode(part, label, prepared), images, 3)

    def decode(self, latents: Any, label: str | int | None = None) -> np.ndarray:
        """Decode latents [N, D] to images: uint8 [N, H, W, C]."""
        return _in_parts(lambda part: self.servable.decode(part, label), latents, 1)

    def reconstruct(
        self, images: Any, label: str | int | None = None, *, prepared: bool = False
    ) -> np.ndarray:
        """Encode and decode images: uint8 [N, H, W, C]."""
        return _in_parts(lambda part: self.servable.reconstruct(part, label, prepared), images, 3)


def _in_parts(call: Callable[[Any], np.ndarray], rows: Any, num_axes: int) -> np.ndarray:
    """Join the answers of `call` to parts of an array, or of a list of arrays.

    A row has `num_axes` axes; images may lack the last. Anything else is one part, such as a single
    image, or what the call refuses.
    """
    import numpy as np

    from latentworks.serving.inputs import MAX_PIXELS

    try:
        shape = np.shape(rows[0])
    except (TypeError, ValueError, LookupError):  # no array
        return call(rows)
    lacks_last = num_axes == 3 and len(shape) == 2 and shape[1] > 4
    if len(shape) != num_axes and not lacks_last:
        return call(rows)
    most = max(1, min(ROWS, MAX_PIXELS // max(1, math.prod(shape))))
    return _joined(lambda part: call(rows[part]), _parts(len(rows), most))


def _parts(num: int, most: int) -> Iterator[slice]:
    return (slice(start, start + most) for start in range(0, num, most))


def _joined(call: Callable[[slice], np.ndarray], parts: Iterator[slice]) -> np.ndarray:
    import numpy as np

    return np.concatenate([call(part) for part in parts])


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
