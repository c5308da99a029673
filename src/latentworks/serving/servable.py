"""The verbs of a trained model, run from the files of a servable.

ONNX Runtime runs the graphs, so that TensorFlow is not needed. Every registered version has a copy
of this module and of the modules of this project that it imports, so that the version works where
the project is not installed.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from pydantic import TypeAdapter

from latentworks.errors import InputError
from latentworks.preprocess import Fit, Ranges, to_pixels
from latentworks.samplers.config import SamplerConfig
from latentworks.samplers.drawing import Sampler, draw, is_adjustable
from latentworks.serving import inputs as checks

BATCH_SIZE = 256  # images in one run of a graph; its layers need many times their memory
LABELS = "labels"  # the input that only the graphs of conditional models have; -1 is no label
DEFAULT_NUM = {"sample": 16, "interpolate": 10}
Outputs = np.ndarray | dict[str, np.ndarray]  # of a verb: one array, or several by name
Graph = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Interface:
    """The shapes and labels on which clients rely.

    A model with another interface is registered under another name.
    """

    image_shape: tuple[int, int, int]  # height, width, channels
    latent_dim: int
    labels: tuple[str, ...]  # names of the classes that clients can choose; may be empty
    fit: Fit  # how images of other sizes are resized to image_shape: see `prepare_image`
    background: int
    value_range: Ranges = field(default_factory=dict)  # of dtypes that are not read in full

    @classmethod
    def read(cls, path: Path) -> "Interface":
        fields = json.loads(path.read_text(encoding="utf-8"))
        shape, labels = tuple(fields.pop("image_shape")), tuple(fields.pop("labels"))
        ranges = {
            dtype: (low, high) for dtype, (low, high) in fields.pop("value_range", {}).items()
        }
        return cls(image_shape=shape, labels=labels, value_range=ranges, **fields)


VERBS: dict[str, tuple[str, ...]] = {  # with the params that each takes
    "reconstruct": ("label", "prepared"),
    "encode": ("label", "prepared"),
    "decode": ("label",),
    "sample": ("num", "seed", "label", "guidance", "temperature"),
    "interpolate": ("num", "label", "prepared"),
    "anomaly_score": ("label", "prepared"),
    "log_density": ("label", "prepared"),
}


class Servable:
    """A model with its sampler. Its verbs are the methods that VERBS names."""

    def __init__(
        self,
        interface: Interface,
        encode: Graph,
        decode: Graph,
        sampler: Sampler,
        test_errors: np.ndarray,
        class_shares: np.ndarray | None = None,
        *,
        conditional: bool = False,
    ) -> None:
        """Make a servable from graphs and arrays.

        `encode`: images uint8 [B, H, W, C] to latents float32 [B, D]. `decode`: latents to images
        float32 [B, H, W, C] in [0, 1]. Both also take labels, int64 [B] or None, which only a
        `conditional` model uses. `test_errors`: float32 [T], ascending, the mean squared
        reconstruction errors of test images. `class_shares`: float64 [K], the share of each class
        among samples; None if clients cannot choose a class.
        """
        self.interface = interface
        self.image_shape, self.latent_dim = interface.image_shape, interface.latent_dim
        self.sampler = sampler
        self.test_errors = test_errors
        self.class_shares, self.conditional = class_shares, conditional
        self._encode, self._decode = encode, decode

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings of a draw that a call can change: those of a learned sampler."""
        return self.sampler.settings if is_adjustable(self.sampler) else ()

    # --- arrays of the right shape and type ----------------------------------------------------

    def encode_images(self, images: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Encode images uint8 [N, H, W, C], with labels int64 [N], to latents float32 [N, D]."""
        return self._in_batches(self._encode, images, labels, (self.latent_dim,))

    def decode_latents(self, latents: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Decode latents float32 [N, D], with labels, to images float32 [N, H, W, C] in [0, 1]."""
        return self._in_batches(self._decode, latents, labels, self.image_shape)

    def draw_latents(self, num: int, seed: int | None) -> np.ndarray:
        """Draw latents float32 [num, D] from the sampler; at random if `seed` is None."""
        return self.draw(num, seed)[0]

    def draw(
        self, num: int, seed: int | None, label: int | None = None, **settings: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw latents, and labels for the decoder: see `latentworks.samplers.drawing.draw`.

        `settings`: guidance and temperature of a learned sampler, instead of its own.
        """
        sampler = self.sampler
        if settings and is_adjustable(sampler):
            sampler = sampler.with_settings(**settings)
        return draw(sampler, num, np.random.default_rng(seed), self.class_shares, label)

    def _in_batches(
        self, graph: Graph, rows: np.ndarray, labels: np.ndarray | None, shape: tuple[int, ...]
    ) -> np.ndarray:
        results = np.empty((len(rows), *shape), dtype=np.float32)
        for start in range(0, len(rows), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            given = None if labels is None else labels[part]
            results[part] = graph(np.ascontiguousarray(rows[part]), given)
        return results

    # --- verbs, which check the inputs of clients ------------------------------------------------

    def call(self, verb: object, inputs: object, params: Mapping[str, object]) -> Outputs:
        """Run `verb` and return its arrays. Raises InputError for invalid inputs or params."""
        if not isinstance(verb, str) or verb not in VERBS:
            raise InputError(f"verb is one of {', '.join(VERBS)}. Received: {verb!r:.50}.")
        checks.check_params(params, VERBS[verb], verb)
        outputs: Outputs = getattr(self, verb)(inputs, **params)
        return outputs

    # `label` is the name or the number of a class, the same for all images of a call. It is always
    # optional. Conditional models take it; `sample` also takes it if the sampler has classes.
    # `prepared` says that images are as the model returns them, whatever the range of the training
    # images: uint8 of its shape.

    def reconstruct(
        self, inputs: object, label: object = None, prepared: object = False
    ) -> np.ndarray:
        """Reconstruct images: uint8 [N, H, W, C]."""
        images = self._prepared(inputs, prepared)
        labels = self._labels(label, len(images))
        return to_pixels(self.decode_latents(self.encode_images(images, labels), labels))

    def encode(self, inputs: object, label: object = None, prepared: object = False) -> np.ndarray:
        """Encode images to latents: float32 [N, D]."""
        images = self._prepared(inputs, prepared)
        return self.encode_images(images, self._labels(label, len(images)))

    def decode(self, inputs: object, label: object = None) -> np.ndarray:
        """Decode latents to images: uint8 [N, H, W, C]."""
        latents = checks.to_latents(inputs, self.latent_dim)
        return self._decoded(latents, self._labels(label, len(latents)))

    def sample(
        self,
        inputs: object,
        num: object = DEFAULT_NUM["sample"],
        seed: object = None,
        label: object = None,
        guidance: object = None,
        temperature: object = None,
    ) -> np.ndarray:
        """Draw new images: uint8 [num, H, W, C]. Equal seeds give equal images.

        All are of the class `label`. Without a label, each class has the share that it has among
        the training images. Only a learned sampler takes `guidance` and `temperature`.
        """
        checks.check_empty(inputs, "sample")
        return self._decoded(*self.drawn(num, seed, label, guidance, temperature))

    def drawn(
        self,
        num: object,
        seed: object = None,
        label: object = None,
        guidance: object = None,
        temperature: object = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw the latents of `sample`, float32 [num, D], and labels for the decoder."""
        num = checks.to_whole_number(num, "num", 1, checks.MAX_NUM)
        if seed is not None:
            seed = checks.to_whole_number(seed, "seed", 0, checks.MAX_SEED)
        if label is not None:
            label = checks.to_label(label, self.interface.labels)
            if self.class_shares is not None and not self.class_shares[label]:
                name = self.interface.labels[label]
                raise InputError(f"label {name} has no training images. Choose another label.")
        given = {"guidance": guidance, "temperature": temperature}
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in self.settings:
                why = "this model has no classes" if self.settings else "the sampler is not learned"
                raise InputError(f"{name} cannot be used: {why}. Leave {name} out.")
        settings = {
            name: checks.to_number(value, name, 0, checks.MAX_SETTING)
            for name, value in given.items()
        }
        return self.draw(num, seed, label, **settings)

    def interpolate(
        self,
        inputs: object,
        num: object = DEFAULT_NUM["interpolate"],
        label: object = None,
        prepared: object = False,
    ) -> np.ndarray:
        """Decode equal steps from one image, or latent, to another: uint8 [num, H, W, C].

        The first and the last step are the two ends.
        """
        num = checks.to_whole_number(num, "num", 2, checks.MAX_NUM)
        ends = self._latents(inputs, label, prepared)
        if len(ends) != 2:
            raise InputError(f"interpolate takes two images or latents. Received: {len(ends)}.")
        shares = np.linspace(0, 1, num, dtype=np.float32)[:, None]
        between = ends[0] + shares * (ends[1] - ends[0])
        return self._decoded(between, self._labels(label, num))

    def anomaly_score(
        self, inputs: object, label: object = None, prepared: object = False
    ) -> dict[str, np.ndarray]:
        """Measure how badly images are reconstructed.

        `error`: float32 [N], the mean squared error, pixels in [0, 1]. `percentile`: float64 [N],
        the percentage of test images whose error is no larger.
        """
        images = self._prepared(inputs, prepared)
        error = np.empty(len(images), dtype=np.float32)
        for start in range(0, len(images), BATCH_SIZE):
            batch = images[start : start + BATCH_SIZE]
            labels = self._labels(label, len(batch))
            reconstructed = self.decode_latents(self.encode_images(batch, labels), labels)
            difference = batch / np.float32(255) - reconstructed
            error[start : start + BATCH_SIZE] = (difference**2).mean(axis=(1, 2, 3))
        ranks = np.searchsorted(self.test_errors, error, side="right")
        return {"error": error, "percentile": 100 * ranks / len(self.test_errors)}

    def log_density(
        self, inputs: object, label: object = None, prepared: object = False
    ) -> np.ndarray:
        """Log density of the sampler, in nats, at latents or at the latents of images: [N].

        The density is of the latent, not of the image: an image unlike all others may have a
        likely latent.
        """
        if not hasattr(self.sampler, "log_density"):
            raise InputError(f"{type(self.sampler).__name__} has no density. Use anomaly_score.")
        return np.asarray(
            self.sampler.log_density(self._latents(inputs, label, prepared)), np.float64
        )

    def _decoded(self, latents: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """Decode latents [N, D] to images uint8 [N, H, W, C]. Raises InputError if too many."""
        checks.check_pixels(len(latents) * math.prod(self.image_shape))
        return to_pixels(self.decode_latents(latents, labels))

    def _latents(self, inputs: object, label: object, prepared: object) -> np.ndarray:
        ranges = self.interface.value_range
        if checks.are_latents(inputs, self.latent_dim, self.image_shape, ranges):
            hint = " A single grey image is [1, h, w, 1]."
            return checks.to_latents(inputs, self.latent_dim, hint)
        images = self._prepared(inputs, prepared)
        return self.encode_images(images, self._labels(label, len(images)))

    def _labels(self, label: object, num: int) -> np.ndarray | None:
        """Labels of `num` images: int64 [num], or None without a label. Raises InputError."""
        if label is None:
            return None
        if not self.conditional:
            raise InputError(
                "label cannot be used: this model is not conditional. Leave label out."
            )
        return np.full(num, checks.to_label(label, self.interface.labels))

    def _prepared(self, inputs: object, prepared: object) -> np.ndarray:
        """Prepare images as the training images were: uint8 [N, H, W, C]."""
        ranges, are_prepared = self.interface.value_range, checks.to_flag(prepared, "prepared")
        images = checks.to_images(inputs, self.image_shape, ranges, are_prepared)
        is_known = images.dtype == np.uint8 and images.shape[1:] == self.image_shape
        if are_prepared or (is_known and "uint8" not in ranges):
            return images
        checks.check_pixels(len(images) * math.prod(self.image_shape))
        fit, background = self.interface.fit, self.interface.background
        return checks.prepare(images, self.image_shape, fit, background, ranges)


def load(folder: Path) -> Servable:
    """Load the servable in a folder that the stage `export` wrote."""
    config: SamplerConfig = TypeAdapter(SamplerConfig).validate_json(
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
    # A thread that spins while it waits would take a core from other work.
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
