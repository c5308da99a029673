"""The section `sample`: the sampler of new latents, and the number of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PlainValidator

from latentworks.config import Config
from latentworks.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from latentworks.samplers.autoregressive import Autoregressive
    from latentworks.samplers.class_gaussian_mixture import ClassGaussianMixture
    from latentworks.samplers.flow import Flow
    from latentworks.samplers.gaussian import Gaussian
    from latentworks.samplers.gaussian_mixture import GaussianMixture
    from latentworks.samplers.standard_normal import StandardNormal
    from latentworks.samplers.uniform_box import UniformBox

MAX_COMPONENTS = 1000


def _one_or_best(value: object) -> int | list[int]:
    """Validate a number or a list of numbers, with one fault per key.

    A union type would report a fault for each of its members.
    """
    if isinstance(value, list):
        if len(value) < 2 or not all(type(x) is int and 1 <= x <= MAX_COMPONENTS for x in value):
            raise ValueError(
                f"should be two or more whole numbers from 1 to {MAX_COMPONENTS}, or one number"
            )
        return value
    if type(value) is not int:
        raise ValueError("should be a valid integer")
    if value < 1:
        raise ValueError("should be greater than or equal to 1")
    if value > MAX_COMPONENTS:
        raise ValueError(f"should be less than or equal to {MAX_COMPONENTS}")
    return value


# A number, or candidates, of which the one with the highest likelihood of held-out latents is used.
OneOrBest = Annotated[int | list[int], PlainValidator(_one_or_best)]


class UniformBoxConfig(Config):
    """Uniform over the observed range of each latent (Foster, *Generative Deep Learning*)."""

    kind: Literal["uniform_box"]

    def fit(self, latents: np.ndarray, labels: np.ndarray | None, seed: int) -> UniformBox:
        """Fit to latents, float32 [N, D]. Raises DataError if they cannot be used."""
        from latentworks.samplers.uniform_box import UniformBox

        return UniformBox.fit(latents)

    def load(self, arrays: dict[str, np.ndarray]) -> UniformBox:
        """Restore a sampler from the arrays of its `state()`."""
        from latentworks.samplers.uniform_box import UniformBox

        return UniformBox(**arrays)


class GaussianConfig(Config):
    """One Gaussian with a full covariance."""

    kind: Literal["gaussian"]

    def fit(self, latents: np.ndarray, labels: np.ndarray | None, seed: int) -> Gaussian:
        """Fit to latents, float32 [N, D]. Raises DataError if they cannot be used."""
        from latentworks.samplers.gaussian import Gaussian

        return Gaussian.fit(latents)

    def load(self, arrays: dict[str, np.ndarray]) -> Gaussian:
        """Restore a sampler from the arrays of its `state()`."""
        from latentworks.samplers.gaussian import Gaussian

        return Gaussian(**arrays)


class StandardNormalConfig(Config):
    """N(0, I), the prior of variational and adversarial autoencoders, without fitting."""

    kind: Literal["standard_normal"]

    def fit(self, latents: np.ndarray, labels: np.ndarray | None, seed: int) -> StandardNormal:
        """Take D from latents, float32 [N, D]. Raises DataError if they cannot be used."""
        from latentworks.samplers.standard_normal import StandardNormal

        return StandardNormal.fit(latents)

    def load(self, arrays: dict[str, np.ndarray]) -> StandardNormal:
        """Restore a sampler from the arrays of its `state()`."""
        from latentworks.samplers.standard_normal import StandardNormal

        return StandardNormal(**arrays)


class GaussianMixtureConfig(Config):
    """A mixture of Gaussians, each with a full covariance.

    Ex-post density estimation: Ghosh et al. 2020, *From Variational to Deterministic Autoencoders*.
    """

    kind: Literal["gaussian_mixture"]
    num_components: OneOrBest

    def fit(self, latents: np.ndarray, labels: np.ndarray | None, seed: int) -> GaussianMixture:
        """Fit to latents, float32 [N, D]. Raises DataError if they cannot be used."""
        from latentworks.samplers.gaussian_mixture import GaussianMixture

        return GaussianMixture.fit(latents, self.num_components, seed)

    def load(self, arrays: dict[str, np.ndarray]) -> GaussianMixture:
        """Restore a sampler from the arrays of its `state()`."""
        from latentworks.samplers.gaussian_mixture import GaussianMixture

        return GaussianMixture(**arrays)


class ClassGaussianMixtureConfig(Config):
    """A mixture of Gaussians for each class of labelled images."""

    kind: Literal["class_gaussian_mixture"]
    num_components: OneOrBest  # per class

    def fit(
        self, latents: np.ndarray, labels: np.ndarray | None, seed: int
    ) -> ClassGaussianMixture:
        """Fit to latents, float32 [N, D]. Raises DataError if they cannot be used."""
        from latentworks.samplers.class_gaussian_mixture import ClassGaussianMixture

        return ClassGaussianMixture.fit(latents, labels, self.num_components, seed)

    def load(self, arrays: dict[str, np.ndarray]) -> ClassGaussianMixture:
        """Restore a sampler from the arrays of its `state()`."""
        from latentworks.samplers.class_gaussian_mixture import ClassGaussianMixture

        return ClassGaussianMixture(**arrays)


class LearnedConfig(Config):
    """The network of the section `prior`, which the stage `prior` has trained."""

    kind: Literal["learned"]
    guidance: Annotated[float, Field(ge=0, le=100)]  # above 1: more typical of the class
    temperature: Annotated[float, Field(ge=0, le=10)]  # below 1: nearer to the mode

    def fit(self, latents: np.ndarray, labels: np.ndarray | None, seed: int) -> Flow:
        """Raise DataError: the stage `prior` trains the network."""
        raise DataError(
            "sampler learned needs a prior. Received: prior.kind none. Take another sampler, or a "
            "prior of docs/recipes.md."
        )

    def load(self, arrays: dict[str, np.ndarray]) -> Flow | Autoregressive:
        """Restore a sampler from the arrays of its `state()`."""
        from latentworks.samplers.autoregressive import Autoregressive
        from latentworks.samplers.flow import Flow

        kind: type[Flow] | type[Autoregressive] = Autoregressive if "levels" in arrays else Flow
        return kind(**arrays, guidance=self.guidance, temperature=self.temperature)


SamplerConfig = Annotated[
    UniformBoxConfig
    | StandardNormalConfig
    | GaussianConfig
    | GaussianMixtureConfig
    | ClassGaussianMixtureConfig
    | LearnedConfig,
    Field(discriminator="kind"),
]


class SampleConfig(Config):
    """The number of images to sample, and the sampler of their latents."""

    num_images: Annotated[int, Field(ge=1, le=1_000_000)]
    sampler: SamplerConfig
