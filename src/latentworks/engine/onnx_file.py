"""Export of a Keras model as an ONNX file, with equal bytes for equal models."""

import warnings
from pathlib import Path

import onnx

from latentworks.engine.backend import keras

OPSET = 18  # of ONNX; runtimes of the last years can read it


def write_onnx(path: Path, graph: keras.Model) -> None:
    """Write a Keras model as ONNX. The first axis of its inputs may have any length."""
    inputs = [
        keras.InputSpec(shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in graph.inputs
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras looks up a name that NumPy removed
        graph.export(
            path,
            format="onnx",
            verbose=False,
            input_signature=inputs if len(inputs) == 1 else [inputs],
            opset_version=OPSET,
        )
    onnx.save(_with_stable_names(onnx.load(path)), path)


def _with_stable_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Order the constants of the model by their first use, and number its names from 0.

    Otherwise equal models have unequal bytes: tf2onnx orders constants by chance, and goes on
    numbering names from one export to the next.
    """
    graph = model.graph
    graph.doc_string = ""
    for value in [*graph.input, *graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    uses = [name for node in graph.node for name in node.input]
    constants = sorted(graph.initializer, key=lambda tensor: uses.index(tensor.name))
    del graph.initializer[:]
    graph.initializer.extend(constants)
    kept = {value.name for value in [*graph.input, *graph.output]}
    inner = [tensor.name for tensor in graph.initializer]
    inner += [name for node in graph.node for name in node.output]
    names = {name: f"{number}" for number, name in enumerate(inner) if name not in kept}
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
    del graph.value_info[:]  # shapes under the old names; a runtime infers them again
    return model
