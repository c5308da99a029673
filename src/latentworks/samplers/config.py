"""The section `sample`: how new latents are drawn, and how many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from latentworks.config import Config

if TYPE_CHECKING:
    import numpy as np

    from latentworks.samplers.gaussian import Gaussian
    from latentworks.samplers.gaussian_mixture import GaussianMixture
    from latentworks.samplers.uniform_box import UniformBox


class UniformBoxConfig(Config):
    """Uniform over the observed range of each latent (Foster, *Generative Deep Learning*)."""

    kind: Literal["uniform_box"]

    def fit(self, latents: np.ndarray, labels: np.ndarray | None, seed: int) -> UniformBox:
        """Fit to latents: float32 [N, D]. Raises DataError where they cannot be used."""
        from latentworks.samplers.uniform_box import UniformBox

        return UniformBox.fit(latents)

    def load(self, arrays: dict[str, np.ndarray]) -> UniformBox:
        """The sampler whose `state()` is `arrays`."""
        from latentworks.samplers.uniform_box import UniformBox

        return UniformBox(**arrays)


class GaussianConfig(Config):
    """One Gaussian with a full covariance."""

    kind: Literal["gaussian"]

    def fit(self, latents: np.ndarray, labels: np.ndarray | None, seed: int) -> Gaussian:
        """Fit to latents: float32 [N, D]. Raises DataError where they cannot be used."""
        from latentworks.samplers.gaussian import Gaussian

        return Gaussian.fit(latents)

    def load(self, arrays: dict[str, np.ndarray]) -> Gaussian:
        """The sampler whose `state()` is `arrays`."""
        from latentworks.samplers.gaussian import Gaussian

        return Gaussian(**arrays)


class GaussianMixtureConfig(Config):
    """A mixture of Gaussians, each with a full covariance: ex-post density estimation.

    Ghosh et al. 2020, *From Variational to Deterministic Autoencoders*.
    """

    kind: Literal["gaussian_mixture"]
    num_components: Annotated[int, Field(ge=1, le=1000)]

    def fit(self, latents: np.ndarray, labels: np.ndarray | None, seed: int) -> GaussianMixture:
        """Fit to latents: float32 [N, D]. Raises DataError where they cannot be used."""
        from latentworks.samplers.gaussian_mixture import GaussianMixture

        return GaussianMixture.fit(latents, self.num_components, seed)

    def load(self, arrays: dict[str, np.ndarray]) -> GaussianMixture:
        """The sampler whose `state()` is `arrays`."""
        from latentworks.samplers.gaussian_mixture import GaussianMixture

        return GaussianMixture(**arrays)


SamplerConfig = Annotated[
    UniformBoxConfig | GaussianConfig | GaussianMixtureConfig, Field(discriminator="kind")
]


class SampleConfig(Config):
    """How many images are sampled, and from what."""

    num_images: Annotated[int, Field(ge=1, le=1_000_000)]
    sampler: SamplerConfig
