"""The feature network: a small convolutional classifier.

Images are compared in the output of its last layer but one.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

import keras
import numpy as np
from keras import layers

NUM_FEATURES = 64
KERNEL = 3
FIRST_FILTERS, MAX_FILTERS = 16, 64
MAX_SIDE = 64  # pixels; larger images are averaged over squares first
MAX_MAP = 7  # largest side of the output of the last convolution
PADDED = range(28, 32)  # sides that get a black frame up to FRAMED, as `prepare` would add it
FRAMED = 32
DROPPED = 0.3  # dropout rate of the features
HEAD = "logits"
DTYPE = "float32"  # of all layers: under a global policy of mixed precision, distances would differ
MAX_BATCH_SIZE = 500
MAX_BATCH_BYTES = 16_000_000  # of float32 pixels; a convolution needs many times this memory


def build(image_shape: tuple[int, int, int], num_classes: int, seed: int = 0) -> keras.Model:
    """Build the network: images uint8 [B, H, W, C] to `features` [B, 64] and `logits` [B, K].

    Both outputs are float32. The weights are drawn from `seed` (He et al. 2015, which keeps the
    scale of activations). Without classes, the network has no logits.
    """
    x = images = layers.Input(image_shape, dtype="uint8", name="images")
    x = sized(layers.Rescaling(1 / 255, dtype=DTYPE, name="scale")(x))
    number, num_filters, strides = 1, FIRST_FILTERS, 1
    while strides == 1 or max(x.shape[1:3]) > MAX_MAP:
        x = layers.Conv2D(
            num_filters,
            KERNEL,
            strides,
            padding="same",
            activation="relu",
            kernel_initializer=keras.initializers.HeNormal(seed + number),
            dtype=DTYPE,
            name=f"conv_{number}",
        )(x)
        number, num_filters, strides = number + 1, min(2 * num_filters, MAX_FILTERS), 2
    x = layers.Flatten(dtype=DTYPE, name="flatten")(x)
    features = layers.Dense(
        NUM_FEATURES,
        activation="leaky_relu",  # with relu, a feature could be 0 for every image
        kernel_initializer=keras.initializers.HeNormal(seed),
        dtype=DTYPE,
        name="features",
    )(x)
    outputs = {"features": features}
    if num_classes:
        kept = layers.Dropout(DROPPED, seed=seed, dtype=DTYPE, name="dropout")(features)
        initial = keras.initializers.GlorotUniform(seed)
        head = layers.Dense(num_classes, kernel_initializer=initial, dtype=DTYPE, name=HEAD)
        outputs[HEAD] = head(kept)
    return keras.Model(images, outputs, name="classifier")


def sized(x: keras.KerasTensor) -> keras.KerasTensor:
    """Average large images over squares of pixels, and frame images slightly below FRAMED."""
    sides = x.shape[1:3]
    block = math.ceil(max(sides) / MAX_SIDE)
    if block > 1:
        return layers.AveragePooling2D(block, padding="same", dtype=DTYPE, name="average")(x)
    frame = [FRAMED - side if side in PADDED else 0 for side in sides]
    if not any(frame):
        return x
    padding = tuple((more // 2, more - more // 2) for more in frame)
    return layers.ZeroPadding2D(padding, dtype=DTYPE, name="frame")(x)


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the weights, float32, by their paths: `conv_1/kernel`."""
    return {each.path: keras.ops.convert_to_numpy(each) for each in model.trainable_weights}


def fill(model: keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Put weights into a model of the same architecture."""
    for each in model.trainable_weights:
        each.assign(values[each.path])


def load(image_shape: tuple[int, int, int], values: Mapping[str, np.ndarray]) -> keras.Model:
    """Load a classifier from its weights. Without those of the head, it has no logits."""
    head = values.get(f"{HEAD}/bias")
    model = build(image_shape, 0 if head is None else len(head))
    fill(model, values)
    return model


def batches(images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield `images[rows]` in batches of bounded memory."""
    size = max(1, min(MAX_BATCH_SIZE, MAX_BATCH_BYTES // (4 * math.prod(images.shape[1:]))))
    for start in range(0, len(rows), size):
        yield images[rows[start : start + size]]


def see(model: keras.Model, parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """Run the network on batches of images, uint8 [B, H, W, C].

    Returns features, float32 [N, 64], and predicted classes, int64 [N], or None without logits.
    """
    seen = [model.predict_on_batch(part) for part in parts]
    features = np.concatenate([each["features"] for each in seen])
    if HEAD not in seen[0]:
        return features, None
    return features, np.concatenate([each[HEAD].argmax(axis=1) for each in seen])
