"""All that a trained model can do, from the files in one folder.

No TensorFlow: the graphs run in ONNX Runtime. This module and what it imports of ours travel with
the model, so that it works where this project is not installed.
"""

import json
import math
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
from latentworks.samplers.drawing import draw
from latentworks.serving import inputs as checks

BATCH_SIZE = 256  # images worked on at once, whose layers need many times their memory
LABELS = "labels"  # the input of a conditional model's graphs; -1 says nothing
DEFAULT_NUM = {"sample": 16, "interpolate": 10}
Graph = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Interface:
    """What a client may rely on; a model with another one is registered under another name."""

    image_shape: tuple[int, int, int]  # height, width, channels
    latent_dim: int
    labels: tuple[str, ...]  # of the classes that can be asked for; empty where none can
    fit: Fit  # how images of other sizes are brought to image_shape: see `prepare_image`
    background: int

    @classmethod
    def read(cls, path: Path) -> "Interface":
        fields = json.loads(path.read_text(encoding="utf-8"))
        shape, labels = tuple(fields.pop("image_shape")), tuple(fields.pop("labels"))
        return cls(image_shape=shape, labels=labels, **fields)


VERBS: dict[str, tuple[str, ...]] = {  # and the params that each takes
    "reconstruct": ("label",),
    "encode": ("label",),
    "decode": ("label",),
    "sample": ("num", "seed", "label"),
    "interpolate": ("num", "label"),
    "anomaly_score": ("label",),
    "log_density": ("label",),
}


class Servable:
    """A model with its sampler; its verbs are `reconstruct`, `encode` and so on."""

    def __init__(
        self,
        interface: Interface,
        encode: Graph,
        decode: Graph,
        sampler: Any,
        test_errors: np.ndarray,
        class_shares: np.ndarray | None = None,
        *,
        conditional: bool = False,
    ) -> None:
        """From graphs and arrays.

        `encode`: images uint8 [B, H, W, C] to latents float32 [B, D]. `decode`: latents to images
        float32 [B, H, W, C] in [0, 1]. Both are given labels, int64 [B] or None, which make a
        difference to a `conditional` model. `test_errors`: float32 [T], ascending, the mean squared
        reconstruction errors of test images. `class_shares`: float64 [K], how often each class is
        drawn; None where none can be asked for.
        """
        self.interface = interface
        self.image_shape, self.latent_dim = interface.image_shape, interface.latent_dim
        self.sampler = sampler
        self.test_errors = test_errors
        self.class_shares, self.conditional = class_shares, conditional
        self._encode, self._decode = encode, decode

    # --- arrays that are known to be right -----------------------------------------------------

    def encode_images(self, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Images uint8 [N, H, W, C], with labels int64 [N], to latents float32 [N, D]."""
        return self._in_batches(self._encode, images, labels, (self.latent_dim,))

    def decode_latents(self, latents: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Latents float32 [N, D], with labels, to images float32 [N, H, W, C] in [0, 1]."""
        return self._in_batches(self._decode, latents, labels, self.image_shape)

    def draw_latents(self, num: int, seed: int | None) -> np.ndarray:
        """Latents float32 [num, D] from the sampler; without a seed, others every time."""
        return self.draw(num, seed)[0]

    def draw(
        self, num: int, seed: int | None, label: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Latents and the labels to decode them with: see `latentworks.samplers.drawing.draw`."""
        return draw(self.sampler, num, np.random.default_rng(seed), self.class_shares, label)

    def _in_batches(
        self, graph: Graph, rows: np.ndarray, labels: np.ndarray | None, shape: tuple[int, ...]
    ) -> np.ndarray:
        results = np.empty((len(rows), *shape), dtype=np.float32)
        for start in range(0, len(rows), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            given = None if labels is None else labels[part]
            results[part] = graph(np.ascontiguousarray(rows[part]), given)
        return results

    # --- verbs: whatever a client sends ----------------------------------------------------------

    def call(self, verb: Any, inputs: Any, params: Mapping[str, Any]) -> Any:
        """Do `verb` and return its arrays. Raises InputError for what it cannot work with."""
        if not isinstance(verb, str) or verb not in VERBS:
            raise InputError(f"verb is one of {', '.join(VERBS)}. Received: {verb!r:.50}.")
        checks.check_params(params, VERBS[verb], verb)
        return getattr(self, verb)(inputs, **params)

    # `label`, the name or the number of a class, is of all the images in a call. Only a conditional
    # model takes one, and does without, too; `sample` does also where the sampler knows classes.

    def reconstruct(self, inputs: Any, label: Any = None) -> np.ndarray:
        """Images to their reconstructions: uint8 [N, H, W, C]."""
        images = self._prepared(inputs)
        labels = self._labels(label, len(images))
        return to_pixels(self.decode_latents(self.encode_images(images, labels), labels))

    def encode(self, inputs: Any, label: Any = None) -> np.ndarray:
        """Images to latents: float32 [N, D]."""
        images = self._prepared(inputs)
        return self.encode_images(images, self._labels(label, len(images)))

    def decode(self, inputs: Any, label: Any = None) -> np.ndarray:
        """Latents to images: uint8 [N, H, W, C]."""
        latents = checks.to_latents(inputs, self.latent_dim)
        return self._decoded(latents, self._labels(label, len(latents)))

    def sample(
        self,
        inputs: Any,
        num: Any = DEFAULT_NUM["sample"],
        seed: Any = None,
        label: Any = None,
    ) -> np.ndarray:
        """`num` new images: uint8 [num, H, W, C]; the same ones for the same `seed`.

        Of the class `label`; without one, of each class as many as it has among training images.
        """
        checks.check_empty(inputs, "sample")
        num = checks.to_whole_number(num, "num", 1, checks.MAX_NUM)
        if seed is not None:
            seed = checks.to_whole_number(seed, "seed", 0, checks.MAX_SEED)
        if label is not None:
            label = checks.to_label(label, self.interface.labels)
            if self.class_shares is not None and not self.class_shares[label]:
                name = self.interface.labels[label]
                raise InputError(f"no image of {name} was trained on. Ask for another label.")
        return self._decoded(*self.draw(num, seed, label))

    def interpolate(
        self, inputs: Any, num: Any = DEFAULT_NUM["interpolate"], label: Any = None
    ) -> np.ndarray:
        """From one image, or latent, to another: uint8 [num, H, W, C], both ends among them."""
        num = checks.to_whole_number(num, "num", 2, checks.MAX_NUM)
        ends = self._latents(inputs, label)
        if len(ends) != 2:
            raise InputError(f"interpolate takes two images or latents. Received: {len(ends)}.")
        shares = np.linspace(0, 1, num, dtype=np.float32)[:, None]
        between = ends[0] + shares * (ends[1] - ends[0])
        return self._decoded(between, self._labels(label, num))

    def anomaly_score(self, inputs: Any, label: Any = None) -> dict[str, np.ndarray]:
        """How badly images are reconstructed.

        `error`: float32 [N], the mean squared error, pixels in [0, 1]. `percentile`: float64 [N],
        how many of 100 test images are reconstructed no worse.
        """
        images = self._prepared(inputs)
        error = np.empty(len(images), dtype=np.float32)
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE]
            labels = self._labels(label, len(batch))
            reconstructed = self.decode_latents(self.encode_images(batch, labels), labels)
            difference = batch / np.float32(255) - reconstructed
            error[start : start + BATCH_SIZE] = (difference**2).mean(axis=(1, 2, 3))
        ranks = np.searchsorted(self.test_errors, error, side="right")
        return {"error": error, "percentile": 100 * ranks / len(self.test_errors)}

    def log_density(self, inputs: Any, label: Any = None) -> np.ndarray:
        """The logarithm of the sampler's density, in nats, at latents or at those of images: [N].

        It is of the latent, not of the image: an image unlike all others may have a likely latent.
        """
        if not hasattr(self.sampler, "log_density"):
            raise InputError(f"{type(self.sampler).__name__} has no density. Use anomaly_score.")
        return np.asarray(self.sampler.log_density(self._latents(inputs, label)), np.float64)

    def _decoded(self, latents: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """Images of latents [N, D]: uint8 [N, H, W, C]. Raises InputError for too many."""
        checks.check_pixels(len(latents) * math.prod(self.image_shape))
        return to_pixels(self.decode_latents(latents, labels))

    def _latents(self, inputs: Any, label: Any) -> np.ndarray:
        if checks.are_latents(inputs, self.latent_dim):
            return checks.to_latents(inputs, self.latent_dim)
        images = self._prepared(inputs)
        return self.encode_images(images, self._labels(label, len(images)))

    def _labels(self, label: Any, num: int) -> np.ndarray | None:
        """The class of `num` images: int64 [num], None where none is told. Raises InputError."""
        if label is None:
            return None
        if not self.conditional:
            raise InputError("label goes with a conditional model, which this is not.")
        return np.full(num, checks.to_label(label, self.interface.labels))

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
    shares = folder / "class_shares.npy"
    encoder, decoder = _session(folder / "encoder.onnx"), _session(folder / "decoder.onnx")
    return Servable(
        Interface.read(folder / "interface.json"),
        _graph(encoder),
        _graph(decoder),
        sampler,
        np.load(folder / "test_errors.npy", allow_pickle=False),
        np.load(shares, allow_pickle=False) if shares.exists() else None,
        conditional=len(decoder.get_inputs()) > 1,
    )


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # A thread that waits for work by spinning takes a core from whoever else has some.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _graph(session: onnxruntime.InferenceSession) -> Graph:
    names = [argument.name for argument in session.get_inputs()]
    (name,) = (name for name in names if name != LABELS)

    def run(batch: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        given = {name: batch}
        if LABELS in names:
            given[LABELS] = np.full(len(batch), -1) if labels is None else labels
        result: np.ndarray = session.run(None, given)[0]
        return result

    return run
