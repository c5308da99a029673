"""The sections `model` and `train`: the model family, and the training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from latentworks.config import Config, Share, Steps, TrainingConfig, one_of
from latentworks.errors import DataError

if TYPE_CHECKING:
    from latentworks.models.adversarial import Adversarial
    from latentworks.models.autoencoder import Autoencoder
    from latentworks.models.codes import Codes
    from latentworks.models.conditional import Conditional
    from latentworks.models.vae import VAE


MAX_VALUES = 2**15  # of a code: it is kept in 16 bits


class _Network(Config):
    """The params that all families share."""

    architecture: Literal["plain", "fast", "residual"]
    filters: Annotated[
        tuple[Annotated[int, Field(ge=1, le=2048)], ...], Field(min_length=1, max_length=8)
    ]
    loss: Literal["binary_crossentropy", "mean_squared_error"]

    def _settings(self) -> dict[str, Any]:
        return self.model_dump(exclude={"kind"})


class _WithLatents(_Network):
    latent_dim: Annotated[int, Field(ge=1, le=1024)]


class AutoencoderConfig(_WithLatents):
    """The convolutional autoencoder of Foster, *Generative Deep Learning* (2nd ed.), chapter 3.

    With `latent_l2` it is regularised (Ghosh et al. 2020). `latent_noise` needs `latent_l2`.
    """

    kind: Literal["autoencoder"]
    latent_l2: Annotated[float, Field(ge=0)]
    latent_noise: Annotated[float, Field(ge=0)]

    @field_validator("latent_noise")
    @classmethod
    def _needs_l2(cls, noise: float, info: ValidationInfo) -> float:
        if noise and not info.data.get("latent_l2", noise):
            raise ValueError("needs latent_l2 above 0, or the latents outgrow the noise")
        return noise

    def build(self, image_shape: tuple[int, int, int], num_classes: int = 0) -> Autoencoder:
        """Build a model with fresh weights. `image_shape`: (height, width, channels)."""
        from latentworks.models.autoencoder import Autoencoder

        return Autoencoder(image_shape, **self._settings())

    def load(self, path: Path) -> Autoencoder:
        """Load a model from a `.keras` file, without executing code in the file."""
        from latentworks.models.autoencoder import Autoencoder

        return Autoencoder.load(path)


class _Variational(_WithLatents):
    """The params of variational families. `beta` weights the KL divergence."""

    beta: Annotated[float, Field(ge=0)]
    kl_warmup_steps: Steps | None = None  # params.yaml has either this or `kl_warmup`
    kl_warmup: Annotated[Share | None, Field(validate_default=True)] = None

    @field_validator("kl_warmup")
    @classmethod
    def _is_given_once(cls, share: float | None, info: ValidationInfo) -> float | None:
        return one_of(share, info, "kl_warmup_steps")


class VAEConfig(_Variational):
    """A variational autoencoder (Kingma and Welling 2014)."""

    kind: Literal["vae"]

    def build(self, image_shape: tuple[int, int, int], num_classes: int = 0) -> VAE:
        """Build a model with fresh weights. `image_shape`: (height, width, channels)."""
        from latentworks.models.vae import VAE

        return VAE(image_shape, **self._settings())

    def load(self, path: Path) -> VAE:
        """Load a model from a `.keras` file, without executing code in the file."""
        from latentworks.models.vae import VAE

        return VAE.load(path)


class ConditionalConfig(_Variational):
    """A variational autoencoder whose encoder and decoder take the label (Sohn et al. 2015)."""

    kind: Literal["conditional"]
    label_dropout: Annotated[float, Field(gt=0, lt=1)]  # at 0 every image would need a label

    def build(self, image_shape: tuple[int, int, int], num_classes: int = 0) -> Conditional:
        """Build a model with fresh weights. `image_shape`: (height, width, channels).

        Labels are 0 to `num_classes` - 1. Raises DataError if `num_classes` is 0.
        """
        from latentworks.models.conditional import Conditional

        if num_classes < 1:
            raise DataError(
                "conditional needs images with labels. Received: no labels. Set model.kind to vae."
            )
        return Conditional(image_shape, num_classes=num_classes, **self._settings())

    def load(self, path: Path) -> Conditional:
        """Load a model from a `.keras` file, without executing code in the file."""
        from latentworks.models.conditional import Conditional

        return Conditional.load(path)


class AdversarialConfig(_WithLatents):
    """An adversarial autoencoder (Makhzani et al. 2015), whose latents are matched to N(0, I).

    `adversarial_weight` weights the loss of the encoder against the discriminator, whose two hidden
    layers have `discriminator_width` units each.
    """

    kind: Literal["adversarial"]
    adversarial_weight: Annotated[float, Field(ge=0)]
    discriminator_width: Annotated[int, Field(ge=1, le=4096)]

    def build(self, image_shape: tuple[int, int, int], num_classes: int = 0) -> Adversarial:
        """Build a model with fresh weights. `image_shape`: (height, width, channels)."""
        from latentworks.models.adversarial import Adversarial

        return Adversarial(image_shape, **self._settings())

    def load(self, path: Path) -> Adversarial:
        """Load a model from a `.keras` file, without executing code in the file."""
        from latentworks.models.adversarial import Adversarial

        return Adversarial.load(path)


class CodesConfig(_Network):
    """An autoencoder with finite scalar quantization (Mentzer et al. 2023)."""

    kind: Literal["codes"]
    levels: Annotated[
        tuple[Annotated[int, Field(ge=2, le=64)], ...], Field(min_length=1, max_length=8)
    ]

    @field_validator("levels")
    @classmethod
    def _are_few(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(levels) > MAX_VALUES:
            raise ValueError(f"should have a product of at most {MAX_VALUES}")
        return levels

    def build(self, image_shape: tuple[int, int, int], num_classes: int = 0) -> Codes:
        """Build a model with fresh weights. `image_shape`: (height, width, channels)."""
        from latentworks.models.codes import Codes

        return Codes(image_shape, **self._settings())

    def load(self, path: Path) -> Codes:
        """Load a model from a `.keras` file, without executing code in the file."""
        from latentworks.models.codes import Codes

        return Codes.load(path)


ModelConfig = Annotated[
    AutoencoderConfig | VAEConfig | ConditionalConfig | AdversarialConfig | CodesConfig,
    Field(discriminator="kind"),
]


STEPS_PER_ROUND = 25  # of the second phase, between two checkpoints


class RefineConfig(Config):
    """The second phase, see engine/refinement.py. Weights are shares of the loss that was reached.

    `steps: 0` leaves it out.
    """

    steps: Annotated[int, Field(ge=0, le=10_000, multiple_of=STEPS_PER_ROUND)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    energy: Annotated[float, Field(ge=0)]
    moments: Annotated[float, Field(ge=0)]
    features: Annotated[float, Field(ge=0)]
    discriminator: Annotated[float, Field(ge=0)] = 0.0


class TrainConfig(TrainingConfig):
    """The training of a model, and its second phase."""

    refine: RefineConfig | None = None
