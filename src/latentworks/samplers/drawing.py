"""Drawing of latents and of their classes."""

from __future__ import annotations

from typing import Protocol, TypeGuard

import numpy as np

from latentworks.errors import DataError


class Sampler(Protocol):
    """A distribution of latents, fitted to those of the training images."""

    def sample(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `num` latents: float32 [num, D]."""
        ...

    def log_density(self, latents: np.ndarray) -> np.ndarray:
        """The log density at latents [N, D]: float64 [N], in nats."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that define the sampler, by name."""
        ...


class ClassSampler(Sampler, Protocol):
    """A distribution of latents for each class."""

    @property
    def classes(self) -> np.ndarray:
        """The classes that it was fitted to: int64 [K]."""
        ...

    def sample_of(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a latent of each of the classes `labels`, int64 [N]: float32 [N, D]."""
        ...


class AdjustableSampler(Sampler, Protocol):
    """A distribution of latents with settings: a guidance, a temperature."""

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that change a draw."""
        ...

    def with_settings(self, **settings: float) -> Sampler:
        """Return this sampler with another guidance or temperature."""
        ...


def draw(
    sampler: Sampler,
    num: int,
    rng: np.random.Generator,
    shares: np.ndarray | None = None,
    label: int | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Draw latents, float32 [num, D], and their classes, int64 [num], None without `shares`.

    `shares`: float64 [K], the probability of each class. `label`: draw this class only. Samplers
    without classes ignore the class of a latent.
    """
    if shares is None:
        return sampler.sample(num, rng), None
    labels = rng.choice(len(shares), num, p=shares) if label is None else np.full(num, label)
    drawn = sampler.sample_of(labels, rng) if has_classes(sampler) else sampler.sample(num, rng)
    return drawn, labels.astype(np.int64)


def has_classes(sampler: Sampler) -> TypeGuard[ClassSampler]:
    """True if the sampler can draw latents of a given class."""
    return len(getattr(sampler, "classes", ())) > 0


def is_adjustable(sampler: Sampler) -> TypeGuard[AdjustableSampler]:
    """True if the sampler has a guidance and a temperature."""
    return hasattr(sampler, "with_settings")


def class_shares(
    sampler: Sampler, conditional: bool, labels: np.ndarray | None, num_classes: int
) -> np.ndarray | None:
    """Compute the probability of drawing each class: its share of labels int64 [N].

    Ignores labels below 0, and classes that a sampler with classes was not fitted to. Returns None
    without labels, and if neither the sampler nor the model (`conditional`) takes classes. Raises
    DataError if no label is left.
    """
    if labels is None or not (conditional or has_classes(sampler)):
        return None
    counts = np.bincount(labels[labels >= 0], minlength=num_classes)
    if has_classes(sampler):
        counts[np.setdiff1d(np.arange(len(counts)), sampler.classes)] = 0
    if not counts.any():
        raise DataError(
            "Images of a class cannot be drawn: no training image has a label. Label some of them."
        )
    return np.asarray(counts / counts.sum())
