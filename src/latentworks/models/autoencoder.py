"""The autoencoder of Foster, *Generative Deep Learning*, 2nd edition, chapter 3.

Encoder and decoder are trained as one. With `latent_l2` it is a regularised autoencoder, after
Ghosh et al. 2020, *From Variational to Deterministic Autoencoders*: the latents stay together.
They regularise the decoder, too; here `latent_noise` moves what it is given, so that neighbours
decode to alike images and new ones are easier to draw. It needs `latent_l2` beside it, or the
latents outgrow it.
"""

import math
from pathlib import Path
from typing import Any, Self

import keras
from keras import layers, ops

from latentworks.models.architectures import build_decoder, build_encoder


@keras.saving.register_keras_serializable(package="latentworks")
class Autoencoder(keras.Model):
    """Takes images as uint8 [B, H, W, C] and returns reconstructions as float32 in [0, 1]."""

    num_classes = 0  # whose labels it is given
    kl_warmup_steps = 0  # in which its loss becomes another

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        architecture: str,
        filters: tuple[int, ...],
        loss: str,
        latent_l2: float = 0.0,
        latent_noise: float = 0.0,
        name: str = "autoencoder",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        height, width, channels = image_shape
        self.image_shape = (height, width, channels)
        self.latent_dim = latent_dim
        self.architecture = architecture
        self.filters = tuple(filters)
        self.loss_name = loss
        self.latent_l2, self.latent_noise = latent_l2, latent_noise
        self.encoder = self._build_encoder()
        self.decoder = self._build_decoder()
        self.noise = layers.GaussianNoise(latent_noise, name="noise")
        self.built = True  # both halves are, and there is nothing else

    def _build_encoder(self) -> keras.Model:
        outputs = {"latents": self.latent_dim}
        return build_encoder(self.architecture, self.image_shape, self.filters, outputs)

    def _build_decoder(self) -> keras.Model:
        return build_decoder(self.architecture, self.image_shape, self.filters, self.latent_dim)

    def encode(self, images: Any, labels: Any = None) -> Any:
        """Images uint8 [B, H, W, C] to latents [B, D]. Labels make no difference to this family."""
        return self.encoder(scale(images))

    def decode(self, latents: Any, labels: Any = None) -> Any:
        """Latents [B, D] to images in [0, 1], [B, H, W, C]."""
        return self.decoder(latents)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        latents = self.encoder(scale(inputs), training=training)
        if self.latent_l2:
            norms = ops.sum(ops.square(latents), axis=-1) / 2
            self.add_loss(self.latent_l2 * ops.mean(norms) / math.prod(self.image_shape))
        return self.decoder(self.noise(latents, training=training), training=training)

    def graphs(self) -> dict[str, keras.Model]:
        """What is exported: `encoder` is `encode`, `decoder` is `decode`."""
        images = layers.Input(self.image_shape, dtype="uint8", name="images")
        latents = layers.Input((self.latent_dim,), name="latents")
        return {
            "encoder": keras.Model(images, self.encode(images), name="encoder"),
            "decoder": keras.Model(latents, self.decode(latents), name="decoder"),
        }

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The reconstruction loss, a mean over pixels and images, and what `call` added to it.

        The images are the targets. What is added is divided by the number of pixels, too.
        """
        loss = keras.losses.get(self.loss_name)
        return sum(self.losses, ops.mean(loss(scale(x), y_pred)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """The model in a `.keras` file; one that would run code of its own is refused by Keras.

        Raises TypeError where it is of another family.
        """
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
        if type(model) is not cls:
            raise TypeError(f"expected {cls.__name__}. Received: {type(model).__name__}.")
        return model

    def get_config(self) -> dict[str, Any]:
        return {
            "image_shape": list(self.image_shape),
            "latent_dim": self.latent_dim,
            "architecture": self.architecture,
            "filters": list(self.filters),
            "loss": self.loss_name,
            "latent_l2": self.latent_l2,
            "latent_noise": self.latent_noise,
            "name": self.name,
        }


def scale(images: Any) -> Any:
    """Images uint8, 0 to 255, to float32, 0 to 1."""
    return ops.cast(images, "float32") / 255.0
