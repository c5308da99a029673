"""The section `prior`: the network that learns where latents lie, and its training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from latentworks.config import Config, TrainingConfig
from latentworks.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from latentworks.priors.autoregressive import LSTM, Transformer
    from latentworks.priors.flow import Flow


class NoPriorConfig(Config):
    """No network: the sampler is fitted to the latents."""

    kind: Literal["none"]


class _Network(Config):
    """The params that all networks share."""

    width: Annotated[int, Field(ge=1, le=8192)]
    num_blocks: Annotated[int, Field(ge=1, le=64)]
    label_dropout: Annotated[float, Field(gt=0, lt=1)]  # share of labels that are hidden


class FlowConfig(TrainingConfig, _Network):
    """Flow matching over latents (Lipman et al. 2023)."""

    kind: Literal["flow"]
    num_steps: Annotated[int, Field(ge=1, le=1000)]  # of the ODE, from noise to a latent

    def build(self, z: np.ndarray, levels: tuple[int, ...] | None, num_classes: int) -> Flow:
        """Build a network with fresh weights for latents like z, float32 [N, D].

        Labels are 0 to `num_classes` - 1.
        """
        from latentworks.priors.flow import Flow

        return Flow.of(
            z, num_classes, self.width, self.num_blocks, self.label_dropout, self.num_steps
        )


class _OverCodes(TrainingConfig, _Network):
    kind: str

    def _sizes(
        self, z: np.ndarray, levels: tuple[int, ...] | None, num_classes: int
    ) -> dict[str, Any]:
        if levels is None:
            raise DataError(
                f"prior {self.kind} needs codes. Received: latents that are not quantised. Take "
                "the model codes of docs/recipes.md, or the prior flow."
            )
        return {
            "num_codes": z.shape[1] // len(levels),
            "levels": levels,
            "num_classes": num_classes,
            "width": self.width,
            "num_blocks": self.num_blocks,
            "label_dropout": self.label_dropout,
        }


class TransformerConfig(_OverCodes):
    """A Transformer over codes (Radford et al. 2019)."""

    kind: Literal["transformer"]
    num_heads: Annotated[int, Field(ge=1, le=256)]

    @field_validator("num_heads")
    @classmethod
    def _divides(cls, num_heads: int, info: ValidationInfo) -> int:
        if info.data.get("width", num_heads) % num_heads:
            raise ValueError("must divide width")
        return num_heads

    def build(self, z: np.ndarray, levels: tuple[int, ...] | None, num_classes: int) -> Transformer:
        """Build a network with fresh weights for the codes of latents like z, float32 [N, D].

        Labels are 0 to `num_classes` - 1. Raises DataError if the latents have no `levels`.
        """
        from latentworks.priors.autoregressive import Transformer

        return Transformer(**self._sizes(z, levels, num_classes), num_heads=self.num_heads)


class LSTMConfig(_OverCodes):
    """Long short-term memory over codes (Graves 2013)."""

    kind: Literal["lstm"]

    def build(self, z: np.ndarray, levels: tuple[int, ...] | None, num_classes: int) -> LSTM:
        """Build a network with fresh weights for the codes of latents like z, float32 [N, D].

        Labels are 0 to `num_classes` - 1. Raises DataError if the latents have no `levels`.
        """
        from latentworks.priors.autoregressive import LSTM

        return LSTM(**self._sizes(z, levels, num_classes))


TrainedConfig = FlowConfig | TransformerConfig | LSTMConfig
PriorConfig = Annotated[NoPriorConfig | TrainedConfig, Field(discriminator="kind")]
