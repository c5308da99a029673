"""The base classes of the sections of params.yaml."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """A frozen set of params, without defaults: params.yaml is the only source of values."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


Seed = Annotated[int, Field(ge=0, lt=2**32)]


class TrainingConfig(Config):
    """The params that `train` and `prior` share: Adam, its warm-up and schedule, early stopping."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["constant", "cosine"]
    patience: Annotated[int, Field(ge=1)]
    num_threads: Annotated[int, Field(ge=1, le=256)]
