"""Latents, and the classes that they are drawn for."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentworks.errors import DataError


def draw(
    sampler: Any,
    num: int,
    rng: np.random.Generator,
    shares: np.ndarray | None = None,
    label: int | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Latents float32 [num, D] and their classes int64 [num], None without `shares`.

    `shares`: float64 [K], how often each class is drawn; they sum to 1. `label`: the one class that
    is wanted instead. A sampler of classes draws latents of these; another one knows no difference.
    """
    if shares is None:
        latents: np.ndarray = sampler.sample(num, rng)
        return latents, None
    labels = rng.choice(len(shares), num, p=shares) if label is None else np.full(num, label)
    drawn = sampler.sample_of(labels, rng) if has_classes(sampler) else sampler.sample(num, rng)
    return drawn, labels.astype(np.int64)


def has_classes(sampler: Any) -> bool:
    """Whether it draws latents of a class that is asked for."""
    return hasattr(sampler, "sample_of")


def class_shares(
    sampler: Any, conditional: bool, labels: np.ndarray | None, num_classes: int
) -> np.ndarray | None:
    """How often each of `num_classes` is drawn: as often as among labels int64 [N].

    Those below 0 do not count, nor do classes that a sampler of classes has not seen. None where
    neither the sampler nor a `conditional` model is told one. Raises DataError where there is none.
    """
    if labels is None or not (conditional or has_classes(sampler)):
        return None
    counts = np.bincount(labels[labels >= 0], minlength=num_classes)
    if has_classes(sampler):
        counts[np.setdiff1d(np.arange(len(counts)), sampler.classes)] = 0
    if not counts.any():
        raise DataError("images of a class need images with labels. Received: none has one.")
    return np.asarray(counts / counts.sum())
