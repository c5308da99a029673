"""Scores equal those of `metrics` and are repeatable, and their replicates are real resamples."""

import hashlib
import json
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from latentworks import metrics
from latentworks.artifacts.images import Prepared
from latentworks.errors import DataError
from latentworks.promotion import scoring
from latentworks.promotion.decision import METRICS, PromotionConfig, decide
from latentworks.promotion.scores import Scores, scorer_digest

NUM_TRAIN = 1400


@dataclass(frozen=True)
class PCA:
    """Principal components: the best linear autoencoder, with a Gaussian over its latents."""

    mean: np.ndarray  # [H, W, C]
    components: np.ndarray  # [D, H * W * C]
    spread: np.ndarray  # [D]

    @classmethod
    def fit(cls, images: np.ndarray, latent_dim: int) -> "PCA":
        mean = images.mean(axis=0) / 255
        flat = (images / 255 - mean).reshape(len(images), -1)
        components = np.linalg.svd(flat, full_matrices=False)[2][:latent_dim]
        return cls(mean, components, (flat @ components.T).std(axis=0))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.mean.shape
        return height, width, channels

    @property
    def latent_dim(self) -> int:
        return len(self.components)

    def encode_images(self, images: np.ndarray) -> np.ndarray:
        flat = (images / 255 - self.mean).reshape(len(images), -1)
        return (flat @ self.components.T).astype(np.float32)

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        images = (latents @ self.components).reshape(-1, *self.image_shape) + self.mean
        return images.clip(0, 1).astype(np.float32)

    def draw_latents(self, num: int, seed: int) -> np.ndarray:
        drawn = np.random.default_rng(seed).standard_normal((num, self.latent_dim))
        return (drawn * self.spread).astype(np.float32)


@dataclass(frozen=True)
class Copier(PCA):
    """A model that has memorised its training images: its samples are their latents."""

    known: np.ndarray  # [N, D]

    def draw_latents(self, num: int, seed: int) -> np.ndarray:
        return self.known[np.random.default_rng(seed).integers(len(self.known), size=num)]


@dataclass(frozen=True)
class Diverged(PCA):
    """A model with a broken weight: one pixel of its output is NaN."""

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        images = super().decode_latents(latents)
        images[0, 0, 0, 0] = np.nan
        return images


def config(**changes: object) -> PromotionConfig:
    margins = {"mse": 0, "sliced_wasserstein": 0.5, "active_units": 0, "memorisation": 0.2}
    first = {"mse": 0.9, "sliced_wasserstein": 20, "active_units": 1, "memorisation": 0.5}
    sections = {"model_name": "digits", "metric": "mse", "margins": margins, "first": first}
    return PromotionConfig.model_validate(sections | changes)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    """The digits of scikit-learn: 1400 training images and 397 test images."""
    images = np.rint(load_digits().images[..., None] * (255 / 16)).astype(np.uint8)
    split = np.where(np.arange(len(images)) < NUM_TRAIN, "train", "test")
    index = pd.DataFrame({"split": split})
    return Prepared(images, index, {"fingerprint": "digits", "class_names": []})


@pytest.fixture(scope="module")
def small(prepared: Prepared) -> PCA:
    return PCA.fit(prepared.images[:NUM_TRAIN], 8)


@pytest.fixture(scope="module")
def large(prepared: Prepared) -> PCA:
    return PCA.fit(prepared.images[:NUM_TRAIN], 24)


@pytest.fixture(scope="module")
def of_small(small: PCA, prepared: Prepared) -> Scores:
    return scoring.score(small, prepared, size_mb=1.5)


@pytest.fixture(scope="module")
def of_large(large: PCA, prepared: Prepared) -> Scores:
    return scoring.score(large, prepared, size_mb=3)


def samples_of(model: PCA) -> np.ndarray:
    decoded = model.decode_latents(model.draw_latents(10_000, 0))
    return np.rint(decoded.clip(0, 1) * 255).astype(np.uint8)


def resample(num: int, b: int, seed: int = 0) -> np.ndarray:
    """Return resample number `b`, drawn without the code under test."""
    rng = np.random.default_rng(seed)
    return [rng.integers(num, size=num) for _ in range(b + 1)][-1]


# --- values --------------------------------------------------------------------------------------


def test_scores_equal_the_metrics_of_evaluate(
    small: PCA, of_small: Scores, prepared: Prepared
) -> None:
    images, train, test = prepared.images, prepared.rows("train"), prepared.rows("test")
    decoded = small.decode_latents(small.encode_images(images[test]))
    expected = metrics.sample_metrics(samples_of(small), images, train, test)
    floor = expected.pop("sliced_wasserstein_floor")
    expected["mse"] = metrics.reconstruction_metrics([(images[test], decoded)])["mse"]
    expected["active_units"] = metrics.active_units(small.encode_images(images[train]))
    values = {name: score.value for name, score in of_small.metrics.items()}
    assert values == pytest.approx(expected, rel=1e-6)  # projections are float32
    assert of_small.metrics["sliced_wasserstein"].reference == pytest.approx(floor, rel=1e-6)
    assert set(values) == set(METRICS)


def test_references_are_mse_of_the_mean_image_num_latents_and_one(
    of_small: Scores, prepared: Prepared
) -> None:
    images, test = prepared.images, prepared.rows("test")
    mean = np.broadcast_to(images[:NUM_TRAIN].mean(axis=0) / 255, images[test].shape)
    expected = metrics.mean_squared_error(images[test] / 255, mean).mean()
    assert of_small.metrics["mse"].reference == pytest.approx(expected)
    assert of_small.metrics["active_units"].reference == 8
    assert of_small.metrics["memorisation"].reference == 1


def test_scoring_twice_gives_equal_scores_but_for_the_latency(
    small: PCA, of_small: Scores, prepared: Prepared
) -> None:
    again = scoring.score(small, prepared, size_mb=1.5)
    assert again == of_small
    assert again.data == "digits"
    assert set(again.latency_ms) == {"1", "32"}
    assert min(again.latency_ms.values()) > 0


def test_chunks_hold_every_row_once_and_do_not_change_the_mean_image(prepared: Prepared) -> None:
    rows = np.arange(2000, 12_000, 3)
    parts = [*metrics.chunks(rows, 64, 64 * 1000)]
    assert [len(part) for part in parts] == [1000, 1000, 1000, 334]
    assert np.array_equal(np.concatenate(parts), rows)
    assert [len(part) for part in metrics.chunks(rows[:2], 10**9)] == [1, 1]  # never empty
    expected = prepared.images[rows % 1797].mean(axis=0) / 255
    assert np.allclose(metrics.mean_image(prepared.images, rows % 1797), expected, rtol=1e-12)


# --- replicates ----------------------------------------------------------------------------------


@pytest.mark.parametrize("b", [0, 1, 999])
def test_replicates_equal_the_metrics_of_explicit_resamples(
    small: PCA, of_small: Scores, prepared: Prepared, b: int
) -> None:
    images, train, test = prepared.images, prepared.rows("train"), prepared.rows("test")
    samples, scored = samples_of(small), of_small.metrics
    again, drawn = test[resample(len(test), b)], resample(10_000, b, seed=1)

    decoded = small.decode_latents(small.encode_images(images[again]))
    mse = metrics.reconstruction_metrics([(images[again], decoded)])["mse"]
    assert scored["mse"].replicates[b] == pytest.approx(mse)

    moved = [
        metrics.sliced_wasserstein(
            metrics.project(samples, of_samples)[:, : scoring.REPLICATED_PROJECTIONS],
            metrics.project(images, of_test)[:, : scoring.REPLICATED_PROJECTIONS],
        )
        for of_samples, of_test in [(drawn, again), (np.arange(10_000), test)]
    ]
    distance = scored["sliced_wasserstein"]
    expected = distance.value + moved[0] - moved[1]
    assert distance.replicates[b] == pytest.approx(expected, rel=1e-5)  # gaps are float32

    looked_up = metrics.subset(np.arange(10_000), metrics.MAX_SEARCHED)
    looked_up = looked_up[resample(len(looked_up), b, seed=1)]
    ratio = metrics.memorisation(samples[looked_up], images, train, again)
    assert scored["memorisation"].replicates[b] == pytest.approx(ratio, rel=1e-5)


def test_replicates_are_centred_on_the_value(of_small: Scores) -> None:
    for name in ("mse", "sliced_wasserstein", "memorisation"):
        score = of_small.metrics[name]
        assert score.replicates.shape == (scoring.NUM_REPLICATES,)
        # The mean differs from the value by the bias of a resample, which is below the spread.
        assert abs(score.replicates.mean() - score.value) < 2 * score.replicates.std(), name
    assert of_small.metrics["active_units"].replicates is None


def test_the_spread_of_mse_is_its_standard_error(
    small: PCA, of_small: Scores, prepared: Prepared
) -> None:
    images = prepared.images[prepared.rows("test")]
    errors = metrics.mean_squared_error(
        images / 255, small.decode_latents(small.encode_images(images))
    )
    # A standard deviation from 1000 draws has an error of 1 / sqrt(2000) = 2.2 %; allow 4 errors.
    expected = errors.std() / np.sqrt(len(errors))
    assert of_small.metrics["mse"].replicates.std() == pytest.approx(expected, rel=0.09)


def test_the_spread_of_sample_metrics_is_that_of_other_resamples(
    small: PCA, of_small: Scores, prepared: Prepared
) -> None:
    images, train, test = prepared.images, prepared.rows("train"), prepared.rows("test")
    samples, rng = samples_of(small), np.random.default_rng(2)
    projected, real = (
        metrics.project(each, rows)[:, : scoring.REPLICATED_PROJECTIONS]
        for each, rows in [(samples, np.arange(10_000)), (images, test)]
    )
    looked_up = metrics.subset(np.arange(10_000), metrics.MAX_SEARCHED)
    near, near_test = (
        metrics.nearest_distances(np.concatenate([*metrics.thumbnails(each, rows)]), images, train)
        for each, rows in [(samples, looked_up), (images, test)]
    )

    def drawn(each: np.ndarray) -> np.ndarray:
        return each[rng.integers(len(each), size=len(each))]

    # A standard deviation from B draws has an error of 1 / sqrt(2 B). Allow 4 errors: 40 % of 50
    # draws, and 13 % of 1000 draws, which are compared with 1000 others.
    distances = [metrics.sliced_wasserstein(drawn(projected), drawn(real)) for _ in range(50)]
    spread = of_small.metrics["sliced_wasserstein"].replicates.std()
    assert spread == pytest.approx(np.std(distances), rel=0.4)
    ratios = [metrics.distance_ratio(drawn(near), drawn(near_test)) for _ in range(1000)]
    spread = of_small.metrics["memorisation"].replicates.std()
    assert spread == pytest.approx(np.std(ratios), rel=0.13)


def test_two_draws_from_one_distribution_do_not_differ_beyond_chance() -> None:
    """With resamples of the test images alone, most of these pairs would differ."""
    rng = np.random.default_rng(0)
    draw = lambda: rng.standard_normal((300, 2)).astype(np.float32) + 1  # noqa: E731
    beyond = 0
    num_pairs = 40
    for _ in range(num_pairs):
        real = rng.standard_normal((300, 2)).astype(np.float32)
        first, second = draw(), draw()
        moves = [scoring.resampled_distances(each, real) for each in (first, second)]
        values = [metrics.sliced_wasserstein(each, real) for each in (first, second)]
        low, high = np.percentile(moves[0] + values[0] - moves[1] - values[1], (2.5, 97.5))
        beyond += not low <= 0 <= high
    # 5 % of 40 are 2. More than 7 have a probability of 0.1 % (binomial).
    assert beyond <= 7


# --- from a model to a decision ------------------------------------------------------------------


def test_a_pca_with_more_components_is_promoted_and_fewer_refused(
    of_small: Scores, of_large: Scores
) -> None:
    decision = decide(of_large, of_small, config())
    assert decision.promoted, decision.reason
    assert decision.reason.startswith("mse 0.0")
    back = decide(of_small, of_large, config())
    assert not back.promoted
    assert "mse is worse" in back.reason
    assert not decide(of_large, of_large, config()).promoted


def test_a_first_model_within_its_limits_is_promoted(of_small: Scores) -> None:
    decision = decide(of_small, None, config())
    assert decision.promoted, decision.reason


def test_a_model_that_always_returns_the_mean_image_is_refused(
    small: PCA, prepared: Prepared
) -> None:
    constant = PCA(small.mean, np.zeros_like(small.components), small.spread)
    scored = scoring.score(constant, prepared, size_mb=1)
    assert scored.metrics["mse"].value == pytest.approx(scored.metrics["mse"].reference)
    decision = decide(scored, None, config())
    assert not decision.promoted
    assert "mse is not within its limit" in decision.reason
    assert "active_units is not within its limit" in decision.reason


def test_a_model_that_copies_training_images_is_refused(
    prepared: Prepared, of_small: Scores
) -> None:
    pca = PCA.fit(prepared.images[:NUM_TRAIN], 60)
    known = pca.encode_images(prepared.images[:NUM_TRAIN])
    copier = Copier(pca.mean, pca.components, pca.spread, known)
    scored = scoring.score(copier, prepared, size_mb=1)
    assert scored.metrics["mse"].value < of_small.metrics["mse"].value / 10
    assert scored.metrics["sliced_wasserstein"].value < 0.01 + (
        scored.metrics["sliced_wasserstein"].reference or 0
    )
    decision = decide(scored, of_small, config())
    assert not decision.promoted
    assert decision.reason.startswith("memorisation is worse beyond its margin")
    assert "memorisation is not within its limit" in decide(scored, None, config()).reason


def test_scores_of_a_diverged_model_are_refused_and_can_be_stored(
    small: PCA, of_small: Scores, prepared: Prepared
) -> None:
    broken = Diverged(small.mean, small.components, small.spread)
    with warnings.catch_warnings(action="error"):
        scored = scoring.score(broken, prepared, size_mb=1)
    for name in ("mse", "sliced_wasserstein", "memorisation"):
        assert np.isnan(scored.metrics[name].value)
    for champion in (None, of_small):
        decision = decide(scored, champion, config())
        assert not decision.promoted
        assert "mse of the challenger is not a finite number" in decision.reason
    stored = json.loads(json.dumps(scored.to_json(), allow_nan=False))
    assert Scores.from_json(stored) == scored


def test_scores_survive_a_round_trip_through_json(of_small: Scores) -> None:
    stored = json.loads(json.dumps(of_small.to_json(), allow_nan=False))
    read = Scores.from_json(stored)
    assert read == of_small
    assert read.latency_ms == of_small.latency_ms
    assert read.metrics["mse"].replicates.dtype == np.float64
    assert np.array_equal(read.metrics["mse"].replicates, of_small.metrics["mse"].replicates)


# --- data that cannot be scored ------------------------------------------------------------------


def test_images_of_another_shape_are_refused(prepared: Prepared) -> None:
    model = PCA.fit(prepared.images[:100, :6], 4)
    with pytest.raises(DataError, match=r"Expected: \(6, 8, 1\)\. Received: \(8, 8, 1\)\."):
        scoring.score(model, prepared, size_mb=1)


@pytest.mark.parametrize("split", ["train", "test"])
def test_data_without_training_or_test_images_is_refused(
    small: PCA, prepared: Prepared, split: str
) -> None:
    index = prepared.index.replace({"split": {split: "val"}})
    with pytest.raises(DataError, match=f"no {split} images"):
        scoring.score(small, replace(prepared, index=index), size_mb=1)


def test_memorisation_is_not_scored_if_test_images_are_training_images(prepared: Prepared) -> None:
    images = np.concatenate([prepared.images[:200], prepared.images[:50]])
    split = ["train"] * 200 + ["test"] * 50
    copies = Prepared(images, pd.DataFrame({"split": split}), {"fingerprint": "copies"})
    scored = scoring.score(PCA.fit(images, 8), copies, size_mb=1)
    assert set(scored.metrics) == set(METRICS) - {"memorisation"}
    assert not decide(scored, scored, config()).promoted


def test_a_ratio_that_is_undefined_in_a_resample_has_no_replicates() -> None:
    mostly_copies = np.array([0, 0, 1, 1, 1], np.float32)
    assert metrics.distance_ratio(mostly_copies, mostly_copies) == 1
    assert scoring.resampled_ratios(mostly_copies, mostly_copies) is None


def test_the_scorer_digest_is_the_hash_of_its_code() -> None:
    loaded = [name for name in sys.modules if name.startswith(metrics.__name__)]
    files = [*sorted(str(sys.modules[name].__file__) for name in loaded), scoring.__file__]
    code = b"".join(Path(file).read_bytes() for file in files)
    assert scorer_digest() == hashlib.sha256(code).hexdigest()[:12]


def test_scoring_imports_no_packages_for_training_or_serving() -> None:
    program = (
        "import sys, latentworks.promotion.scoring\n"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'onnxruntime', 'prefect'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"
