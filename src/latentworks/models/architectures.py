"""Convolutional encoders and decoders for images of any size, grey or RGB.

`plain` is from Foster, *Generative Deep Learning*, chapter 3. `fast` needs a quarter of the
multiplications of `plain`: only the pixels are computed at full size. `residual` needs five times
as many as `plain`, and suits longer training and accelerators.
"""

import math

import keras
from keras import layers

STRIDE = 2  # each layer of `filters` halves the image in the encoder, doubles it in the decoder
KERNEL = 3
MOMENTUM = 0.95  # of mean and variance, which follow the weights within a few dozen steps


def build_encoder(
    architecture: str,
    input_shape: tuple[int, int, int],
    filters: tuple[int, ...],
    outputs: dict[str, int],
) -> keras.Model:
    """Build an encoder from images [B, H, W, C] to `outputs`, which maps names to numbers of units.

    The model returns an array [B, units] for a single output, and a list of arrays for several.
    """
    images = layers.Input(input_shape, name="images")
    x = layers.Flatten(name="flatten")(_strided(images, architecture, filters))
    heads = [layers.Dense(units, name=name)(x) for name, units in outputs.items()]
    return keras.Model(images, heads[0] if len(heads) == 1 else heads, name="encoder")


def build_grid_encoder(
    architecture: str, input_shape: tuple[int, int, int], filters: tuple[int, ...], depth: int
) -> keras.Model:
    """Build an encoder from images [B, H, W, C] to a grid [B, h, w, depth].

    Each layer of `filters` halves the sides, which are rounded up. In training, each of
    the `depth` numbers has mean 0 and deviation 1 over the images and places of a batch (Ioffe and
    Szegedy 2015).
    """
    images = layers.Input(input_shape, name="images")
    x = _strided(images, architecture, filters)
    x = _conv(depth, 1, 1, "grid")(_residual_block(x, "grid_block"))
    normalised = layers.BatchNormalization(
        momentum=MOMENTUM, center=False, scale=False, name="normalised"
    )
    return keras.Model(images, normalised(x), name="encoder")


def _strided(
    x: keras.KerasTensor, architecture: str, filters: tuple[int, ...]
) -> keras.KerasTensor:
    """The convolutions of an encoder, one of stride 2 for each of `filters`."""
    if architecture == "residual":
        x = _conv(filters[0], KERNEL, 1, "stem")(x)
    for number, num_filters in enumerate(filters, start=1):
        kernel = STRIDE if architecture == "fast" and number > 1 else KERNEL
        x = _conv(num_filters, kernel, STRIDE, f"conv_{number}", activation="relu")(x)
        if architecture == "residual":
            x = _residual_block(x, f"block_{number}")
    return x


def build_decoder(
    architecture: str,
    image_shape: tuple[int, int, int],
    filters: tuple[int, ...],
    latent_dim: int,
    num_classes: int = 0,
) -> keras.Model:
    """Build a decoder from latents [B, latent_dim] to images [B, H, W, C] in [0, 1].

    With `num_classes`, the inputs are latents and one-hot labels, float32 [B, num_classes].
    """
    smallest = (*grid_sides(image_shape, filters), filters[-1])
    x = inputs = layers.Input((latent_dim,), name="latents")
    if num_classes:
        inputs = [inputs, layers.Input((num_classes,), name="labels")]
        x = layers.Concatenate(name="latents_and_labels")(inputs)
    x = layers.Dense(math.prod(smallest), name="dense")(x)
    x = layers.Reshape(smallest, name="reshape")(x)
    return keras.Model(inputs, _pixels(x, architecture, image_shape, filters), name="decoder")


def grid_to_pixels(
    grid: keras.KerasTensor,
    architecture: str,
    image_shape: tuple[int, int, int],
    filters: tuple[int, ...],
) -> keras.KerasTensor:
    """Decode a grid [B, h, w, K] to images [B, H, W, C] in [0, 1]."""
    x = _conv(filters[-1], KERNEL, 1, "from_grid", activation="relu")(grid)
    x = _residual_block(x, "grid_block")
    return _pixels(x, architecture, image_shape, filters)


def grid_sides(image_shape: tuple[int, int, int], filters: tuple[int, ...]) -> tuple[int, int]:
    """The sides of an image after all strides. Sides that 2 does not divide are rounded up."""
    reduction = STRIDE ** len(filters)
    height, width, _ = image_shape
    return -(-height // reduction), -(-width // reduction)


def _pixels(
    x: keras.KerasTensor,
    architecture: str,
    image_shape: tuple[int, int, int],
    filters: tuple[int, ...],
) -> keras.KerasTensor:
    """The convolutions of a decoder, to images; what the rounding of sides added is cropped."""
    height, width, channels = image_shape
    # In `fast`, the last step is the layer of the pixels.
    steps = filters[:-1] if architecture == "fast" else filters
    for number, num_filters in enumerate(reversed(steps), start=1):
        if architecture == "residual":
            x = _residual_block(x, f"block_{number}")
        x = layers.Conv2DTranspose(
            num_filters,
            KERNEL,
            STRIDE,
            padding="same",
            activation="relu",
            name=f"conv_transpose_{number}",
        )(x)
    if architecture == "fast":
        x = layers.Conv2DTranspose(
            channels, 2 * STRIDE, STRIDE, padding="same", activation="sigmoid", name="pixels"
        )(x)
    else:
        x = _conv(channels, KERNEL, 1, "pixels", activation="sigmoid")(x)
    surplus = (x.shape[1] - height, x.shape[2] - width)
    if any(surplus):
        cropping = tuple((extra // 2, extra - extra // 2) for extra in surplus)
        x = layers.Cropping2D(cropping, name="crop")(x)
    return x


def _conv(
    num_filters: int, kernel: int, stride: int, name: str, activation: str | None = None
) -> layers.Conv2D:
    return layers.Conv2D(
        num_filters, kernel, stride, padding="same", activation=activation, name=name
    )


def _residual_block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """x + f(x), where f is two convolutions (He et al. 2016, *Identity Mappings*).

    Without normalisation: f starts as 0, which trains as well at this depth (Zhang et al. 2019).
    """
    num_filters = x.shape[-1]
    y = layers.Activation("relu", name=f"{name}_relu_1")(x)
    y = _conv(num_filters, KERNEL, 1, f"{name}_conv_1", activation="relu")(y)
    y = layers.Conv2D(
        num_filters, KERNEL, padding="same", kernel_initializer="zeros", name=f"{name}_conv_2"
    )(y)
    return layers.Add(name=f"{name}_add")([x, y])
