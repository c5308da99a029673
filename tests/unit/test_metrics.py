"""Metrics agree with the references, react in the right direction, and keep their bounds."""

from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from latentworks import metrics

TRAIN, TEST = np.arange(1400), np.arange(1400, 1797)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Scans of handwritten digits: uint8 [1797, 8, 8, 1]."""
    return (load_digits().images[..., None] * 15.9).astype(np.uint8)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return load_digits().target.astype(np.int64)


def noisy(images: np.ndarray, level: float) -> np.ndarray:
    """Images with noise, in the form of reconstructions: float32 in [0, 1]."""
    noise = np.random.default_rng(0).normal(0, level, images.shape)
    return (images / 255 + noise).clip(0, 1).astype(np.float32)


def textures(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


# --- reconstructions -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 32, 32, 1), (5, 16, 24, 3), (5, 7, 7, 1), (5, 4, 6, 3)])
def test_ssim_agrees_with_scikit_image(shape: tuple[int, ...]) -> None:
    targets = textures(shape) / 255
    predictions = noisy(textures(shape), 0.2).astype(np.float64)
    window = 3 if shape[1] == 4 else 7
    expected = [
        structural_similarity(x, y, data_range=1, channel_axis=-1, win_size=window)
        for x, y in zip(targets, predictions, strict=True)
    ]
    assert np.allclose(metrics.structural_similarity(targets, predictions), expected, atol=1e-6)


def test_psnr_agrees_with_scikit_image(digits: np.ndarray) -> None:
    targets, predictions = digits[:20] / 255, noisy(digits[:20], 0.1).astype(np.float64)
    expected = [
        peak_signal_noise_ratio(x, y, data_range=1)
        for x, y in zip(targets, predictions, strict=True)
    ]
    assert np.allclose(metrics.peak_signal_to_noise(targets, predictions), expected)


def test_bce_agrees_with_keras(digits: np.ndarray) -> None:
    predictions = noisy(digits, 0.5)  # strong enough for pixels to be clipped at 0 and 1
    expected = keras.losses.binary_crossentropy(digits / np.float32(255), predictions)
    # Keras works in float32, where 1 - 1e-7 is 1 - 1.2e-7; a clipped pixel differs by up to 0.2.
    assert metrics.reconstruction_metrics([(digits, predictions)])["bce"] == pytest.approx(
        float(np.mean(expected)), rel=5e-3
    )
    inside = predictions.clip(0.01, 0.99)
    expected = keras.losses.binary_crossentropy(digits / np.float32(255), inside)
    assert metrics.reconstruction_metrics([(digits, inside)])["bce"] == pytest.approx(
        float(np.mean(expected)), rel=1e-5
    )


def test_scores_are_means_over_images_and_do_not_depend_on_batches(digits: np.ndarray) -> None:
    predictions = noisy(digits, 0.1)
    whole = metrics.reconstruction_metrics([(digits, predictions)])
    cuts = [0, 1, 500, 1797]  # the last batch of a pass is smaller than the others
    parts = metrics.reconstruction_metrics(
        (digits[a:b], predictions[a:b]) for a, b in pairwise(cuts)
    )
    assert parts == pytest.approx(whole, rel=1e-12)
    assert set(whole) == {"bce", "excess_bce", "mse", "psnr", "ssim"}
    assert whole["mse"] == pytest.approx(((digits / 255 - predictions) ** 2).mean())


def test_a_perfect_reconstruction_has_the_best_possible_scores(digits: np.ndarray) -> None:
    scores = metrics.reconstruction_metrics([(digits, digits / np.float32(255))])
    # Clipping at 1e-7 costs 1e-7 nats for each black or white pixel. Rounding a grey pixel to
    # float32 costs about as much.
    assert scores["excess_bce"] == pytest.approx(0, abs=1e-6)
    assert scores["mse"] == pytest.approx(0, abs=1e-12)
    assert scores["psnr"] == metrics.MAX_PSNR
    assert scores["ssim"] == pytest.approx(1)


def test_the_mean_image_is_the_best_of_all_constant_reconstructions(digits: np.ndarray) -> None:
    error = metrics.mean_image_mse(digits, TRAIN, TEST)
    mean = digits[TRAIN].mean(axis=0) / 255
    assert error == pytest.approx(np.square(digits[TEST] / 255 - mean).mean())
    assert metrics.mean_image_mse(digits, TEST, TEST) < error
    assert metrics.hardly_better(0.7 * error, error)
    assert not metrics.hardly_better(0.3 * error, error)


def test_the_entropy_floor_is_the_entropy_of_each_grey_value() -> None:
    assert metrics.GREY_ENTROPY[[0, 255]].tolist() == [0, 0]
    assert metrics.GREY_ENTROPY[51] == pytest.approx(stats.entropy([0.2, 0.8]))


def test_worse_reconstructions_score_worse(digits: np.ndarray) -> None:
    levels = [
        metrics.reconstruction_metrics([(digits, noisy(digits, level))])
        for level in (0.01, 0.1, 0.3)
    ]
    for name in ("bce", "excess_bce", "mse"):
        assert levels[0][name] < levels[1][name] < levels[2][name]
    for name in ("psnr", "ssim"):
        assert levels[0][name] > levels[1][name] > levels[2][name]
    assert all(level["excess_bce"] >= -1e-6 for level in levels)  # none is below the floor


# --- latents -------------------------------------------------------------------------------------


def test_latent_accuracies_agree_with_scikit_learn(digits: np.ndarray, labels: np.ndarray) -> None:
    z = digits.reshape(-1, 64)[:, 10:40].astype(np.float32) / 255
    scores = metrics.latent_metrics(z[TRAIN], labels[TRAIN], z[TEST], labels[TEST])
    knn = KNeighborsClassifier(10).fit(z[TRAIN], labels[TRAIN])
    assert scores["knn_accuracy"] == knn.score(z[TEST], labels[TEST])
    scaler = StandardScaler().fit(z[TRAIN])
    linear = LogisticRegression(max_iter=1000).fit(scaler.transform(z[TRAIN]), labels[TRAIN])
    assert scores["linear_accuracy"] == linear.score(scaler.transform(z[TEST]), labels[TEST])
    assert scores["knn_accuracy"] > 0.8  # chance is 0.1, and digits are easy


def test_latents_without_information_have_the_accuracy_of_chance(labels: np.ndarray) -> None:
    z = np.random.default_rng(0).standard_normal((1797, 2)).astype(np.float32)
    scores = metrics.latent_metrics(z[TRAIN], labels[TRAIN], z[TEST], labels[TEST])
    # Chance is 0.1, with an error of sqrt(0.1 * 0.9 / 397) = 0.015. The tolerance is 4 of these.
    assert scores["knn_accuracy"] == pytest.approx(0.1, abs=0.06)
    assert scores["linear_accuracy"] == pytest.approx(0.1, abs=0.06)


def test_latent_metrics_leave_out_images_without_a_label(
    digits: np.ndarray, labels: np.ndarray
) -> None:
    z = digits.reshape(-1, 64).astype(np.float32) / 255
    some = np.where(np.arange(1797) % 3 == 0, -1, labels)
    scores = metrics.latent_metrics(z[TRAIN], some[TRAIN], z[TEST], some[TEST])
    train, test = TRAIN[some[TRAIN] >= 0], TEST[some[TEST] >= 0]
    assert scores == metrics.latent_metrics(z[train], labels[train], z[test], labels[test])


def test_latent_metrics_without_labels_have_no_accuracy(labels: np.ndarray) -> None:
    z = np.random.default_rng(0).standard_normal((1797, 2)).astype(np.float32)
    none = np.full_like(labels, -1)
    one = np.zeros_like(labels)
    for train_labels, test_labels in [
        (None, None),
        (none[TRAIN], none[TEST]),
        (labels[TRAIN], none[TEST]),
        (one[TRAIN], one[TEST]),  # one class: nothing to learn
    ]:
        scores = metrics.latent_metrics(z[TRAIN], train_labels, z[TEST], test_labels)
        assert scores == {"active_units": 2}


def test_knn_accuracy_takes_fewer_neighbours_from_few_training_images() -> None:
    z = np.array([[0.0], [1.0], [5.0]], np.float32)
    scores = metrics.latent_metrics(z, np.array([0, 0, 1]), z, np.array([0, 0, 1]))
    assert scores["knn_accuracy"] == pytest.approx(2 / 3)  # all three vote: the majority wins


def test_active_units_counts_the_latents_that_vary() -> None:
    rng = np.random.default_rng(0)
    spreads = np.array([1, 0.2, 0.05, 0])  # variances 1, 0.04, 0.0025, 0; threshold 0.01
    z = (rng.standard_normal((1000, 4)) * spreads + 1000).astype(np.float32)
    assert metrics.active_units(z) == 2


# --- samples -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(6, 6), (4, 6), (7, 3), (1, 5)])
def test_sliced_wasserstein_agrees_with_brute_force(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((size, 9)) for size in sizes)
    # Both sets are repeated to the same size. Sorting then matches their points one to one, without
    # quantiles.
    x = np.sort(np.repeat(first, sizes[1], axis=0), axis=0)
    y = np.sort(np.repeat(second, sizes[0], axis=0), axis=0)
    expected = np.sqrt(((x - y) ** 2).mean())
    assert metrics.sliced_wasserstein(first, second) == pytest.approx(expected)


def test_sliced_wasserstein_of_a_shift_is_the_shift() -> None:
    points = np.random.default_rng(0).standard_normal((100, 5))
    assert metrics.sliced_wasserstein(points, points) == 0
    assert metrics.sliced_wasserstein(points, points + 3) == pytest.approx(3)


def test_projections_keep_a_known_share_of_the_distance() -> None:
    images = np.stack([np.zeros((16, 16, 1), np.uint8), np.full((16, 16, 1), 255, np.uint8)])
    black, white = (metrics.project(images, np.array([row])) for row in (0, 1))
    # 256 pixels that differ by 1 have a distance of 16, of which a random direction in 256
    # dimensions keeps 1 on average. The error from 256 directions is sqrt(2 / 256) / 2 = 0.04. The
    # tolerance is 4 of these.
    assert metrics.sliced_wasserstein(black, white) == pytest.approx(1, abs=0.18)


def test_samples_nearer_to_the_data_score_better(digits: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    blurred = (digits[TRAIN] * 0.8).astype(np.uint8)
    noise = rng.integers(0, 256, digits[TRAIN].shape, dtype=np.uint8)
    scores = [
        metrics.sample_metrics(samples, digits, TRAIN, TEST)
        for samples in (digits[TRAIN], blurred, noise)
    ]
    distances = [score["sliced_wasserstein"] for score in scores]
    assert distances[0] < distances[1] < distances[2]
    # The floor is, by definition, the distance of the training images to the test images.
    assert distances[0] == scores[0]["sliced_wasserstein_floor"]


def test_the_floor_is_measured_with_as_many_images_as_samples(digits: np.ndarray) -> None:
    few, many = (metrics.sample_metrics(digits[:n], digits, TRAIN, TEST) for n in (20, 1000))
    assert few["sliced_wasserstein_floor"] > many["sliced_wasserstein_floor"]


def test_nearest_distances_agree_with_brute_force(digits: np.ndarray) -> None:
    rows = TRAIN[::3]
    queries = digits[TEST].reshape(-1, 64).astype(np.float32) / 255
    expected = cdist(queries, digits[rows].reshape(-1, 64) / 255).min(axis=1)
    distances = metrics.nearest_distances(queries, digits, rows)
    assert np.allclose(distances, expected, rtol=1e-5)


def test_nearest_distances_do_not_depend_on_chunks(tmp_path: Path) -> None:
    images = textures((metrics.CHUNK_IMAGES + 300, 8, 8, 1))
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    rows = np.arange(0, len(images), 1)
    queries = images[-3:].reshape(-1, 64).astype(np.float32) / 255  # found in the second chunk
    assert metrics.nearest_distances(queries, mapped, rows).tolist() == [0, 0, 0]
    assert metrics.nearest_distances(queries, mapped, rows[:-3]).min() > 0


def test_memorisation_of_copies_is_zero(digits: np.ndarray) -> None:
    assert metrics.memorisation(digits[TRAIN], digits, TRAIN, TEST) == 0


def test_memorisation_of_fresh_data_is_about_one(digits: np.ndarray) -> None:
    # Half of the test images against the other half: two medians of 200 distances differ by 10% at
    # most.
    score = metrics.memorisation(digits[TEST[::2]], digits, TRAIN, TEST[1::2])
    assert score == pytest.approx(1, abs=0.1)


def test_memorisation_of_near_copies_is_between_zero_and_a_half(digits: np.ndarray) -> None:
    near = (noisy(digits[TRAIN], 0.05) * 255).astype(np.uint8)
    assert 0 < metrics.memorisation(near, digits, TRAIN, TEST) < 0.5


def test_thumbnails_of_large_images_are_means_of_square_blocks() -> None:
    images = textures((4, 128, 128, 3))
    (small,) = metrics.thumbnails(images, np.array([2, 0]))
    squares = images.reshape(4, 64, 2, 64, 2, 3).mean(axis=(2, 4)) / 255
    assert np.allclose(small, squares[[2, 0]].reshape(2, -1), atol=1e-6)


def test_a_subset_is_repeatable_and_keeps_the_order_of_rows() -> None:
    rows = np.arange(100, 200)
    chosen = metrics.subset(rows, 10)
    assert len(set(chosen)) == 10
    assert set(chosen) <= set(rows)
    assert np.array_equal(chosen, np.sort(chosen))
    assert np.array_equal(chosen, metrics.subset(rows, 10))
    assert np.array_equal(metrics.subset(rows, 1000), rows)


def test_two_calls_give_equal_metrics(digits: np.ndarray, labels: np.ndarray) -> None:
    z = digits.reshape(-1, 64)[:, 20:24].astype(np.float32)
    samples = textures((50, 8, 8, 1))
    first, second = (
        {
            **metrics.reconstruction_metrics([(digits, noisy(digits, 0.1))]),
            **metrics.latent_metrics(z[TRAIN], labels[TRAIN], z[TEST], labels[TEST]),
            **metrics.sample_metrics(samples, digits, TRAIN, TEST),
        }
        for _ in range(2)
    )
    assert first == second
    assert all(isinstance(value, (int, float)) for value in first.values())
