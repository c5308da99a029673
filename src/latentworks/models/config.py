"""The sections `model` and `train`: what is trained, and how."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from latentworks.config import Config

if TYPE_CHECKING:
    from latentworks.models.autoencoder import Autoencoder


class AutoencoderConfig(Config):
    """The convolutional autoencoder of Foster, *Generative Deep Learning* (2nd ed.), chapter 3."""

    kind: Literal["autoencoder"]
    latent_dim: Annotated[int, Field(ge=1, le=1024)]
    filters: Annotated[
        tuple[Annotated[int, Field(ge=1, le=2048)], ...], Field(min_length=1, max_length=8)
    ]
    loss: Literal["binary_crossentropy", "mean_squared_error"]

    def build(self, image_shape: tuple[int, int, int]) -> Autoencoder:
        """A model with fresh weights for images of `image_shape`: (height, width, channels)."""
        from latentworks.models.autoencoder import Autoencoder

        return Autoencoder(image_shape, self.latent_dim, self.filters, self.loss)

    def load(self, path: Path) -> Autoencoder:
        """The model kept in a `.keras` file. Nothing in the file is executed."""
        from latentworks.models.autoencoder import load

        return load(path)


ModelConfig = AutoencoderConfig  # one `kind` so far; the next makes this a union told apart by it


class TrainConfig(Config):
    """Adam with a warm-up and a schedule, and when to stop."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["constant", "cosine"]
    patience: Annotated[int, Field(ge=1)]
    num_threads: Annotated[int, Field(ge=1, le=256)]
