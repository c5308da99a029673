"""The variational autoencoder (Kingma and Welling 2014) with a weighted KL divergence.

The encoder maps an image to a Gaussian in latent space; `encode` returns its mean. The KL
divergence pulls these Gaussians towards N(0, I), from which new latents can be drawn without
fitting a sampler. The loss is

    mean over pixels of `loss` + beta * KL(N(z_mean, exp(z_log_var)) || N(0, I)) / (H W C)
"""

import math
from typing import Any

import keras
from keras import ops

from latentworks.config import steps_of
from latentworks.models.architectures import build_encoder
from latentworks.models.autoencoder import Autoencoder, scale
from latentworks.models.network import Tensor


@keras.saving.register_keras_serializable(package="latentworks")
class VAE(Autoencoder):
    """β-VAE (Higgins et al. 2017); β rises from 0 in a warm-up (Bowman et al. 2016).

    The warm-up lasts `kl_warmup_steps`, or the share `kl_warmup` of all steps.

    With binary_crossentropy and β = 1, the loss is the negative evidence lower bound, in nats per
    pixel. With mean_squared_error, β is twice the variance of a pixel around its mean, so it is far
    below 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        latent_dim: int,
        architecture: str,
        filters: tuple[int, ...],
        loss: str,
        beta: float,
        kl_warmup_steps: int | None = None,
        kl_warmup: float | None = None,
        name: str = "vae",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_shape, latent_dim, architecture, filters, loss, name=name, **kwargs)
        self.beta = beta
        self.kl_warmup_steps, self.kl_warmup = kl_warmup_steps, kl_warmup
        self.seeds = keras.random.SeedGenerator(name="seeds")
        self.kl_loss = keras.metrics.Mean(name="kl_loss")  # nats per image

    @property
    def settled_after(self) -> int:  # type: ignore[override]
        return steps_of(self.kl_warmup, self.kl_warmup_steps, self.num_training_steps)

    def _build_encoder(self) -> keras.Model:
        outputs = {"z_mean": self.latent_dim, "z_log_var": self.latent_dim}
        return build_encoder(self.architecture, self.image_shape, self.filters, outputs)

    def encode(self, images: Tensor, labels: Tensor = None) -> Tensor:
        """Encode images uint8 [B, H, W, C] to the means of their latents [B, D]."""
        return self.encoder(scale(images))[0]

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        z_mean, z_log_var = self.encoder(scale(inputs), training=training)
        return self.decoder(self._sampled(z_mean, z_log_var, training), training=training)

    def _sampled(self, z_mean: Tensor, z_log_var: Tensor, training: bool | None) -> Tensor:
        """Draw latents [B, D] from the Gaussians, and add the KL divergence to the loss."""
        kl = kl_divergence(z_mean, z_log_var)  # [B]
        self.kl_loss.update_state(kl)
        self.add_loss(self._weight(training) * ops.mean(kl) / math.prod(self.image_shape))
        noise = keras.random.normal(ops.shape(z_mean), seed=self.seeds)
        return z_mean + ops.exp(z_log_var / 2) * noise

    def _weight(self, training: bool | None) -> Tensor:
        """The KL weight: β, or in training the part of β that the warm-up has reached."""
        warmup = self.settled_after
        if not training or not warmup or self.refinement is not None:
            return self.beta
        step = ops.cast(self.optimizer.iterations, "float32")
        return self.beta * ops.minimum(1.0, step / warmup)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for name in ("latent_l2", "latent_noise"):
            del config[name]
        lengths = {"kl_warmup_steps": self.kl_warmup_steps, "kl_warmup": self.kl_warmup}
        return {**config, "beta": self.beta, **lengths}


def kl_divergence(z_mean: Tensor, z_log_var: Tensor) -> Tensor:
    """KL(N(z_mean, exp(z_log_var)) || N(0, I)), in nats: [B, D] -> [B]."""
    return ops.sum(ops.square(z_mean) + ops.exp(z_log_var) - 1.0 - z_log_var, axis=-1) / 2
