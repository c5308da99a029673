"""Layers of Keras as operations that the atlas page can run.

One function for each kind of layer returns its steps. Layers that compute nothing at inference
(`Reshape`, `Dropout`) have no steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

Shape = tuple[int, ...]  # without the batch
Step = tuple[str, Mapping[str, object], list[np.ndarray]]  # operation, its settings, its weights


class UnknownLayer(ValueError):
    """A decoder has a layer that the atlas page cannot run."""


@dataclass(frozen=True)
class Layer:
    """One call of a layer: its config, its weights, and the shapes of inputs and output."""

    name: str
    kind: str
    config: dict[str, Any]
    weights: list[np.ndarray]
    inputs: list[Shape]
    shape: Shape

    def expect(self, is_known: bool, expected: str) -> None:
        """Raise UnknownLayer unless `is_known`."""
        if not is_known:
            raise UnknownLayer(
                f"the decoder's layer {self.name} ({self.kind}) cannot be run in a browser. "
                f"Expected {expected}."
            )

    def taken(self, *flags: str) -> list[np.ndarray | None]:
        """The weights in the order of `flags`, config keys; None for a flag that is off."""
        left = iter(self.weights)
        return [next(left) if self.config[flag] else None for flag in flags]


ACTIVATIONS = ("elu", "gelu", "leaky_relu", "relu", "relu6", "sigmoid", "silu", "softplus", "tanh")


def _activation(layer: Layer) -> list[Step]:
    """The steps of an activation, which the config gives as a name or as a layer."""
    written = layer.config["activation"]
    if isinstance(written, dict) and written["class_name"] in ("LeakyReLU", "ReLU"):
        return _relu(Layer(layer.name, written["class_name"], written["config"], [], [], ()))
    name = written["config"] if isinstance(written, dict) else written
    known = ("linear", *ACTIVATIONS)
    layer.expect(isinstance(name, str) and name in known, f"an activation of {', '.join(known)}")
    slope = {"slope": 0.2} if name == "leaky_relu" else {}  # Keras's default
    return [] if name == "linear" else [("activate", {"function": name, **slope}, [])]


def _relu(layer: Layer) -> list[Step]:
    config = layer.config
    highest, slope = config.get("max_value"), float(config["negative_slope"])
    layer.expect(not config.get("threshold"), "no threshold")
    layer.expect(highest is None or (highest == 6 and not slope), "no maximum but 6, and no slope")
    if highest:
        return [("activate", {"function": "relu6"}, [])]
    return [("activate", {"function": "leaky_relu", "slope": slope}, [])]


def _dense(layer: Layer) -> list[Step]:
    kernel, bias = layer.taken("units", "use_bias")
    assert kernel is not None
    bias = np.zeros(layer.shape[-1]) if bias is None else bias
    return [("dense", {}, [kernel.T, bias]), *_activation(layer)]


def _conv(layer: Layer) -> list[Step]:
    """A convolution, padded with zeros as TensorFlow does it."""
    config = layer.config
    layer.expect(config["groups"] == 1, "one group")
    layer.expect(config["padding"] in ("same", "valid"), "padding same or valid")
    kernel, bias = layer.taken("filters", "use_bias")
    assert kernel is not None
    *_, channels = layer.shape
    bias = np.zeros(channels) if bias is None else bias
    size, strides, spread = (_pair(config[k]) for k in ("kernel_size", "strides", "dilation_rate"))
    before = _before(layer.shape, layer.inputs[0], size, strides, spread)
    packed = kernel.reshape(-1, channels).T
    settings = {"kernel": size, "strides": strides, "dilation": spread, "before": before}
    return [("conv", settings, [packed, bias]), *_activation(layer)]


def _conv_transpose(layer: Layer) -> list[Step]:
    """A transposed convolution: the gradient of a convolution whose input has the output's size."""
    config = layer.config
    layer.expect(config["padding"] in ("same", "valid"), "padding same or valid")
    layer.expect(config.get("output_padding") is None, "no output_padding")
    layer.expect(_pair(config["dilation_rate"]) == (1, 1), "no dilation")
    kernel, bias = layer.taken("filters", "use_bias")  # [kh, kw, out, in]
    assert kernel is not None
    bias = np.zeros(layer.shape[-1]) if bias is None else bias
    size, strides = _pair(config["kernel_size"]), _pair(config["strides"])
    before = _before(layer.inputs[0], layer.shape, size, strides, (1, 1))
    packed = kernel.reshape(-1, kernel.shape[-1])
    settings = {"kernel": size, "strides": strides, "before": before}
    return [("conv_transpose", settings, [packed, bias]), *_activation(layer)]


def _before(
    small: Shape, large: Shape, size: Shape, strides: Shape, dilation: Shape
) -> tuple[int, ...]:
    """The number of zeros above and to the left of the larger image, of which windows are taken."""
    sides = zip(small[:2], large[:2], size, strides, dilation, strict=True)
    return tuple(max((n - 1) * s + (k - 1) * d + 1 - m, 0) // 2 for n, m, k, s, d in sides)


def _pad(layer: Layer, sign: int) -> list[Step]:
    (top, _), (left, _) = layer.config["padding" if sign > 0 else "cropping"]
    return [("pad", {"before": (sign * top, sign * left)}, [])]


def _upsample(layer: Layer) -> list[Step]:
    layer.expect(layer.config["interpolation"] == "nearest", "interpolation nearest")
    return [("repeat", {"times": _pair(layer.config["size"])}, [])]


def _concatenate(layer: Layer) -> list[Step]:
    axis = layer.config["axis"]
    axis = axis if axis >= 0 else axis + len(layer.shape) + 1
    return [("concatenate", {"lengths": [prod(shape[axis - 1 :]) for shape in layer.inputs]}, [])]


def _elementwise(operation: str) -> Callable[[Layer], list[Step]]:
    """Make the function of an elementwise layer. Its inputs are broadcast as in NumPy."""
    return lambda layer: [(operation, {}, [])]


def _permute(layer: Layer) -> list[Step]:
    return [("permute", {"axes": [axis - 1 for axis in layer.config["dims"]]}, [])]


def _batch_norm(layer: Layer) -> list[Step]:
    layer.expect(_last(layer), "its axis to be the channels")
    *_, mean, variance = layer.weights
    gamma, beta = layer.taken("scale", "center")
    factor = (1 if gamma is None else gamma) / np.sqrt(variance + layer.config["epsilon"])
    return [("affine", {}, [factor, (0 if beta is None else beta) - mean * factor])]


def _normalise(layer: Layer) -> list[Step]:
    layer.expect(_last(layer), "its axis to be the channels")
    layer.expect(not layer.config.get("rms_scaling"), "no rms_scaling")
    channels = layer.shape[-1]
    gamma, beta = layer.taken("scale", "center")
    groups = layer.config.get("groups")  # over all positions; None normalises each position alone
    settings = {"groups": channels if groups == -1 else groups or 1, "each": groups is None}
    arrays = [np.ones(channels) if gamma is None else gamma]
    arrays.append(np.zeros(channels) if beta is None else beta)
    return [("normalise", {**settings, "epsilon": layer.config["epsilon"]}, arrays)]


def _rescale(layer: Layer) -> list[Step]:
    arrays = [
        np.broadcast_to(layer.config[key], layer.shape[-1]).astype(np.float32)
        for key in ("scale", "offset")
    ]
    return [("affine", {}, arrays)]


def _round(layer: Layer) -> list[Step]:
    """The rounding of codes. `models.codes` has the layer."""
    return [("round", {}, [np.array(layer.config["levels"]) - 1])]


def _last(layer: Layer) -> bool:
    axis = layer.config["axis"]
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    return axis in (-1, len(layer.shape))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _nothing(layer: Layer) -> list[Step]:
    """No steps: the layer acts only in training, or only changes the shape."""
    return []


OWN = {"latentworks>Rounding"}  # layers of this project; all others are those of Keras
LAYERS: dict[str, Callable[[Layer], list[Step]]] = {
    "Activation": _activation,
    "Add": _elementwise("add"),
    "BatchNormalization": _batch_norm,
    "Concatenate": _concatenate,
    "Conv2D": _conv,
    "Conv2DTranspose": _conv_transpose,
    "Cropping2D": lambda layer: _pad(layer, -1),
    "Dense": _dense,
    "Dropout": _nothing,
    "Flatten": _nothing,
    "GroupNormalization": _normalise,
    "LayerNormalization": _normalise,
    "LeakyReLU": _relu,
    "Multiply": _elementwise("multiply"),
    "Permute": _permute,
    "ReLU": _relu,
    "Rescaling": _rescale,
    "Reshape": _nothing,
    "Rounding": _round,
    "UpSampling2D": _upsample,
    "ZeroPadding2D": lambda layer: _pad(layer, 1),
}
