"""The convolutional autoencoder of Foster, *Generative Deep Learning*, 2nd edition, chapter 3.

The encoder halves the image with each convolution and ends in a dense layer of `latent_dim`
units; the decoder mirrors it with transposed convolutions. Both are trained as one.
"""

from pathlib import Path
from typing import Any

import keras
from keras import layers, ops

STRIDE = 2
KERNEL = 3


@keras.saving.register_keras_serializable(package="latentworks")
class Autoencoder(keras.Model):
    """Takes images as uint8 [B, H, W, C] and returns reconstructions as float32 in [0, 1]."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        filters: tuple[int, ...],
        loss: str,
        name: str = "autoencoder",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        height, width, channels = image_shape
        self.image_shape = (height, width, channels)
        self.latent_dim = latent_dim
        self.filters = tuple(filters)
        self.loss_name = loss
        self.encoder = build_encoder(self.image_shape, latent_dim, self.filters)
        self.decoder = build_decoder(self.image_shape, latent_dim, self.filters)
        self.built = True  # both halves are, and there is nothing else

    def encode(self, images: Any) -> Any:
        """Images uint8 [B, H, W, C] to latents [B, D]."""
        return self.encoder(scale(images))

    def decode(self, latents: Any) -> Any:
        """Latents [B, D] to images in [0, 1], [B, H, W, C]."""
        return self.decoder(latents)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.decoder(self.encoder(scale(inputs), training=training), training=training)

    def graphs(self) -> dict[str, keras.Model]:
        """What is exported: `encoder` is `encode`, `decoder` is `decode`."""
        images = layers.Input(self.image_shape, dtype="uint8", name="images")
        latents = self.encoder(scale(images))
        return {"encoder": keras.Model(images, latents, name="encoder"), "decoder": self.decoder}

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The reconstruction loss, a mean over pixels and images. The images are the targets."""
        loss = keras.losses.get(self.loss_name)
        return ops.mean(loss(scale(x), y_pred))

    def get_config(self) -> dict[str, Any]:
        return {
            "image_shape": list(self.image_shape),
            "latent_dim": self.latent_dim,
            "filters": list(self.filters),
            "loss": self.loss_name,
            "name": self.name,
        }


def scale(images: Any) -> Any:
    """Images uint8, 0 to 255, to float32, 0 to 1."""
    return ops.cast(images, "float32") / 255.0


def build_encoder(
    image_shape: tuple[int, int, int], latent_dim: int, filters: tuple[int, ...]
) -> keras.Model:
    """Images [B, H, W, C] in [0, 1] to latents [B, latent_dim]."""
    x = images = layers.Input(image_shape, name="images")
    for number, num_filters in enumerate(filters, start=1):
        x = layers.Conv2D(
            num_filters, KERNEL, STRIDE, padding="same", activation="relu", name=f"conv_{number}"
        )(x)
    x = layers.Flatten(name="flatten")(x)
    latents = layers.Dense(latent_dim, name="latents")(x)
    return keras.Model(images, latents, name="encoder")


def build_decoder(
    image_shape: tuple[int, int, int], latent_dim: int, filters: tuple[int, ...]
) -> keras.Model:
    """Latents [B, latent_dim] to images [B, H, W, C] in [0, 1]."""
    height, width, channels = image_shape
    reduction = STRIDE ** len(filters)
    # A side that the strides do not divide is rounded up here and cropped at the end.
    smallest = (-(-height // reduction), -(-width // reduction), filters[-1])
    latents = layers.Input((latent_dim,), name="latents")
    x = layers.Dense(smallest[0] * smallest[1] * smallest[2], name="dense")(latents)
    x = layers.Reshape(smallest, name="reshape")(x)
    for number, num_filters in enumerate(reversed(filters), start=1):
        x = layers.Conv2DTranspose(
            num_filters,
            KERNEL,
            STRIDE,
            padding="same",
            activation="relu",
            name=f"conv_transpose_{number}",
        )(x)
    x = layers.Conv2D(channels, KERNEL, padding="same", activation="sigmoid", name="pixels")(x)
    surplus = (smallest[0] * reduction - height, smallest[1] * reduction - width)
    if any(surplus):
        cropping = tuple((extra // 2, extra - extra // 2) for extra in surplus)
        x = layers.Cropping2D(cropping, name="crop")(x)
    return keras.Model(latents, x, name="decoder")


def load(path: Path) -> Autoencoder:
    """The model kept in a `.keras` file; one that would run code of its own is refused by Keras."""
    model: Autoencoder = keras.saving.load_model(path, compile=False, safe_mode=True)
    return model
