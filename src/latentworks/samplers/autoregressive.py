"""Codes that a network draws one after the other: see `latentworks.priors.autoregressive`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from latentworks.quantization import to_codes, to_latents
from latentworks.samplers.learned import Learned

MAX_ROWS = 256  # in one run of the graph
MAX_BYTES = 2**26  # of the state of these rows


@dataclass(frozen=True, kw_only=True)
class Autoregressive(Learned):
    """A distribution of codes, each given the codes before it.

    A run of the graph takes a code and a state. It gives the logits of the next code, and the new
    state or what this code adds to it.
    """

    levels: np.ndarray  # int64 [K], see `latentworks.quantization`
    num_codes: np.ndarray  # int64 [], of a latent
    state_shape: np.ndarray  # int64 [S]

    def _drawn(self, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        uniform = rng.random((len(labels), int(self.num_codes)), dtype=np.float32)
        codes = np.empty(uniform.shape, np.int16)
        for part in self._parts(len(labels)):
            codes[part] = self._codes(labels[part], uniform[part])
        return to_latents(codes, self.levels)

    def log_density(self, latents: np.ndarray) -> np.ndarray:
        """The log probability of the nearest codes, of all classes together: float64 [N], in nats.

        `latents`: [N, D]. Without guidance, at temperature 1.
        """
        codes = to_codes(latents, self.levels)
        found = np.zeros(len(codes))
        for part in self._parts(len(codes)):
            run = _Run(self, np.zeros(len(codes[part]), np.int64))
            for place in range(codes.shape[1]):
                logits = log_softmax(run.logits(place).astype(np.float64), axis=1)
                drawn = codes[part, place]
                found[part] += np.take_along_axis(logits, drawn[:, None].astype(np.int64), 1)[:, 0]
                run.codes = drawn.astype(np.int64)
        return found

    def _parts(self, num: int) -> list[slice]:
        """The rows of each run of the graph, of `num` rows in all."""
        each = int(np.clip(MAX_BYTES // (4 * self.state_shape.prod()), 1, MAX_ROWS))
        return [slice(start, start + each) for start in range(0, num, each)]

    def _codes(self, labels: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Draw the codes of labels [n] by uniform numbers [n, P]: int16 [n, P]."""
        drawn = np.empty(uniform.shape, np.int16)
        run = _Run(self, labels)
        guided = self.guidance != 1 and labels.any()
        of_all = _Run(self, np.zeros_like(labels)) if guided else None
        for place in range(uniform.shape[1]):
            logits = run.logits(place)
            if of_all is not None:
                without = of_all.logits(place)
                logits = without + np.float32(self.guidance) * (logits - without)
            drawn[:, place] = _chosen(logits, self.temperature, uniform[:, place])
            run.codes = drawn[:, place].astype(np.int64)
            if of_all is not None:
                of_all.codes = run.codes
        return drawn


class _Run:
    """The state of the graph for some rows of one class each."""

    def __init__(self, sampler: Autoregressive, labels: np.ndarray) -> None:
        self.session = sampler.session
        self.labels = labels
        self.codes = np.full(len(labels), np.prod(sampler.levels))  # no code came before the first
        self.state = np.zeros((len(labels), *sampler.state_shape), np.float32)

    def logits(self, place: int) -> np.ndarray:
        """The logits of the code at `place`, from 0: float32 [n, V]."""
        given = {
            "codes": self.codes,
            "places": np.full(len(self.codes), place, np.int64),
            "labels": self.labels,
            "state": self.state,
        }
        logits: np.ndarray
        logits, added = self.session.run(None, given)
        if added.shape == self.state.shape:
            self.state = added
        else:  # the part of the state that belongs to this place
            self.state[..., place] = added
        return logits


def _chosen(logits: np.ndarray, temperature: float, uniform: np.ndarray) -> np.ndarray:
    """Choose a code for each row of logits [n, V], by a uniform number [n] in [0, 1)."""
    if not temperature:
        return np.asarray(logits.argmax(axis=1))
    below_best = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # minus infinity, for a probability of 0, is right
        probabilities = np.exp(log_softmax(below_best / temperature, axis=1))
    below = probabilities.cumsum(axis=1)
    chosen = (below <= uniform[:, None] * below[:, -1:]).sum(axis=1)
    return np.asarray(np.minimum(chosen, logits.shape[1] - 1))
