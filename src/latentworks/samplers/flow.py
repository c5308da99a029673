"""The flow of a network from Gaussian noise to the latents: see `latentworks.priors.flow`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from latentworks.samplers.learned import Learned

MAX_ROWS = 4096  # in one run of the graph
MAX_EXACT = 8  # latents up to which the divergence is exact
NUM_PROBES = 4  # random directions that estimate the divergence of more latents
STEP = np.float32(1e-2)  # of the differences that give a divergence, in units of the scaled latents


@dataclass(frozen=True, kw_only=True)
class Flow(Learned):
    """An ODE from noise to a latent, whose velocity is a network."""

    centre: np.ndarray  # float32 [D]
    scale: np.ndarray  # float32 [], of the latents around their centre
    spread: np.ndarray  # float32 [D, D], times N(0, I): the noise, in units of the scaled latents
    num_steps: np.ndarray  # int64 [], of the ODE

    def _drawn(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Carry noise to latents, in steps of Heun's method."""
        normal = rng.standard_normal((len(labels), len(self.centre)), dtype=np.float32)
        x = normal @ self.spread.T * np.float32(self.temperature)
        for time, later in zip(self._times[:-1], self._times[1:], strict=True):
            length = np.float32(later - time)
            first = self._guided(x, time, labels)
            second = self._guided(x + length * first, later, labels)
            x = x + length / 2 * (first + second)
        return np.asarray(x * self.scale + self.centre, np.float32)

    def log_density(self, latents: np.ndarray) -> np.ndarray:
        """The log density of all classes together at latents [N, D]: float64 [N], in nats.

        By the instantaneous change of variables (Chen et al. 2018), without guidance and at
        temperature 1. With more than MAX_EXACT latents, an estimate: NUM_PROBES random directions,
        always the same, give the divergence (Hutchinson 1989).
        """
        x = ((latents - self.centre) / self.scale).astype(np.float32)
        hidden = np.zeros(len(x), np.int64)
        change = np.zeros(len(x))
        rng = np.random.default_rng(0)
        for time, earlier in zip(self._times[:0:-1], self._times[-2::-1], strict=True):
            length = np.float32(time - earlier)
            first = self._velocity(x, time, hidden)
            divergence = self._divergence(x, time, hidden, rng)
            there = x - length * first
            second = self._velocity(there, earlier, hidden)
            change += length / 2 * (divergence + self._divergence(there, earlier, hidden, rng))
            x = x - length / 2 * (first + second)
        dim = x.shape[1]
        normal = solve_triangular(self.spread.astype(np.float64), x.T, lower=True).T
        of_noise = -0.5 * np.square(normal).sum(axis=1) - dim / 2 * math.log(2 * math.pi)
        volume = np.log(np.diag(self.spread)).sum() + dim * math.log(self.scale)
        return np.asarray(of_noise - change - volume, np.float64)

    @property
    def _times(self) -> np.ndarray:
        return np.linspace(0, 1, int(self.num_steps) + 1, dtype=np.float32)

    def _guided(self, x: np.ndarray, time: float, labels: np.ndarray) -> np.ndarray:
        of_class = self._velocity(x, time, labels)
        if self.guidance == 1 or not labels.any():
            return of_class
        of_all = self._velocity(x, time, np.zeros_like(labels))
        return np.asarray(of_all + np.float32(self.guidance) * (of_class - of_all))

    def _divergence(
        self, x: np.ndarray, time: float, labels: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """The divergence of the velocities, by central differences: float64 [N]."""
        dim = x.shape[1]
        if dim <= MAX_EXACT:
            directions = np.eye(dim, dtype=np.float32)
        else:
            directions = rng.choice(np.array([-1, 1], np.float32), (NUM_PROBES, dim))
        found = np.zeros(len(x))
        for direction in directions:
            ahead = self._velocity(x + STEP * direction, time, labels)
            behind = self._velocity(x - STEP * direction, time, labels)
            found += ((ahead - behind) @ direction).astype(np.float64) / (2 * STEP)
        return found if dim <= MAX_EXACT else found / NUM_PROBES

    def _velocity(self, x: np.ndarray, time: float, labels: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(x), MAX_ROWS):
            part = slice(start, start + MAX_ROWS)
            given = {
                "latents": np.ascontiguousarray(x[part]),
                "time": np.full((len(x[part]), 1), time, np.float32),
                "labels": labels[part],
            }
            parts.append(self.session.run(None, given)[0])
        return np.concatenate(parts) if parts else np.zeros_like(x)
