"""A decoder as a program: the steps from latents to an image, for the interpreter in JavaScript.

The module reads the config and the weights of a functional `keras.Model`. It does not import Keras.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentworks.plots.decoder_layers import LAYERS, OWN, Layer, Shape, UnknownLayer

INPUTS = ("latents", "labels")


@dataclass(frozen=True)
class DecoderProgram:
    """A program that `Decoder` of atlas_page/decoder.js runs.

    The values are numbered: first the inputs of the program, then the result of each step. The last
    value is the image [H, W, C] in [0, 1]. A step has an `operation` and its settings, the numbers
    of its `inputs`, their shapes (`of`), the `shape` of its result, and its `weights` as pairs
    [offset, length] in the weights of the program.
    """

    inputs: dict[str, int]  # "latents": D and, for a conditional model, "labels": K
    image_shape: Shape
    steps: list[dict[str, object]]
    weights: np.ndarray  # float32 [P]

    @classmethod
    def of(cls, decoder: Any) -> "DecoderProgram":
        """Read the program of a functional `keras.Model`. Raises UnknownLayer."""
        return _Reader(decoder).program()


class _Reader:
    """Reads a graph from its output back to its inputs, so that a step follows its inputs."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.config = decoder.get_config()
        if "input_layers" not in self.config:
            kind = type(decoder).__name__
            raise UnknownLayer(f"the decoder is no functional keras.Model. Received: {kind}.")
        self.layers = {layer["name"]: layer for layer in self.config["layers"]}
        self.steps: list[dict[str, object]] = []
        self.weights: list[np.ndarray] = []
        self.inputs: dict[str, int] = {}
        self.values: dict[tuple[str, int], int] = {}  # layer, call -> number of its value

    def program(self) -> DecoderProgram:
        for number, (layer, *_) in enumerate(_references(self.config["input_layers"])):
            name = layer if len(self.decoder.inputs) > 1 else "latents"
            if name not in INPUTS:
                raise UnknownLayer(f"the decoder has an input {name}. Expected latents and labels.")
            self.inputs[name] = self.decoder.inputs[number].shape[1]
            self.values[layer, 0] = number
        (output, node, _), *others = _references(self.config["output_layers"])
        shape = tuple(self.decoder.output_shape[1:]) if not others else ()
        if len(shape) != 3 or shape[-1] not in (1, 3):
            raise UnknownLayer(f"the decoder draws {list(shape)}. Expected [H, W, 1] or [H, W, 3].")
        if self._follow(output, node, shape) != len(self.inputs) + len(self.steps) - 1:
            raise UnknownLayer("the decoder ends in none of its layers. Expected one that draws.")
        weights = np.concatenate([np.zeros(0), *map(np.ravel, self.weights)], dtype=np.float32)
        return DecoderProgram(self.inputs, shape, self.steps, weights)

    def _follow(self, name: str, node: int, shape: Shape) -> int:
        """Add the steps of a call of a layer, once. Return the number of its value."""
        if (name, node) not in self.values:
            call = self.layers[name]["inbound_nodes"][node]
            tensors = _tensors(call["args"])
            shapes = [tuple(tensor["shape"][1:]) for tensor in tensors]
            layer = self._layer(name, shapes, shape)
            layer.expect(not _tensors([*call["kwargs"].values()]), "no tensors given by name")
            calls = [tensor["keras_history"] for tensor in tensors]
            inputs = [
                self._follow(giver, turn, of)
                for (giver, turn, _), of in zip(calls, shapes, strict=True)
            ]
            for operation, settings, arrays in LAYERS[layer.kind](layer):
                settings = {**settings, "inputs": inputs, "of": shapes, "shape": shape}
                inputs, shapes = [self._add(operation, settings, arrays)], [shape]
            self.values[name, node] = inputs[0]
        return self.values[name, node]

    def _layer(self, name: str, shapes: list[Shape], shape: Shape) -> Layer:
        """Return a known layer. Raises UnknownLayer, also for a custom layer with a known name."""
        written = self.layers[name]
        is_known = written["module"] == "keras.layers" or written.get("registered_name") in OWN
        weights = self.decoder.get_layer(name).get_weights() if is_known else []
        layer = Layer(name, written["class_name"], written["config"], weights, shapes, shape)
        layer.expect(
            is_known and layer.kind in LAYERS, f"one of these layers of Keras: {', '.join(LAYERS)}"
        )
        layout = layer.config.get("data_format") or "channels_last"
        layer.expect(layout == "channels_last", "channels last")
        return layer

    def _add(self, operation: str, settings: Mapping[str, object], arrays: list[np.ndarray]) -> int:
        places = []
        for array in arrays:
            places.append([sum(each.size for each in self.weights), array.size])
            self.weights.append(array)
        self.steps.append({"operation": operation, "weights": places, **settings})
        return len(self.inputs) + len(self.steps) - 1


def _references(layers: list[Any]) -> list[Any]:
    """Return a list of [name, node, tensor]. Keras writes a single one without the list."""
    return [layers] if isinstance(layers[0], str) else layers


def _tensors(args: object) -> list[dict[str, Any]]:
    """Return the tensors among the arguments of a call, in order."""
    if isinstance(args, dict):
        return [args["config"]] if args.get("class_name") == "__keras_tensor__" else []
    if isinstance(args, list | tuple):
        return [tensor for arg in args for tensor in _tensors(arg)]
    return []
