"""What every section of params.yaml is parsed into."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """A frozen set of knobs. It has no defaults: params.yaml is the only place where they stand."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True
    )


Seed = Annotated[int, Field(ge=0, lt=2**32)]
