"""Flow matching over latents (Lipman et al. 2023): a network that carries noise to latents.

A straight line leads from noise x0 to a latent x1, with x_t = (1 - t) x0 + t x1. The network learns
the mean velocity x1 - x0 of all lines through x_t. The flow with this velocity carries the noise to
the distribution of the latents. The noise is a Gaussian with the covariance of the latents, so the
network need not learn in which directions they hardly vary.

Some labels are hidden in training, so that the network also knows the flow of all classes together.
Guidance goes beyond the flow of a class, away from that of all (Ho and Salimans 2022).
"""

import math
from typing import Any, Self

import keras
import numpy as np
from keras import layers, ops
from threadpoolctl import threadpool_limits

Tensor = Any  # an array of NumPy or of Keras's backend

NUM_FREQUENCIES = 16  # of sines and cosines of the time
VALIDATION_SEED = 0
LEAST = 1e-6  # variance of the scaled latents in any direction


class Flow(keras.Model):
    """The network of velocities, over latents of one common scale."""

    settled_after = 0  # steps; its loss has the same meaning from the first step on

    def __init__(
        self,
        centre: np.ndarray,
        scale: float,
        spread: np.ndarray,
        num_classes: int,
        width: int,
        num_blocks: int,
        label_dropout: float,
        num_steps: int,
    ) -> None:
        """`centre` [D] and `scale`: the mean of the latents, and their deviation from it.

        `spread` [D, D]: the Cholesky factor of the covariance of the scaled latents.
        """
        super().__init__(name="flow")
        self.centre, self.scale, self.spread = centre, scale, spread
        self.num_steps = num_steps
        self.seeds = keras.random.SeedGenerator(name="seeds")
        self.label_dropout = label_dropout
        self.velocity = _network(len(centre), num_classes, width, num_blocks)

    @classmethod
    def of(
        cls,
        latents: np.ndarray,
        num_classes: int,
        width: int,
        num_blocks: int,
        label_dropout: float,
        num_steps: int,
    ) -> Self:
        """Make a network for latents like these, float32 [N, D].

        All dimensions have one scale: dimensions of little variance matter little.
        """
        centre = latents.mean(axis=0)
        scale = float(np.sqrt(np.mean((latents - centre) ** 2))) or 1.0
        scaled = (latents.astype(np.float64) - centre) / scale
        with threadpool_limits(1):  # sums depend on the number of threads
            covariance = scaled.T @ scaled / len(scaled) + LEAST * np.eye(scaled.shape[1])
            spread = np.linalg.cholesky(covariance).astype(np.float32)
        return cls(centre, scale, spread, num_classes, width, num_blocks, label_dropout, num_steps)

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        """Compute velocities [B, D] at random times, and add the loss.

        `inputs`: a pair of latents [B, D] and labels [B], -1 for a latent without one. In
        validation, the times and the noise are always the same.
        """
        latents, labels = inputs
        seed = self.seeds if training else VALIDATION_SEED
        size = ops.shape(latents)[0]
        target = (latents - self.centre) / self.scale
        normal = keras.random.normal(ops.shape(latents), seed=seed)
        noise = ops.matmul(normal, self.spread.T)
        if training:
            time = keras.random.uniform((size, 1), seed=seed)
        else:
            time = ((ops.arange(size, dtype="float32") + 0.5) / ops.cast(size, "float32"))[:, None]
        known = ops.cast(labels, "int64") + 1  # 0 is hidden
        if training:
            hidden = keras.random.uniform((size,), seed=seed) < self.label_dropout
            known = ops.where(hidden, ops.zeros_like(known), known)
        velocity = self.velocity([(1 - time) * noise + time * target, time, known])
        self.add_loss(ops.mean(ops.square(velocity - (target - noise))))
        return velocity

    def compute_loss(self, *_: Any, **__: Any) -> Tensor:
        """The mean squared error of the velocities, which `call` has added."""
        return sum(self.losses, 0.0)

    def seen(self, z: np.ndarray) -> np.ndarray:
        """Return the inputs that it learns from latents z, float32 [N, D]."""
        return z

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the sampler, `samplers.flow`, besides the graph and the shares."""
        return {
            "centre": self.centre,
            "scale": np.array(self.scale, np.float32),
            "spread": self.spread,
            "num_steps": np.array(self.num_steps),
        }

    def graph(self) -> keras.Model:
        """Return the model to export: scaled latents, times and labels to velocities."""
        return self.velocity


def _network(dim: int, num_classes: int, width: int, num_blocks: int) -> keras.Model:
    """Residual blocks on latents [B, D]. Label 0 is hidden, and a class has its number plus 1."""
    latents = layers.Input((dim,), name="latents")
    time = layers.Input((1,), name="time")
    labels = layers.Input((), dtype="int64", name="labels")
    frequencies = (2 * math.pi * 2 ** (np.arange(NUM_FREQUENCIES) / 4)).astype(np.float32)
    angles = time * frequencies
    condition = layers.Dense(width)(ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1))
    condition = ops.silu(condition + layers.Embedding(num_classes + 1, width)(labels))
    x = layers.Dense(width)(latents)
    for _ in range(num_blocks):
        inner = ops.silu(layers.Dense(width)(ops.silu(x)) + layers.Dense(width)(condition))
        x = x + layers.Dense(width, kernel_initializer="zeros")(inner)
    velocity = layers.Dense(dim, kernel_initializer="zeros", name="velocity")(ops.silu(x))
    return keras.Model([latents, time, labels], velocity, name="velocity")
