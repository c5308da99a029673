"""A mixture of Gaussians per class: p(x|y) from any model whose images have labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from latentworks.errors import DataError
from latentworks.samplers.gaussian_mixture import GaussianMixture
from latentworks.samplers.latents import checked


@dataclass(frozen=True)
class ClassGaussianMixture:
    """Gaussians, each of one class. The weights of a class sum to its share of the latents."""

    weights: np.ndarray  # float64 [K]
    means: np.ndarray  # float64 [K, D]
    choleskys: np.ndarray  # float64 [K, D, D], lower
    classes: np.ndarray  # int64 [K]

    @classmethod
    def fit(
        cls,
        latents: np.ndarray,
        labels: np.ndarray | None,
        num_components: int | Sequence[int],
        seed: int,
    ) -> ClassGaussianMixture:
        """Fit a `GaussianMixture` to each class of latents, float32 [N, D], labels int64 [N].

        Latents without a label (-1) are ignored. Raises DataError if no latent has a label, or if
        a class has fewer distinct latents than components.
        """
        latents = checked(latents)
        known = np.unique([] if labels is None else labels[labels >= 0])
        if labels is None or not len(known):
            raise DataError(
                "class_gaussian_mixture needs images with labels. Received: no labels. "
                "Set sample.sampler.kind to gaussian_mixture."
            )
        mixtures = [_of_class(latents, labels, each, num_components, seed) for each in known]
        sizes = np.array([(labels == each).sum() for each in known])
        shares = sizes / sizes.sum()
        return cls(
            np.concatenate([s * each.weights for s, each in zip(shares, mixtures, strict=True)]),
            np.concatenate([each.means for each in mixtures]),
            np.concatenate([each.choleskys for each in mixtures]),
            np.repeat(known, [len(each.weights) for each in mixtures]).astype(np.int64),
        )

    def of_class(self, label: int) -> GaussianMixture:
        """The mixture of one class. Raises DataError if no latent of the class was fitted."""
        rows = self.classes == label
        if not rows.any():
            known = ", ".join(map(str, np.unique(self.classes)))
            raise DataError(f"Unknown class. Expected one of: {known}. Received: {label}.")
        weights = self.weights[rows]
        return GaussianMixture(weights / weights.sum(), self.means[rows], self.choleskys[rows])

    def sample_of(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a latent for each of labels int64 [N]: float32 [N, D]. Raises as `of_class` does."""
        latents = np.empty((len(labels), self.means.shape[1]), dtype=np.float32)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            latents[rows] = self.of_class(int(label)).sample(len(rows), rng)
        return latents

    def sample(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `num` latents, with the classes in their shares: float32 [num, D]."""
        return self._mixture.sample(num, rng)

    def log_density(self, latents: np.ndarray) -> np.ndarray:
        """The log density of all classes together at latents [N, D]: float64 [N], in nats."""
        return self._mixture.log_density(latents)

    @property
    def _mixture(self) -> GaussianMixture:
        return GaussianMixture(self.weights, self.means, self.choleskys)

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that define the sampler, by name."""
        return asdict(self)


def _of_class(
    latents: np.ndarray,
    labels: np.ndarray,
    label: int,
    num_components: int | Sequence[int],
    seed: int,
) -> GaussianMixture:
    try:
        return GaussianMixture.fit(latents[labels == label], num_components, seed)
    except DataError as error:
        hint = " Or give a list, such as [1, 10]: numbers above the latents of a class are skipped."
        if isinstance(num_components, Sequence):
            hint = ""
        raise DataError(f"Class {label}: {error}{hint}") from None
