"""What encoders and decoders are made of: for images of any size, grey or RGB.

`plain` is Foster's, *Generative Deep Learning*, chapter 3. `fast` does a quarter of its
multiplications: nothing but the pixels is computed at full size. `residual` does five times as
many, for longer training and for accelerators.
"""

import keras
from keras import layers

STRIDE = 2  # of each of `filters`: the encoder halves the image, the decoder doubles it
KERNEL = 3


def build_encoder(
    architecture: str,
    input_shape: tuple[int, int, int],
    filters: tuple[int, ...],
    outputs: dict[str, int],
) -> keras.Model:
    """Arrays [B, H, W, C] to each of `outputs`, [B, its number of units]; one alone has no list."""
    x = images = layers.Input(input_shape, name="images")
    if architecture == "residual":
        x = _conv(filters[0], KERNEL, 1, "stem")(x)
    for number, num_filters in enumerate(filters, start=1):
        kernel = STRIDE if architecture == "fast" and number > 1 else KERNEL
        x = _conv(num_filters, kernel, STRIDE, f"conv_{number}", activation="relu")(x)
        if architecture == "residual":
            x = _residual_block(x, f"block_{number}")
    x = layers.Flatten(name="flatten")(x)
    found = [layers.Dense(units, name=name)(x) for name, units in outputs.items()]
    return keras.Model(images, found[0] if len(found) == 1 else found, name="encoder")


def build_decoder(
    architecture: str,
    image_shape: tuple[int, int, int],
    filters: tuple[int, ...],
    latent_dim: int,
    num_classes: int = 0,
) -> keras.Model:
    """Latents [B, latent_dim] to images [B, H, W, C] in [0, 1].

    With classes the inputs are latents and labels, the second as float32 [B, num_classes].
    """
    height, width, channels = image_shape
    reduction = STRIDE ** len(filters)
    # A side that the strides do not divide is rounded up here and cropped at the end.
    smallest = (-(-height // reduction), -(-width // reduction), filters[-1])
    x = inputs = layers.Input((latent_dim,), name="latents")
    if num_classes:
        inputs = [inputs, layers.Input((num_classes,), name="labels")]
        x = layers.Concatenate(name="latents_and_labels")(inputs)
    x = layers.Dense(smallest[0] * smallest[1] * smallest[2], name="dense")(x)
    x = layers.Reshape(smallest, name="reshape")(x)
    # The last step of `fast` makes the pixels.
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
    surplus = (smallest[0] * reduction - height, smallest[1] * reduction - width)
    if any(surplus):
        cropping = tuple((extra // 2, extra - extra // 2) for extra in surplus)
        x = layers.Cropping2D(cropping, name="crop")(x)
    return keras.Model(inputs, x, name="decoder")


def _conv(
    num_filters: int, kernel: int, stride: int, name: str, activation: str | None = None
) -> layers.Conv2D:
    return layers.Conv2D(
        num_filters, kernel, stride, padding="same", activation=activation, name=name
    )


def _residual_block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """x + f(x), of two convolutions (He et al. 2016, *Identity Mappings*).

    Without normalisation: f begins as 0, which is as good at this depth (Zhang et al. 2019).
    """
    num_filters = x.shape[-1]
    y = layers.Activation("relu", name=f"{name}_relu_1")(x)
    y = _conv(num_filters, KERNEL, 1, f"{name}_conv_1", activation="relu")(y)
    y = layers.Conv2D(
        num_filters, KERNEL, padding="same", kernel_initializer="zeros", name=f"{name}_conv_2"
    )(y)
    return layers.Add(name=f"{name}_add")([x, y])
