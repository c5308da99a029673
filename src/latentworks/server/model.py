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
from latentworks.serving.servable import DEFAULT_NUM, Interface, Outputs

MAX_SENTENCE = 500  # characters of a message
PICTURES = ("reconstruct", "decode", "sample", "interpolate")  # verbs whose outputs are images
OF_IMAGES = ("reconstruct", "encode", "anomaly_score")


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

    def checked_inputs(self, verb: object, inputs: object) -> object:
        """Return inputs in the shape that `verb` takes, [N, …]. Raises InputError."""
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], np.ndarray):
            inputs = self._of_one_shape(inputs)
        if verb in OF_IMAGES:
            return checks.to_images(inputs, self.interface.image_shape, self.value_range)
        if verb == "decode":
            return checks.to_latents(inputs, self.interface.latent_dim)
        return inputs

    def _of_one_shape(self, pictures: list[np.ndarray]) -> np.ndarray:
        """Resize pictures of any sizes to the size of the model: [N, H, W, C]."""
        interface = self.interface
        size, _, channels = interface.image_shape
        checks.check_pixels(len(pictures) * size * size * channels)
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
