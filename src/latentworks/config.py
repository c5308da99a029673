"""The base class of the sections of params.yaml."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """A frozen set of params, without defaults: params.yaml is the only source of values."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


Seed = Annotated[int, Field(ge=0, lt=2**32)]
