"""Learned priors: what a small network learns, its samples, and that a kill changes nothing."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from latentworks.artifacts.samples import read_sampler, write_sampler
from latentworks.engine import training
from latentworks.engine.batches import Batches
from latentworks.engine.checkpoint import Checkpoint, Epoch
from latentworks.engine.onnx_file import write_onnx
from latentworks.errors import DataError
from latentworks.priors.config import FlowConfig, LSTMConfig, TransformerConfig
from latentworks.quantization import to_codes, to_latents
from latentworks.samplers.autoregressive import Autoregressive
from latentworks.samplers.config import LearnedConfig, SamplerConfig
from latentworks.samplers.drawing import class_shares, has_classes
from latentworks.samplers.flow import Flow

SMALL = FlowConfig(
    kind="flow",
    width=64,
    num_blocks=2,
    label_dropout=0.5,
    num_steps=10,
    epochs=30,
    batch_size=128,
    learning_rate=0.003,
    warmup_steps=10,
    schedule="cosine",
    patience=30,
    num_threads=2,
)
CENTRES = np.array([[4.0, 0.0], [-4.0, 3.0], [0.0, -5.0]])
SPREADS = np.array([[1.2, 0.6], [0.8, 0.8], [0.6, 1.4]])
DEFAULTS = LearnedConfig(kind="learned", guidance=1.0, temperature=1.0)


def blobs(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents float32 [num, 2] of three classes, each a Gaussian, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num)
    latents = CENTRES[labels] + SPREADS[labels] * rng.standard_normal((num, 2))
    return latents.astype(np.float32), labels


def fit(
    path: Path,
    config: FlowConfig = SMALL,
    report: Callable[[Epoch], None] = lambda epoch: None,
    seed: int = 0,
    labels: np.ndarray | None = None,
) -> Any:
    keras.utils.set_random_seed(seed)
    latents, known = blobs(3000, 1)
    known = known if labels is None else labels
    network = config.build(latents, None, int(known.max()) + 1)
    batches = Batches(latents, np.arange(2700), config.batch_size, 0, known)
    held_out = Batches(latents, np.arange(2700, 3000), config.batch_size, None, known)
    training.fit(network, batches, held_out, config, Checkpoint(path, "x"), report, "prior")
    return network


def sampler_of(network: Any, folder: Path, shares: np.ndarray) -> Flow:
    write_onnx(folder / "graph.onnx", network.graph())
    graph = np.fromfile(folder / "graph.onnx", np.uint8)
    return Flow(graph=graph, shares=shares, **network.arrays())


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Flow:
    folder = tmp_path_factory.mktemp("flow")
    return sampler_of(fit(folder / "c.npz"), folder, np.full(3, 1 / 3))


def test_the_flow_carries_noise_to_the_latents_of_a_class(learned: Flow) -> None:
    for label, (centre, spread) in enumerate(zip(CENTRES, SPREADS, strict=True)):
        drawn = learned.sample_of(np.full(2000, label), np.random.default_rng(label))
        assert drawn.dtype == np.float32
        np.testing.assert_allclose(drawn.mean(axis=0), centre, atol=0.3)
        np.testing.assert_allclose(drawn.std(axis=0), spread, rtol=0.25)


def test_samples_without_a_class_have_the_shares_of_the_classes(learned: Flow) -> None:
    uneven = Flow(**{**learned.state(), "shares": np.array([0.7, 0.3, 0.0])})
    drawn = uneven.sample(3000, np.random.default_rng(0))
    nearest = np.linalg.norm(drawn[:, None] - CENTRES, axis=2).argmin(axis=1)
    np.testing.assert_allclose(np.bincount(nearest, minlength=3) / 3000, (0.7, 0.3, 0), atol=0.04)
    with pytest.raises(DataError, match=r"Expected one of: 0, 1\. Received: 2"):
        uneven.sample_of(np.array([0, 2]), np.random.default_rng(0))


def test_guidance_leaves_other_classes_and_temperature_widens(learned: Flow) -> None:
    labels, rng = np.zeros(1000, np.int64), np.random.default_rng
    plain = learned.sample_of(labels, rng(0))
    guided = learned.with_settings(guidance=3.0).sample_of(labels, rng(0))
    others = CENTRES[1:].mean(axis=0)

    def distance(drawn: np.ndarray) -> float:
        return float(np.linalg.norm(drawn - others, axis=1).mean())

    assert distance(guided) > distance(plain)
    cold, hot = (
        learned.with_settings(temperature=temperature).sample_of(labels, rng(0)).std()
        for temperature in (0.3, 1.0)
    )
    assert cold < hot


def test_the_log_density_is_that_of_the_latents(learned: Flow) -> None:
    latents, _ = blobs(500, 2)
    classes = [
        stats.multivariate_normal(centre, np.diag(spread**2))
        for centre, spread in zip(CENTRES, SPREADS, strict=True)
    ]
    true = np.log(np.mean([each.pdf(latents) for each in classes], axis=0))
    found = learned.log_density(latents)
    assert found.dtype == np.float64
    assert np.mean(found) == pytest.approx(np.mean(true), abs=0.3)
    assert stats.spearmanr(found, true).statistic > 0.8
    far = learned.log_density(np.array([[30.0, 30.0]], np.float32))
    assert far[0] < found.min()


def test_the_density_of_the_learned_flow_sums_to_1(learned: Flow) -> None:
    axis = np.linspace(-10, 10, 161)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float32)
    total = np.exp(learned.log_density(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=0.05)


def test_a_killed_training_of_a_prior_ends_with_the_same_weights(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"epochs": 4, "warmup_steps": 0})
    whole = fit(tmp_path / "whole.npz", config)

    class Killed(BaseException):
        pass

    def kill(epoch: Epoch) -> None:
        if epoch["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(tmp_path / "cut.npz", config, kill)
    resumed = fit(tmp_path / "cut.npz", config, seed=9)
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_equal_networks_give_equal_samplers_and_equal_draws(learned: Flow, tmp_path: Path) -> None:
    write_sampler(tmp_path, learned, DEFAULTS)
    again: Any = read_sampler(tmp_path, SamplerConfig)
    draws = [each.sample(300, np.random.default_rng(7)) for each in (learned, again)]
    np.testing.assert_array_equal(*draws)
    assert again.sample(0, np.random.default_rng(0)).shape == (0, 2)


def test_latents_without_labels_have_a_flow_without_classes(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"epochs": 2})
    network = fit(tmp_path / "c.npz", config, labels=np.full(3000, -1))
    sampler = sampler_of(network, tmp_path, np.zeros(0))
    assert not has_classes(sampler)
    assert sampler.settings == ("temperature",)  # guidance would change nothing
    assert class_shares(sampler, False, np.full(3000, -1), 0) is None
    assert sampler.sample(10, np.random.default_rng(0)).shape == (10, 2)


def test_without_a_prior_the_sampler_says_what_is_missing() -> None:
    with pytest.raises(DataError, match=r"needs a prior\. Received: prior\.kind none"):
        DEFAULTS.fit(np.zeros((4, 2), np.float32), None, 0)


# --- codes, one after the other ------------------------------------------------------------------

LEVELS = (4, 3)  # 12 values of a code
NUM_CODES = 5
TRAINING = {
    "width": 32,
    "num_blocks": 2,
    "label_dropout": 0.2,
    "epochs": 12,
    "batch_size": 64,
    "learning_rate": 0.005,
    "warmup_steps": 10,
    "schedule": "cosine",
    "patience": 12,
    "num_threads": 2,
}
OVER_CODES = {
    "transformer": TransformerConfig(kind="transformer", num_heads=4, **TRAINING),
    "lstm": LSTMConfig(kind="lstm", **TRAINING),
}
every_network = pytest.mark.parametrize("kind", OVER_CODES)
CHANCE = 0.1  # that a code is drawn at random; else it is the code before it plus 1


def chains(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes int16 [num, NUM_CODES] of three classes, and their labels: counting from 4 * label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num)
    codes = np.empty((num, NUM_CODES), np.int16)
    code = 4 * labels - 1
    for place in range(NUM_CODES):
        code = np.where(rng.random(num) < CHANCE, rng.integers(0, 12, num), (code + 1) % 12)
        codes[:, place] = code
    return codes, labels


def least_loss(codes: np.ndarray, labels: np.ndarray) -> float:
    """The cross-entropy of codes under the distribution that made them, in nats a code."""
    before = np.column_stack([4 * labels - 1, codes[:, :-1]])
    probability = CHANCE / 12 + (1 - CHANCE) * (codes == (before + 1) % 12)
    return float(-np.log(probability).mean())


def train_over_codes(kind: str, path: Path, epochs: int = 12) -> tuple[Any, list[Epoch]]:
    keras.utils.set_random_seed(0)
    codes, labels = chains(3000, 1)
    z = to_latents(codes, np.array(LEVELS))
    config = OVER_CODES[kind].model_copy(update={"epochs": epochs})
    network = config.build(z, LEVELS, 3)
    seen = network.seen(z)
    np.testing.assert_array_equal(seen, codes)
    batches = Batches(seen, np.arange(2700), 64, 0, labels)
    held_out = Batches(seen, np.arange(2700, 3000), 64, None, labels)
    checkpoint = Checkpoint(path / "c.npz", "x")
    done = training.fit(network, batches, held_out, config, checkpoint, lambda _: None, "prior")
    return network, done.epochs


@pytest.fixture(scope="module")
def over_codes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    @cache
    def trained(kind: str) -> tuple[Any, Autoregressive, list[Epoch]]:
        folder = tmp_path_factory.mktemp(kind)
        network, epochs = train_over_codes(kind, folder)
        write_onnx(folder / "graph.onnx", network.graph())
        graph = np.fromfile(folder / "graph.onnx", np.uint8)
        shares = np.full(3, 1 / 3)
        return network, Autoregressive(graph=graph, shares=shares, **network.arrays()), epochs

    return trained


@every_network
def test_the_loss_of_a_network_over_codes_nears_the_least_possible(
    over_codes: Callable[[str], Any], kind: str
) -> None:
    _, _, epochs = over_codes(kind)
    codes, labels = chains(3000, 1)
    least = least_loss(codes[2700:], labels[2700:])
    assert 0.98 * least < epochs[-1]["val_loss"] < 1.1 * least


@every_network
def test_codes_are_drawn_as_the_network_has_learned_them(
    over_codes: Callable[[str], Any], kind: str
) -> None:
    _, sampler, _ = over_codes(kind)
    labels = np.repeat([0, 1, 2], 300)
    latents = sampler.sample_of(labels, np.random.default_rng(0))
    codes = to_codes(latents, np.array(LEVELS)).astype(int)
    assert (codes[:, 0] == 4 * labels).mean() == pytest.approx(1 - CHANCE, abs=0.06)
    follows = codes[:, 1:] == (codes[:, :-1] + 1) % 12
    assert follows.mean() == pytest.approx(1 - CHANCE, abs=0.06)
    sure = sampler.with_settings(temperature=0.0).sample_of(labels, np.random.default_rng(0))
    counted = (4 * labels[:, None] + np.arange(NUM_CODES)) % 12
    assert (to_codes(sure, np.array(LEVELS)) == counted).mean() > 0.99
    guided = sampler.with_settings(guidance=3.0).sample_of(labels, np.random.default_rng(0))
    first = to_codes(guided, np.array(LEVELS))[:, 0]
    assert (first == 4 * labels).mean() > (codes[:, 0] == 4 * labels).mean()


@every_network
def test_the_exported_step_agrees_with_the_network(
    over_codes: Callable[[str], Any], kind: str
) -> None:
    """The log density of codes, step by step, is the loss of the network, which sees all places."""
    network, sampler, _ = over_codes(kind)
    codes, _ = chains(40, 3)
    found = sampler.log_density(to_latents(codes, np.array(LEVELS)))
    hidden = np.full(40, -1)
    logits = np.asarray(network((codes, hidden), training=False), np.float64)
    logits -= np.log(np.exp(logits).sum(axis=2, keepdims=True))
    expected = np.take_along_axis(logits, codes[..., None].astype(int), 2)[..., 0].sum(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@every_network
def test_the_probabilities_of_all_codes_sum_to_1(tmp_path: Path, kind: str) -> None:
    z = to_latents(np.zeros((4, 2), np.int16), np.array(LEVELS))
    network = OVER_CODES[kind].build(z, LEVELS, 3)
    write_onnx(tmp_path / "graph.onnx", network.graph())
    graph = np.fromfile(tmp_path / "graph.onnx", np.uint8)
    sampler = Autoregressive(graph=graph, shares=np.zeros(0), **network.arrays())
    every = np.stack(np.meshgrid(np.arange(12), np.arange(12)), -1).reshape(-1, 2)
    density = sampler.log_density(to_latents(every.astype(np.int16), np.array(LEVELS)))
    assert np.exp(density).sum() == pytest.approx(1, abs=1e-5)


@every_network
def test_latents_without_codes_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match=f"prior {kind} needs codes. .*Take the model codes"):
        OVER_CODES[kind].build(np.zeros((4, 2), np.float32), None, 0)


@every_network
def test_many_rows_are_as_a_few(over_codes: Callable[[str], Any], kind: str) -> None:
    """More than MAX_ROWS rows take several runs of the graph."""
    _, sampler, _ = over_codes(kind)
    assert sampler.sample(0, np.random.default_rng(0)).shape == (0, 2 * NUM_CODES)
    labels = np.arange(300) % 3
    many = sampler.sample_of(labels, np.random.default_rng(0))
    few = sampler.sample_of(labels[:20], np.random.default_rng(0))
    np.testing.assert_array_equal(many[:20], few)
    density = sampler.log_density(many)
    np.testing.assert_allclose(density[250:], sampler.log_density(many[250:]), atol=1e-4)


@every_network
def test_the_smallest_temperature_draws_the_likeliest_codes(
    over_codes: Callable[[str], Any], kind: str
) -> None:
    _, sampler, _ = over_codes(kind)
    sure, nearly = (
        sampler.with_settings(temperature=value).sample(20, np.random.default_rng(0))
        for value in (0.0, 1e-310)
    )
    np.testing.assert_array_equal(nearly, sure)


@given(
    levels=st.lists(st.integers(2, 9), min_size=1, max_size=4),
    num=st.sampled_from([0, 1, 7, 5000]),
    places=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_codes_and_latents_are_two_forms_of_the_same(
    levels: list[int], num: int, places: int, seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, math.prod(levels), (num, places), np.int16)
    latents = to_latents(codes, np.array(levels))
    assert latents.shape == (num, places * len(levels))
    assert latents.dtype == np.float32
    assert np.abs(latents).max(initial=0) <= 1
    np.testing.assert_array_equal(to_codes(latents, np.array(levels)), codes)
    near = latents + np.random.default_rng(seed).uniform(-0.1, 0.1, latents.shape) / max(levels)
    np.testing.assert_array_equal(to_codes(near, np.array(levels)), codes)
