"""A loaded version: its servable, run by the code that was registered with it."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentworks.errors import InputError
from latentworks.preprocess import Ranges
from latentworks.serving import golden, loading
from latentworks.serving import inputs as checks
from latentworks.serving.inputs import MAX_NUM, MAX_PIXELS
from latentworks.serving.servable import DEFAULT_NUM, VERBS, Interface, Outputs

MAX_SENTENCE = 500  # characters of a message
PICTURES = ("reconstruct", "decode", "sample", "interpolate")  # verbs whose outputs are images
OF_IMAGES = ("reconstruct", "encode", "anomaly_score")
PREPARED = "prepared"  # the param of images as the model returns them


@dataclass(frozen=True)
class Named:
    """Name and number of a version, and its checksum."""

    name: str
    number: int
    sha256: str  # of the file SHA256SUMS

    def __str__(self) -> str:
        return f"{self.name}/{self.number}"


class Model:
    """A servable that takes the calls of clients."""

    def __init__(self, version: Named, folder: Path) -> None:
        """Load the servable and repeat its golden calls, which also warms it up.

        Raises RegistryError if an answer differs from that at the export.
        """
        self.version = version
        self.servable = loading.load(folder)
        package = type(self.servable).__module__.partition(".")[0]
        verbs = sys.modules[type(self.servable).__module__].VERBS
        self._knows_prepared = PREPARED in verbs["encode"]  # older versions do not
        self._refusal: type[Exception] = sys.modules[f"{package}.errors"].InputError
        golden.check(folder / loading.SERVABLE, self.call)

    @property
    def interface(self) -> Interface:
        return self.servable.interface

    @property
    def conditional(self) -> bool:
        """True if encoder and decoder take a label.

        Servables that were exported before labels existed lack the attribute.
        """
        return getattr(self.servable, "conditional", False)

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings of a draw that a call can change: guidance and temperature, or fewer."""
        return getattr(self.servable, "settings", ())  # older versions have none

    @property
    def value_range(self) -> Ranges:
        """The range of each dtype that is not read in full: older versions read all in full."""
        return getattr(self.interface, "value_range", {})

    @property
    def has_density(self) -> bool:
        return hasattr(self.servable.sampler, "log_density")

    def num_outputs(self, verb: object, inputs: object, params: Mapping[str, object]) -> int:
        """The numbers in the answer of a call; 0 if it will be refused."""
        rows: object = len(inputs) if isinstance(inputs, list | np.ndarray) else 1
        if not isinstance(verb, str):
            return 0
        if verb in DEFAULT_NUM:
            rows = params.get("num", DEFAULT_NUM[verb])
        if not isinstance(rows, int) or not 0 < rows <= MAX_NUM:
            return 0
        each = self.interface.latent_dim
        if verb in PICTURES:
            each = math.prod(self.interface.image_shape)
        return rows * each if rows * each <= MAX_PIXELS else 0

    def checked(
        self, verb: object, inputs: object, params: Mapping[str, object]
    ) -> tuple[object, Mapping[str, object]]:
        """Return inputs in the shape that `verb` takes, [N, …], and params. Raises InputError.

        Pictures are prepared here, since they may differ in size; the param `prepared` tells the
        version.
        """
        if verb == "decode":
            return checks.to_latents(inputs, self.interface.latent_dim), params
        if not isinstance(verb, str) or PREPARED not in VERBS.get(verb, ()):
            return inputs, params
        are_prepared = checks.to_flag(params.get(PREPARED, False), PREPARED)
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], np.ndarray):
            if are_prepared:
                inputs = self._stacked(inputs)
            else:
                inputs, are_prepared = self._of_one_shape(inputs), "uint8" in self.value_range
        if verb in OF_IMAGES:
            shape, ranges = self.interface.image_shape, self.value_range
            inputs = checks.to_images(inputs, shape, ranges, are_prepared)
        others = {name: value for name, value in params.items() if name != PREPARED}
        return inputs, {
            **others,
            PREPARED: True,
        } if are_prepared and self._knows_prepared else others

    def _stacked(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Return pictures of one size as an array [N, h, w, c]. Raises InputError."""
        shapes = {picture.shape for picture in pictures}
        if shapes != {self.interface.image_shape}:
            other = next(iter(shapes - {self.interface.image_shape}))
            raise InputError(
                f"prepared is for images of {list(self.interface.image_shape)}, as the model "
                f"returns them. Received: {list(other)}. Leave prepared out."
            )
        return np.stack(pictures)

    def _of_one_shape(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Resize pictures of any sizes to the size of the model: [N, H, W, C]."""
        interface = self.interface
        checks.check_pixels(len(pictures) * math.prod(interface.image_shape))
        return checks.prepare(
            pictures,
            interface.image_shape,
            interface.fit,
            interface.background,
            self.value_range,
        )

    def call(self, verb: object, inputs: object, params: Mapping[str, object]) -> Outputs:
        """Run `verb`. Raises InputError for invalid inputs or params."""
        try:
            return self.servable.call(verb, inputs, params)
        except self._refusal as refusal:
            raise InputError(str(refusal)[:MAX_SENTENCE]) from None
