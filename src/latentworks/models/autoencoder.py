"""The autoencoder of Foster, *Generative Deep Learning*, 2nd edition, chapter 3.

Encoder and decoder are trained together. The loss is

    mean over pixels of `loss` + latent_l2 * |z|² / 2 / (H W C)

With `latent_l2` this is a regularised autoencoder (Ghosh et al. 2020, *From Variational to
Deterministic Autoencoders*), whose latents stay close together. Ghosh et al. regularise the
decoder, too. Here, `latent_noise` adds Gaussian noise to the latents before decoding, so that
nearby latents decode to similar images, and new latents are easier to sample. `latent_noise` needs
`latent_l2`: without it the latents grow until the noise has no effect.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import keras
from keras import layers, ops

from latentworks.models.architectures import build_decoder, build_encoder
from latentworks.models.network import Tensor


@keras.saving.register_keras_serializable(package="latentworks")
class Autoencoder(keras.Model):
    """Reconstructs images: uint8 [B, H, W, C] to float32 [B, H, W, C] in [0, 1]."""

    levels: tuple[int, ...] | None = None  # the latents are not quantised
    num_classes = 0  # of the labels that the model takes
    num_training_steps = 0  # `fit` sets it
    settled_after = 0  # steps after which the weights within the loss are constant
    refinement: Callable[[Tensor, Tensor], Tensor] | None = None  # added in the second phase

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
        self.built = True  # encoder and decoder are built, and no other layer has weights

    def _build_encoder(self) -> keras.Model:
        outputs = {"latents": self.latent_dim}
        return build_encoder(self.architecture, self.image_shape, self.filters, outputs)

    def _build_decoder(self) -> keras.Model:
        return build_decoder(self.architecture, self.image_shape, self.filters, self.latent_dim)

    def encode(self, images: Tensor, labels: Tensor = None) -> Tensor:
        """Encode images uint8 [B, H, W, C] to latents [B, D]. `labels` are ignored."""
        return self.encoder(scale(images))

    def decode(self, latents: Tensor, labels: Tensor = None) -> Tensor:
        """Decode latents [B, D] to images [B, H, W, C] in [0, 1]. `labels` are ignored."""
        return self.decoder(latents)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        latents = self.encoder(scale(inputs), training=training)
        if self.latent_l2:
            norms = ops.sum(ops.square(latents), axis=-1) / 2
            self.add_loss(self.latent_l2 * ops.mean(norms) / math.prod(self.image_shape))
        return self.decoder(self.noise(latents, training=training), training=training)

    def graphs(self) -> dict[str, keras.Model]:
        """Return the models to export: `encoder` for `encode`, and `decoder` for `decode`."""
        images = layers.Input(self.image_shape, dtype="uint8", name="images")
        latents = layers.Input((self.latent_dim,), name="latents")
        return {
            "encoder": keras.Model(images, self.encode(images), name="encoder"),
            "decoder": keras.Model(latents, self.decode(latents), name="decoder"),
        }

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """Reconstruction loss, mean over pixels and images, plus the losses that `call` added.

        The images are the targets. Added losses are divided by the number of pixels, too.
        """
        loss = sum(self.losses, self._reconstruction_loss(x, y_pred))
        if training and self.refinement is not None:
            loss += self.refinement(scale(x), y_pred)
        return loss

    def _reconstruction_loss(self, images: Tensor, reconstructions: Tensor) -> Tensor:
        return ops.mean(keras.losses.get(self.loss_name)(scale(images), reconstructions))

    def excess(self, images: Tensor, reconstructions: Tensor) -> float:
        """The reconstruction loss above its minimum, which cross-entropy has above 0."""
        perfect = self._reconstruction_loss(images, scale(images))
        return float(self._reconstruction_loss(images, reconstructions) - perfect)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Load a model from a `.keras` file. Keras refuses files that would run their own code.

        Raises TypeError if the model is of another family.
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


def scale(images: Tensor) -> Tensor:
    """Scale images from uint8, 0 to 255, to float32, 0 to 1."""
    return ops.cast(images, "float32") / 255.0
