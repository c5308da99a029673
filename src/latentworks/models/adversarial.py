"""The adversarial autoencoder (Makhzani et al. 2015): all latents together are matched to N(0, I).

A discriminator learns to tell the latents z of images from draws n of N(0, I), and the encoder
learns to deceive it. New latents can then be drawn from N(0, I) without fitting a sampler. With D
for the probability that a latent was drawn, encoder and decoder minimise

    mean over pixels of `loss` - adversarial_weight * mean log D(z) / (H W C)

and the discriminator minimises the cross-entropy -(mean log D(n) + mean log(1 - D(z))) / 2, which
is ln 2 if it cannot tell them apart. A VAE matches the latents of each image, which costs detail.
Here, only all images together must fill N(0, I).
"""

import math
from typing import Any

import keras
from keras import layers, ops

from latentworks.models.autoencoder import Autoencoder, scale
from latentworks.models.network import Tensor


@keras.saving.register_keras_serializable(package="latentworks")
class Adversarial(Autoencoder):
    """Reconstructs images from latents that a discriminator compares with N(0, I) in training.

    A single optimizer trains both sides. No weight gets gradients of both losses, and Adam treats
    each weight on its own, so one Adam does what two with the same learning rate would do.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        architecture: str,
        filters: tuple[int, ...],
        loss: str,
        adversarial_weight: float,
        discriminator_width: int,
        name: str = "adversarial",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim, architecture, filters, loss, name=name, **kwargs)
        self.adversarial_weight = adversarial_weight
        self.discriminator_width = discriminator_width
        self.discriminator = build_discriminator(latent_dim, discriminator_width)
        self.seeds = keras.random.SeedGenerator(name="seeds")

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        latents = self.encoder(scale(inputs), training=training)
        if training:
            self.add_loss(self._adversarial_losses(latents))
        return self.decoder(latents, training=training)

    def _adversarial_losses(self, latents: Tensor) -> Tensor:
        """A scalar 0, whose gradients are those of both losses, for latents [B, D]."""
        drawn = keras.random.normal(ops.shape(latents), seed=self.seeds)
        of_drawn, of_latents = self.discriminator(drawn), self.discriminator(latents)  # [B, 1]
        of_fixed = self.discriminator(ops.stop_gradient(latents))  # no gradient for the encoder
        cross_entropy = (_mean_log(of_drawn) + _mean_log(-of_fixed)) / -2
        # For the discriminator, the gradients of the two terms cancel.
        deception = _mean_log(of_fixed) - _mean_log(of_latents)
        weight = self.adversarial_weight / math.prod(self.image_shape)
        return weight * deception + cross_entropy - ops.stop_gradient(cross_entropy)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in ("latent_l2", "latent_noise"):
            del config[name]
        return {
            **config,
            "adversarial_weight": self.adversarial_weight,
            "discriminator_width": self.discriminator_width,
        }


def _mean_log(logits: Tensor) -> Tensor:
    """The mean of log D, for the logits of D: [B, 1] -> []."""
    return -ops.mean(ops.softplus(-logits))


def build_discriminator(latent_dim: int, width: int) -> keras.Model:
    """Build a network from latents [B, latent_dim] to logits [B, 1]: positive if drawn."""
    latents = layers.Input((latent_dim,), name="latents")
    x = layers.Dense(width, "silu", name="hidden_1")(latents)
    x = layers.Dense(width, "silu", name="hidden_2")(x)
    return keras.Model(latents, layers.Dense(1, name="logit")(x), name="discriminator")
