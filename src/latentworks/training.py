"""The params of a training, which the sections `train` and `prior` share."""

from typing import Annotated, Literal

from pydantic import Field

from latentworks.config import Config


class TrainingConfig(Config):
    """The optimizer Adam, its warm-up and schedule, and early stopping."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["constant", "cosine"]
    patience: Annotated[int, Field(ge=1)]
    num_threads: Annotated[int, Field(ge=1, le=256)]
