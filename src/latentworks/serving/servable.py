"""All that a trained model can do, from the files in one folder.

No TensorFlow: the graphs run in ONNX Runtime. This module and what it imports of ours travel with
the model, so that it works where this project is not installed.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from pydantic import TypeAdapter

from latentworks.errors import InputError
from latentworks.preprocess import Fit, prepare_image, to_pixels
from latentworks.samplers.config import SamplerConfig
from latentworks.serving import inputs as checks

BATCH_SIZE = 256  # images worked on at once, whose layers need many times their memory
DEFAULT_NUM = {"sample": 16, "interpolate": 10}
Graph = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interface:
    """What a client may rely on; a model with another one is registered under another name."""

    image_shape: tuple[int, int, int]  # height, width, channels
    latent_dim: int
    labels: tuple[str, ...]  # those that the model itself knows; empty where it knows none
    fit: Fit  # how images of other sizes are brought to image_shape: see `prepare_image`
    background: int

    @classmethod
    def read(cls, path: Path) -> "Interface":
        fields = json.loads(path.read_text(encoding="utf-8"))
        shape, labels = tuple(fields.pop("image_shape")), tuple(fields.pop("labels"))
        return cls(image_shape=shape, labels=labels, **fields)


class Servable:
    """A model with its sampler; its verbs are `reconstruct`, `encode` and so on."""

    def __init__(
        self,
        interface: Interface,
        encode: Graph,
        decode: Graph,
        sampler: Any,
        test_errors: np.ndarray,
    ) -> None:
        """From graphs and arrays.

        `encode`: images uint8 [B, H, W, C] to latents float32 [B, D]. `decode`: latents to images
        float32 [B, H, W, C] in [0, 1]. `test_errors`: float32 [T], ascending, the mean squared
        reconstruction errors of test images.
        """
        self.interface = interface
        self.image_shape, self.latent_dim = interface.image_shape, interface.latent_dim
        self.sampler = sampler
        self.test_errors = test_errors
        self._encode, self._decode = encode, decode
        self._verbs: dict[str, Callable[..., Any]] = {
            "reconstruct": self.reconstruct,
            "encode": self.encode,
            "decode": self.decode,
            "sample": self.sample,
            "interpolate": self.interpolate,
            "anomaly_score": self.anomaly_score,
            "log_density": self.log_density,
        }
        self._params = {"sample": ("num", "seed"), "interpolate": ("num",)}

    # --- arrays that are known to be right -----------------------------------------------------

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        """Images uint8 [N, H, W, C] to latents float32 [N, D]."""
        return self._in_batches(self._encode, images, (self.latent_dim,))

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        """Latents float32 [N, D] to images float32 [N, H, W, C] in [0, 1]."""
        return self._in_batches(self._decode, latents, self.image_shape)

    def draw_latents(self, num: int, seed: int | None) -> np.ndarray:
        """Latents float32 [num, D] from the sampler; without a seed, others every time."""
        drawn: np.ndarray = self.sampler.sample(num, np.random.default_rng(seed))
        return drawn

    def _in_batches(self, graph: Graph, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        results = np.empty((len(rows), *shape), dtype=np.float32)
        for start in range(0, len(rows), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            results[part] = graph(np.ascontiguousarray(rows[part]))
        return results

    # --- verbs: whatever a client sends ----------------------------------------------------------

    def call(self, verb: Any, inputs: Any, params: Mapping[str, Any]) -> Any:
        """Do `verb` and return its arrays. Raises InputError for what it cannot work with."""
        if not isinstance(verb, str) or verb not in self._verbs:
            raise InputError(f"verb is one of {', '.join(self._verbs)}. Received: {verb!r}.")
        checks.check_params(params, self._params.get(verb, ()), verb)
        return self._verbs[verb](inputs, **params)

    def reconstruct(self, inputs: Any) -> np.ndarray:
        """Images to their reconstructions: uint8 [N, H, W, C]."""
        return to_pixels(self.decode_latents(self.encode_images(self._prepared(inputs))))

    def encode(self, inputs: Any) -> np.ndarray:
        """Images to latents: float32 [N, D]."""
        return self.encode_images(self._prepared(inputs))

    def decode(self, inputs: Any) -> np.ndarray:
        """Latents to images: uint8 [N, H, W, C]."""
        return to_pixels(self.decode_latents(checks.to_latents(inputs, self.latent_dim)))

    def sample(self, inputs: Any, num: Any = DEFAULT_NUM["sample"], seed: Any = None) -> np.ndarray:
        """`num` new images: uint8 [num, H, W, C]; the same ones for the same `seed`."""
        checks.check_empty(inputs, "sample")
        num = checks.to_whole_number(num, "num", 1, checks.MAX_NUM)
        if seed is not None:
            seed = checks.to_whole_number(seed, "seed", 0, checks.MAX_SEED)
        return to_pixels(self.decode_latents(self.draw_latents(num, seed)))

    def interpolate(self, inputs: Any, num: Any = DEFAULT_NUM["interpolate"]) -> np.ndarray:
        """From one image, or latent, to another: uint8 [num, H, W, C], both ends among them."""
        num = checks.to_whole_number(num, "num", 2, checks.MAX_NUM)
        ends = self._latents(inputs)
        if len(ends) != 2:
            raise InputError(f"interpolate takes two images or latents. Received: {len(ends)}.")
        shares = np.linspace(0, 1, num, dtype=np.float32)[:, None]
        return to_pixels(self.decode_latents(ends[0] + shares * (ends[1] - ends[0])))

    def anomaly_score(self, inputs: Any) -> dict[str, np.ndarray]:
        """How badly images are reconstructed.

        `error`: float32 [N], the mean squared error, pixels in [0, 1]. `percentile`: float64 [N],
        how many of 100 test images are reconstructed no worse.
        """
        images = self._prepared(inputs)
        error = np.empty(len(images), dtype=np.float32)
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE]
            reconstructed = self.decode_latents(self.encode_images(batch))
            difference = batch / np.float32(255) - reconstructed
            error[start : start + BATCH_SIZE] = (difference**2).mean(axis=(1, 2, 3))
        ranks = np.searchsorted(self.test_errors, error, side="right")
        return {"error": error, "percentile": 100 * ranks / len(self.test_errors)}

    def log_density(self, inputs: Any) -> np.ndarray:
        """The logarithm of the sampler's density, in nats, at latents or at those of images: [N].

        It is of the latent, not of the image: an image unlike all others may have a likely latent.
        """
        if not hasattr(self.sampler, "log_density"):
            raise InputError(f"{type(self.sampler).__name__} has no density. Use anomaly_score.")
        return np.asarray(self.sampler.log_density(self._latents(inputs)), dtype=np.float64)

    def _latents(self, inputs: Any) -> np.ndarray:
        if checks.are_latents(inputs, self.latent_dim):
            return checks.to_latents(inputs, self.latent_dim)
        return self.encode_images(self._prepared(inputs))

    def _prepared(self, inputs: Any) -> np.ndarray:
        """Images as the model was trained on them: uint8 [N, H, W, C]."""
        images = checks.to_images(inputs)
        if images.dtype == np.uint8 and images.shape[1:] == self.image_shape:
            return images
        size, _, channels = self.image_shape
        checks.check_pixels(len(images) * size * size * channels)
        fit, background = self.interface.fit, self.interface.background
        return np.stack(
            [
                prepare_image(image, size=size, channels=channels, fit=fit, background=background)
                for image in images
            ]
        )


def load(folder: Path) -> Servable:
    """The servable in a folder that the stage `export` wrote."""
    config: Any = TypeAdapter(SamplerConfig).validate_json(
        (folder / "sampler" / "config.json").read_bytes()
    )
    with np.load(folder / "sampler" / "sampler.npz", allow_pickle=False) as arrays:
        sampler = config.load(dict(arrays))
    return Servable(
        Interface.read(folder / "interface.json"),
        _graph(folder / "encoder.onnx"),
        _graph(folder / "decoder.onnx"),
        sampler,
        np.load(folder / "test_errors.npy", allow_pickle=False),
    )


def _graph(path: Path) -> Graph:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (argument.name for argument in session.get_inputs())

    def run(batch: np.ndarray) -> np.ndarray:
        result: np.ndarray = session.run(None, {name: batch})[0]
        return result

    return run
