"""Autoregressive priors over codes: each code has a distribution, given those before it.

    log p(c_1 … c_P | y) = sum over i of log p(c_i | c_1 … c_(i-1), y)

Some labels are hidden in training, so that the network also knows all classes together. The graph
that is exported takes one code and a state, so that drawing P codes costs P small steps.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from latentworks.quantization import to_codes

Tensor = Any  # an array of NumPy or of Keras's backend

FAR = 1e9  # below any score of attention


class Autoregressive(keras.Model):
    """The loss and the embeddings that both networks share. Label 0 is hidden."""

    settled_after = 0  # steps; its loss has the same meaning from the first step on

    def __init__(
        self,
        num_codes: int,
        levels: tuple[int, ...],
        num_classes: int,
        width: int,
        label_dropout: float,
        name: str,
    ) -> None:
        """`num_codes`: the codes of a latent. `levels`: see `latentworks.quantization`."""
        super().__init__(name=name)
        self.num_codes, self.width, self.levels = num_codes, width, np.array(levels)
        self.num_values = num_values = math.prod(levels)
        self.label_dropout = label_dropout
        self.seeds = keras.random.SeedGenerator(name="seeds")
        self.of_code = _embedding(num_values + 1, width, "of_code")  # the last one is: no code yet
        self.of_place = _embedding(num_codes, width, "of_place")
        self.of_label = _embedding(num_classes + 1, width, "of_label")
        self.to_logits = layers.Dense(num_values, name="to_logits")
        self.to_logits.build((None, width))

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        """Compute logits [B, P, V] of codes int16 [B, P] with labels [B], and add the loss.

        A label is -1 for a latent without one. The loss is the cross-entropy, in nats a code.
        """
        codes, labels = inputs
        codes = ops.cast(codes, "int32")
        known = ops.cast(labels, "int32") + 1
        if training:
            hidden = keras.random.uniform(ops.shape(known), seed=self.seeds) < self.label_dropout
            known = ops.where(hidden, 0, known)
        none = ops.full((ops.shape(codes)[0], 1), self.num_values, "int32")
        before = ops.concatenate([none, codes[:, :-1]], axis=1)
        places = ops.arange(self.num_codes)
        given = self.of_code(before) + self.of_place(places) + self.of_label(known)[:, None]
        logits = self.to_logits(self.parallel(given, training))
        losses = keras.losses.sparse_categorical_crossentropy(codes, logits, from_logits=True)
        self.add_loss(ops.mean(losses))
        return logits

    def compute_loss(self, *_: Any, **__: Any) -> Tensor:
        """The cross-entropy, which `call` has added."""
        return sum(self.losses, 0.0)

    def parallel(self, given: Tensor, training: bool | None) -> Tensor:
        """Compute all places at once: [B, P, width] to [B, P, width]."""
        raise NotImplementedError

    def step(self, given: Tensor, place: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Compute one place, [B, width] to [B, width], and what it adds to the state.

        `place`: int [B]. `state`: [B, *state_shape], 0 before the first place. What is added is the
        new state, or its part at this place, if the last axis of the state is that of places.
        """
        raise NotImplementedError

    @property
    def state_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def seen(self, z: np.ndarray) -> np.ndarray:
        """Return the codes, int16 [N, P], of latents z, float32 [N, D]."""
        return to_codes(z, self.levels)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the sampler, `samplers.autoregressive`, besides graph and shares."""
        return {
            "levels": self.levels,
            "num_codes": np.array(self.num_codes),
            "state_shape": np.array(self.state_shape),
        }

    def graph(self) -> keras.Model:
        """Return the model to export. Inputs: codes, places, labels and a state, of B rows each.

        The code is that of the place before; `num_values` stands for none. Outputs: the logits,
        and what `step` adds to the state.
        """
        codes, places, labels = (
            layers.Input((), dtype="int64", name=name) for name in ("codes", "places", "labels")
        )
        state = layers.Input(self.state_shape, name="state")
        given = self.of_code(codes) + self.of_place(places) + self.of_label(labels)
        x, after = self.step(given, places, state)
        return keras.Model([codes, places, labels, state], [self.to_logits(x), after], name="step")


class Transformer(Autoregressive):
    """A Transformer with normalisation first (Vaswani et al. 2017, Radford et al. 2019)."""

    def __init__(
        self,
        num_codes: int,
        levels: tuple[int, ...],
        num_classes: int,
        width: int,
        num_blocks: int,
        num_heads: int,
        label_dropout: float,
    ) -> None:
        super().__init__(num_codes, levels, num_classes, width, label_dropout, "transformer")
        self.blocks = [_Block(width, num_heads, f"block_{n}") for n in range(num_blocks)]
        self.last = _normalisation(width, "last")

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Keys and values of each block and head, at each place."""
        num_heads, size = self.blocks[0].num_heads, self.blocks[0].size
        return len(self.blocks), 2, num_heads, size, self.num_codes

    def parallel(self, given: Tensor, training: bool | None) -> Tensor:
        x = given
        for block in self.blocks:
            x = block(x)
        return self.last(x)

    def step(self, given: Tensor, place: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x, added = given, []
        for number, block in enumerate(self.blocks):
            keys, values = state[:, number, 0], state[:, number, 1]
            x, keys_and_values = block.step(x, place, keys, values)
            added.append(keys_and_values)
        return self.last(x), ops.stack(added, axis=1)


class _Block(layers.Layer):
    """Attention to the places before, then two dense layers; both are added to their input."""

    def __init__(self, width: int, num_heads: int, name: str) -> None:
        super().__init__(name=name)
        self.width, self.num_heads, self.size = width, num_heads, width // num_heads
        self.before_attention = _normalisation(width, f"{name}_before_attention")
        self.queries_keys_values = _dense(width, 3 * width, f"{name}_queries_keys_values")
        self.attended = _dense(width, width, f"{name}_attended")
        self.before_dense = _normalisation(width, f"{name}_before_dense")
        self.wide = _dense(width, 4 * width, f"{name}_wide")
        self.narrow = _dense(4 * width, width, f"{name}_narrow")
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        """[B, P, width] to [B, P, width]; a place sees itself and those before it."""
        q, k, v = self._split(x)  # [B, P, heads, size]
        scores = ops.einsum("bqhs,bkhs->bhqk", q, k) / math.sqrt(self.size)
        places = np.arange(x.shape[1])
        later = (places[None] > places[:, None]).astype(np.float32)  # [P, P]
        weights = ops.softmax(scores - FAR * later, axis=-1)
        return self._rest(x, ops.einsum("bhqk,bkhs->bqhs", weights, v))

    def step(self, x: Tensor, place: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """[B, width] at `place` [B], with keys and values [B, heads, size, P] of earlier places.

        Returns the keys and values of this place, too: [B, 2, heads, size].
        """
        q, k, v = self._split(x)  # [B, heads, size]
        earlier = ops.matmul(q[:, :, None], keys)[:, :, 0]  # [B, heads, P]
        later = ops.cast(place[:, None] <= np.arange(keys.shape[-1]), "float32")  # [B, P]
        own = ops.sum(q * k, axis=-1, keepdims=True)  # [B, heads, 1]
        scores = ops.concatenate([earlier - FAR * later[:, None], own], axis=-1)
        weights = ops.softmax(scores / math.sqrt(self.size), axis=-1)  # [B, heads, P + 1]
        mixed = ops.matmul(values, weights[..., :-1, None])[..., 0] + weights[..., -1:] * v
        return self._rest(x, mixed), ops.stack([k, v], axis=1)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values, [..., heads, size] each, of x [..., width]."""
        parts = self.queries_keys_values(self.before_attention(x))
        sides = (-1, *x.shape[1:-1], 3, self.num_heads, self.size)
        q, k, v = ops.unstack(ops.reshape(parts, sides), 3, axis=-3)
        return q, k, v

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add the attention, `mixed` [..., heads, size], and the dense layers to x."""
        x = x + self.attended(ops.reshape(mixed, (-1, *x.shape[1:])))
        return x + self.narrow(ops.gelu(self.wide(self.before_dense(x))))


class LSTM(Autoregressive):
    """Layers of long short-term memory (Hochreiter and Schmidhuber 1997; Graves 2013)."""

    def __init__(
        self,
        num_codes: int,
        levels: tuple[int, ...],
        num_classes: int,
        width: int,
        num_blocks: int,
        label_dropout: float,
    ) -> None:
        super().__init__(num_codes, levels, num_classes, width, label_dropout, "lstm")
        self.cells = [layers.LSTMCell(width, name=f"cell_{n}") for n in range(num_blocks)]
        for cell in self.cells:
            cell.build((None, width))

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Output and memory of each layer."""
        return len(self.cells), 2, self.width

    def parallel(self, given: Tensor, training: bool | None) -> Tensor:
        state = ops.zeros((ops.shape(given)[0], *self.state_shape))
        found = []
        for place in range(self.num_codes):
            x, state = self.step(given[:, place], None, state)
            found.append(x)
        return ops.stack(found, axis=1)

    def step(self, given: Tensor, place: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x, after = given, []
        for number, cell in enumerate(self.cells):
            inner, (h, c) = cell(x, [state[:, number, 0], state[:, number, 1]])
            x = x + inner
            after.append(ops.stack([h, c], axis=1))
        return x, ops.stack(after, axis=1)


def _embedding(num: int, width: int, name: str) -> layers.Embedding:
    embedding = layers.Embedding(num, width, name=name)
    embedding.build((None,))
    return embedding


def _dense(given: int, units: int, name: str) -> layers.Dense:
    dense = layers.Dense(units, name=name)
    dense.build((None, given))
    return dense


def _normalisation(width: int, name: str) -> layers.LayerNormalization:
    normalisation = layers.LayerNormalization(name=name)
    normalisation.build((None, width))
    return normalisation
