"""The base classes of the sections of params.yaml."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Config(BaseModel):
    """A frozen set of params, without defaults: params.yaml is the only source of values."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, lt=1)]  # of all steps of a training
Steps = Annotated[int, Field(ge=0)]


class TrainingConfig(Config):
    """The params that `train` and `prior` share: Adam, its warm-up and schedule, early stopping."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    warmup_steps: Steps | None = None  # params.yaml has either this or `warmup`
    warmup: Annotated[Share | None, Field(validate_default=True)] = None
    schedule: Literal["constant", "cosine"]
    patience: Annotated[int, Field(ge=1)]
    num_threads: Annotated[int, Field(ge=1, le=256)]

    @field_validator("warmup")
    @classmethod
    def _is_given_once(cls, share: float | None, info: ValidationInfo) -> float | None:
        return one_of(share, info, "warmup_steps")

    def num_warmup_steps(self, num_steps: int) -> int:
        """Return the length of the warm-up in a training of `num_steps` steps."""
        return steps_of(self.warmup, self.warmup_steps, num_steps)


def one_of(share: float | None, info: ValidationInfo, steps: str) -> float | None:
    """Return `share`. Raises ValueError unless either it or the param named `steps` is given."""
    if share is None and info.data.get(steps, 0) is None:
        raise ValueError("is missing. Expected a share of all steps, such as 0.05")
    if share is not None and info.data.get(steps) is not None:
        raise ValueError(f"and {steps} are both given. Remove {steps}")
    return share


def steps_of(share: float | None, steps: int | None, num_steps: int) -> int:
    """Return `steps`; without it, `share` of `num_steps`, rounded."""
    return round((share or 0.0) * num_steps) if steps is None else steps
