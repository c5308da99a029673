"""The conditional variational autoencoder (Sohn et al. 2015): p(x|y), images of a class.

Encoder and decoder take the label: the encoder as an extra channel of the image, the decoder
concatenated to the latents. Label -1 means unknown. In training, the share `label_dropout` of the
labels is replaced by -1, so that the model also works without labels.
"""

from typing import Any

import keras
from keras import layers, ops

from latentworks.models.architectures import build_decoder, build_encoder
from latentworks.models.autoencoder import scale
from latentworks.models.network import Tensor
from latentworks.models.vae import VAE


@keras.saving.register_keras_serializable(package="latentworks")
class Conditional(VAE):
    """Reconstructs images, uint8 [B, H, W, C], given labels, int64 [B], -1 if unknown."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        architecture: str,
        filters: tuple[int, ...],
        loss: str,
        beta: float,
        num_classes: int,
        label_dropout: float,
        kl_warmup_steps: int | None = None,
        kl_warmup: float | None = None,
        name: str = "conditional",
        **kwargs: Any,
    ) -> None:
        self.num_classes = num_classes
        super().__init__(
            image_shape,
            latent_dim,
            architecture,
            filters,
            loss,
            beta,
            kl_warmup_steps,
            kl_warmup,
            name=name,
            **kwargs,
        )
        self.label_dropout = label_dropout
        height, width, _ = self.image_shape
        self.label_channel = layers.Dense(height * width, name="label_channel")
        self.label_channel.build((None, num_classes))

    def _build_encoder(self) -> keras.Model:
        height, width, channels = self.image_shape
        outputs = {"z_mean": self.latent_dim, "z_log_var": self.latent_dim}
        shape = (height, width, channels + 1)
        return build_encoder(self.architecture, shape, self.filters, outputs)

    def _build_decoder(self) -> keras.Model:
        sizes = self.latent_dim, self.num_classes
        return build_decoder(self.architecture, self.image_shape, self.filters, *sizes)

    def encode(self, images: Tensor, labels: Tensor = None) -> Tensor:
        """Encode images uint8 [B, H, W, C] with labels [B] to the means of their latents [B, D]."""
        return self.encoder(self._with_channel(images, self._one_hot(labels, images)))[0]

    def decode(self, latents: Tensor, labels: Tensor = None) -> Tensor:
        """Decode latents [B, D] with labels [B] to images [B, H, W, C] in [0, 1]."""
        latents = ops.convert_to_tensor(latents)
        return self.decoder([latents, self._one_hot(labels, latents)])

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        images, labels = inputs
        if training and self.label_dropout:
            hidden = keras.random.uniform(ops.shape(labels), seed=self.seeds) < self.label_dropout
            labels = ops.where(hidden, -1, labels)
        one_hot = self._one_hot(labels, images)
        z_mean, z_log_var = self.encoder(self._with_channel(images, one_hot), training=training)
        latents = self._sampled(z_mean, z_log_var, training)
        return self.decoder([latents, one_hot], training=training)

    def _one_hot(self, labels: Tensor, rows: Tensor) -> Tensor:
        """One-hot labels: [B] -> float32 [B, K], all 0 for -1. Without labels, 0 for each row."""
        if labels is None:
            return ops.zeros((ops.shape(rows)[0], self.num_classes))
        return ops.one_hot(labels + 1, self.num_classes + 1)[:, 1:]

    def _with_channel(self, images: Tensor, one_hot: Tensor) -> Tensor:
        """Scale images, and append a channel computed from the label: [B, H, W, C + 1]."""
        height, width, _ = self.image_shape
        channel = ops.reshape(self.label_channel(one_hot), (-1, height, width, 1))
        return ops.concatenate([scale(images), channel], axis=-1)

    def graphs(self) -> dict[str, keras.Model]:
        """Return the models to export: `encoder` for `encode`, `decoder` for `decode`.

        Both take labels, too.
        """
        images = layers.Input(self.image_shape, dtype="uint8", name="images")
        latents = layers.Input((self.latent_dim,), name="latents")
        labels = layers.Input((), dtype="int64", name="labels")
        encoded, decoded = self.encode(images, labels), self.decode(latents, labels)
        return {
            "encoder": keras.Model([images, labels], encoded, name="encoder"),
            "decoder": keras.Model([latents, labels], decoded, name="decoder"),
        }

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """The loss of a VAE. The images are the targets; the labels are not."""
        images, _ = x
        return super().compute_loss(images, y, y_pred, sample_weight, training)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {**config, "num_classes": self.num_classes, "label_dropout": self.label_dropout}
