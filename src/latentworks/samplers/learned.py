"""Samplers that run a learned prior. The stage `prior` has trained it, and nothing is fitted."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self

import numpy as np
import onnxruntime

from latentworks.errors import DataError

SETTINGS = ("guidance", "temperature")  # of a draw, and not of the network


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A network in ONNX, and the classes that it knows."""

    graph: np.ndarray  # uint8, the bytes of an ONNX model
    shares: np.ndarray  # float64 [K], of the classes among the latents; K is 0 without classes
    guidance: float = 1.0  # 1: as the network has learned a class; above: away from all classes
    temperature: float = 1.0  # below 1: less varied

    @property
    def classes(self) -> np.ndarray:
        """The classes that can be drawn: int64 [K]."""
        return np.flatnonzero(self.shares)

    def sample(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Draw `num` latents, with the classes in their shares: float32 [num, D]."""
        if not len(self.shares):
            return self._drawn(np.zeros(num, np.int64), rng)
        return self.sample_of(rng.choice(len(self.shares), num, p=self.shares), rng)

    def sample_of(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a latent of each of the classes `labels`, int64 [N]: float32 [N, D].

        Raises DataError for a class that no latent had.
        """
        unknown = np.setdiff1d(labels, self.classes)
        if len(unknown):
            known = ", ".join(map(str, self.classes))
            raise DataError(f"Unknown class. Expected one of: {known}. Received: {unknown[0]}.")
        return self._drawn(labels.astype(np.int64) + 1, rng)

    def _drawn(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw latents, float32 [N, D], of classes + 1, or of 0, which is all classes together."""
        raise NotImplementedError

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings that change a draw. Without classes, guidance changes nothing."""
        return SETTINGS if len(self.classes) else SETTINGS[1:]

    def with_settings(self, **settings: float) -> Self:
        """Return this sampler with another guidance or temperature, and the same network."""
        other = replace(self, **settings)  # type: ignore[arg-type]  # floats alone
        other.__dict__["session"] = self.session
        return other

    def state(self) -> dict[str, np.ndarray]:
        """The arrays that define the sampler, by name."""
        names = [each.name for each in fields(self) if each.name not in SETTINGS]
        return {name: np.asarray(getattr(self, name)) for name in names}

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        """The network, ready to run."""
        options = onnxruntime.SessionOptions()
        # A thread that spins while it waits would take a core from other work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(
            self.graph.tobytes(), options, providers=["CPUExecutionProvider"]
        )
