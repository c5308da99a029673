"""Metrics of samples agree with the references, and each reacts to the fault that it measures."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest
from prdc import compute_prdc
from scipy import linalg, ndimage
from sklearn.datasets import load_digits

from families import autoencoder
from latentworks import metrics
from latentworks.artifacts.images import Prepared
from latentworks.artifacts.samples import Samples
from latentworks.evaluation import generation
from latentworks.evaluation.features import choice, classifier
from latentworks.metrics import Seen

ENLARGED = 4  # digits of 8x8 pixels become 32x32
# Random halves: the file is sorted by writer, and the hands of the writers differ.
ORDER = np.random.default_rng(0).permutation(1797)
TRAIN, TEST = np.sort(ORDER[:900]), np.sort(ORDER[900:])
NAMES = [str(digit) for digit in range(10)]
DROPPED = 0


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Scans of handwritten digits: uint8 [1797, 32, 32, 1]."""
    large = ndimage.zoom(load_digits().images / 16, (1, ENLARGED, ENLARGED), order=1)
    return (large.clip(0, 1) * 255).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return load_digits().target.astype(np.int64)


See = Callable[..., Seen]


@pytest.fixture(scope="module")
def see(digits: np.ndarray, labels: np.ndarray) -> See:
    """A function from images to features and classes: the shipped network, its head for digits."""
    network = choice.make(digits, TRAIN, labels[TRAIN], NAMES)

    def seen(images: np.ndarray, labels: np.ndarray | None = None) -> Seen:
        parts = classifier.batches(images, np.arange(len(images)))
        return Seen(*classifier.see(network, parts), labels)

    return seen


Scored = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def scored(see: See, digits: np.ndarray, labels: np.ndarray) -> Scored:
    """A function from samples to all metrics. The default reconstructions are perfect."""
    test, train = see(digits[TEST], labels[TEST]), see(digits[TRAIN])

    def scores(
        samples: np.ndarray,
        asked: np.ndarray | None = None,
        reconstructions: np.ndarray | None = None,
    ) -> dict[str, float]:
        again = test if reconstructions is None else see(reconstructions, labels[TEST])
        pieces = metrics.generation_metrics(see(samples, asked), test, [train], again)
        return {name: value for piece in pieces for name, value in piece.items()}

    return scores


@pytest.fixture(scope="module")
def perfect(scored: Scored, digits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The scores of half of the training images, taken as samples.

    They are real and not among the test images. All training images would score as the floor does.
    """
    return scored(digits[TRAIN[::2]], labels[TRAIN[::2]])


def blurred(images: np.ndarray, pixels: float) -> np.ndarray:
    return ndimage.gaussian_filter(images, (0, pixels, pixels, 0))


def noisy(images: np.ndarray, level: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, level, images.shape)
    return (images + 255 * noise).clip(0, 255).astype(np.uint8)


# --- reactions to known faults -------------------------------------------------------------------


def test_real_images_as_samples_score_nearly_perfectly(perfect: dict[str, float]) -> None:
    assert set(perfect) == {
        *("frechet", "frechet_floor", "frechet_blur", "frechet_sampler", "kid"),
        *("precision", "recall", "density", "coverage"),
        *("precision_real", "recall_real", "density_real", "coverage_real"),
        *("precision_reconstructed", "recall_reconstructed", "density_reconstructed"),
        *("coverage_reconstructed", "class_balance", "label_agreement", "label_agreement_real"),
        "label_agreement_reconstructed",
    }
    assert all(type(value) is float for value in perfect.values())
    # The floor is measured with twice as many images, whose covariance is more certain. Measured:
    # 1.4 times the floor.
    assert perfect["frechet_floor"] < perfect["frechet"] < 2 * perfect["frechet_floor"]
    # Measured: -0.015. Blur of one pixel scores 0.055, and noise of 0.05 scores 0.25.
    assert abs(perfect["kid"]) < 0.02
    assert perfect["frechet_blur"] < 1e-6 * perfect["frechet"]  # test images against themselves
    assert perfect["frechet_sampler"] == pytest.approx(perfect["frechet"])
    for name in ("precision", "recall", "coverage", "class_balance", "label_agreement_real"):
        assert perfect[name] > 0.8, name
    assert perfect["density"] == pytest.approx(1, abs=0.2)


def test_more_blur_raises_distances_and_lowers_recall_and_coverage(
    digits: np.ndarray, scored: Scored, perfect: dict[str, float]
) -> None:
    once, twice = (scored(blurred(digits[TRAIN[::2]], pixels)) for pixels in (2, 4))
    for name in ("frechet", "frechet_sampler", "kid"):
        assert perfect[name] < once[name] < twice[name], name
    # Precision and density do not fall: blurred images lie in the midst of sharp images.
    for name in ("recall", "coverage"):
        assert perfect[name] > once[name] > twice[name], name
    assert once["frechet_floor"] == twice["frechet_floor"] == perfect["frechet_floor"]


def test_more_noise_raises_distances_and_lowers_neighbour_metrics(
    digits: np.ndarray, scored: Scored, perfect: dict[str, float]
) -> None:
    once, twice = (scored(noisy(digits[TRAIN[::2]], level)) for level in (0.1, 0.3))
    for name in ("frechet", "frechet_sampler", "kid"):
        assert perfect[name] < once[name] < twice[name], name
    for name in ("precision", "recall", "density", "coverage"):
        assert perfect[name] > once[name] > twice[name], name


def test_blur_of_the_model_and_faults_of_the_sampler_are_told_apart(
    digits: np.ndarray, labels: np.ndarray, scored: Scored, perfect: dict[str, float]
) -> None:
    of_model = scored(blurred(digits[TRAIN], 2), None, blurred(digits[TEST], 2))
    assert of_model["frechet_blur"] > 5 * of_model["frechet_sampler"]
    for name in ("recall", "coverage"):
        assert of_model[f"{name}_reconstructed"] < 0.9 * perfect[f"{name}_reconstructed"], name
    some = TRAIN[labels[TRAIN] < 5]
    of_sampler = scored(digits[some])
    assert of_sampler["frechet_sampler"] > 5 * of_sampler["frechet_blur"]


def test_a_dropped_class_lowers_recall_coverage_and_class_balance(
    digits: np.ndarray, labels: np.ndarray, scored: Scored, perfect: dict[str, float]
) -> None:
    half = TRAIN[::2]
    kept = half[labels[half] != DROPPED]
    without = scored(digits[kept], labels[kept])
    share = (labels[TEST] == DROPPED).mean()
    # Most balls around test images of the dropped class hold no image of another class.
    assert without["recall"] < perfect["recall"] - share / 2
    assert without["coverage"] < perfect["coverage"] - share / 2
    assert without["frechet"] > 2 * perfect["frechet"]
    assert without["class_balance"] == pytest.approx(1 - share, abs=0.05)
    assert without["class_balance"] < perfect["class_balance"]
    # The remaining samples are as good as before, but for eight of 400.
    assert without["precision"] == pytest.approx(perfect["precision"], abs=0.02)
    assert without["label_agreement"] == pytest.approx(perfect["label_agreement"], abs=0.02)


def test_swapped_labels_lower_the_label_agreement_alone(
    digits: np.ndarray, labels: np.ndarray, scored: Scored, perfect: dict[str, float]
) -> None:
    half = TRAIN[::2]
    swapped = np.where(labels[half] == 3, 8, np.where(labels[half] == 8, 3, labels[half]))
    scores = scored(digits[half], swapped)
    share = (swapped != labels[half]).mean()
    lost = perfect["label_agreement"] - scores["label_agreement"]
    assert lost == pytest.approx(share, abs=0.02)  # less the images misjudged before
    assert {**scores, "label_agreement": 0} == {**perfect, "label_agreement": 0}


def test_memorisation_alone_reveals_copies_of_training_images(
    digits: np.ndarray, scored: Scored, perfect: dict[str, float]
) -> None:
    copies = scored(digits[TRAIN])
    assert copies["frechet"] < perfect["frechet"]
    assert copies["frechet"] == copies["frechet_floor"]
    assert min(copies["precision"], copies["recall"], copies["coverage"]) > 0.8
    for name in ("precision", "recall", "density", "coverage"):
        assert copies[name] == copies[f"{name}_real"]
    assert metrics.memorisation(digits[TRAIN], digits, TRAIN, TEST) == 0


def test_repeated_samples_have_precision_without_recall(
    digits: np.ndarray, scored: Scored, perfect: dict[str, float]
) -> None:
    few = np.repeat(digits[TEST[:20]], 20, axis=0)  # twenty images, twenty times each
    scores = scored(few)
    assert scores["precision"] == 1
    assert scores["recall"] < 0.1
    assert scores["coverage"] < perfect["coverage"] / 2


def test_the_floor_is_the_mean_over_disjoint_sets(see: See, digits: np.ndarray) -> None:
    test, first, second = (see(digits[rows]) for rows in (TEST, TRAIN[::2], TRAIN[1::2]))

    def floor(*train: metrics.Seen) -> dict[str, float]:
        pieces = metrics.generation_metrics(first, test, train, test)
        found = {name: value for piece in pieces for name, value in piece.items()}
        return {name: value for name, value in found.items() if "floor" in name}

    one, other, both = floor(first), floor(second), floor(first, second)
    values = one["frechet_floor"], other["frechet_floor"]
    assert set(one) == {"frechet_floor"}
    assert both["frechet_floor"] == pytest.approx(np.mean(values))
    assert both["frechet_floor_std"] == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(("num", "sizes"), [(30, [30, 30, 30]), (40, [40, 40]), (200, [100])])
def test_disjoint_subsets_share_no_row(num: int, sizes: list[int]) -> None:
    rows = np.arange(0, 300, 3)
    subsets = metrics.disjoint_subsets(rows, num, 3)
    assert [len(each) for each in subsets] == sizes
    np.testing.assert_array_equal(subsets[0], metrics.subset(rows, num))
    chosen = np.concatenate(subsets)
    assert len({*chosen.tolist()}) == len(chosen)
    assert set(chosen) <= set(rows)


def test_compare_gives_the_network_the_right_images_and_labels(
    digits: np.ndarray, labels: np.ndarray
) -> None:
    split = np.where(np.isin(np.arange(1797), TRAIN), "train", "test")
    index = pd.DataFrame({"split": split, "label": pd.array(labels, dtype="Int64")})
    data = Prepared(digits, index, {"class_names": NAMES})
    see = partial(classifier.see, choice.make(digits, TRAIN, labels[TRAIN], NAMES))
    model = autoencoder(filters=(4,)).build((32, 32, 1))
    copies = Samples(digits[TRAIN], np.zeros((900, 2), np.float32), labels[TRAIN])
    scores = generation.compare(see, model, data, copies)
    assert scores["frechet"] == pytest.approx(scores["frechet_floor"])
    # The model is untrained: its reconstructions are grey.
    assert scores["frechet_blur"] > 10 * scores["frechet"]
    assert scores["label_agreement"] > 0.9
    assert scores["label_agreement_real"] > 0.8
    unlabelled = Samples(copies.images, copies.latents, None)
    assert generation.compare(see, model, data, unlabelled) == {
        name: value for name, value in scores.items() if name != "label_agreement"
    }


def test_classification_accuracy_depends_on_the_labels_of_the_samples(
    digits: np.ndarray, labels: np.ndarray
) -> None:
    split = np.where(np.isin(np.arange(1797), TRAIN), "train", "test")
    digits = digits[:, ::ENLARGED, ::ENLARGED]  # smaller images train faster

    def learnt(known: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
        column = pd.Series(known, dtype="Int64").mask(known < 0)
        index = pd.DataFrame({"split": split, "label": column})
        data = Prepared(digits, index, {"class_names": NAMES})
        latents = np.zeros((len(digits[TRAIN]), 2), np.float32)
        return generation.classification_accuracy(data, Samples(digits[TRAIN], latents, labels))

    real = learnt(labels, labels[TRAIN])
    assert list(real) == ["classification_accuracy"]
    assert real["classification_accuracy"] > 0.9  # 0.1 is chance
    # The digits 0 to 4 get the label of another of them, and the others have none.
    other = np.where(labels < 5, (labels + 1) % 5, -1)
    assert learnt(other, other[TRAIN])["classification_accuracy"] > 0.9
    for nothing in (None, np.full(900, -1), np.full(900, 3)):
        assert learnt(labels, nothing) == {}


# --- agreement with references -------------------------------------------------------------------


def gaussians(*sizes: int, num_features: int = 8) -> list[np.ndarray]:
    """Sets of features that differ in mean and spread: float32 [N, F] each."""
    rng = np.random.default_rng(0)
    drawn = (rng.standard_normal((size, num_features)) @ mixed(num_features) for size in sizes)
    return [
        (set_ * (1 + 0.2 * number) + 0.3 * number).astype(np.float32)
        for number, set_ in enumerate(drawn)
    ]


def mixed(num_features: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((num_features, num_features))


def test_frechet_distance_agrees_with_scipy() -> None:
    x, y = gaussians(300, 200)
    of_x, of_y = (np.cov(each.astype(np.float64), rowvar=False) for each in (x, y))
    gap = x.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64)
    expected = gap @ gap + np.trace(of_x + of_y - 2 * linalg.sqrtm(of_x @ of_y)).real
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_shifted_and_scaled_features_have_the_known_frechet_distance() -> None:
    (x,) = gaussians(500)
    spread = np.trace(np.cov(x.astype(np.float64), rowvar=False))
    assert metrics.frechet_distance(x, x) == pytest.approx(0, abs=1e-9 * spread)
    assert metrics.frechet_distance(x, x + 1) == pytest.approx(8, rel=1e-4)  # 8 features, 1 each
    centred = x - x.mean(axis=0)
    assert metrics.frechet_distance(centred, 3 * centred) == pytest.approx(4 * spread, rel=1e-4)


def test_constant_and_repeated_features_do_not_break_frechet_distance() -> None:
    x, y = gaussians(50, 40)
    x[:, 3] = y[:, 3] = 2  # constant
    x[:, 5], y[:, 5] = x[:, 4], y[:, 4]  # feature 4 again
    kept = [0, 1, 2, 4, 5, 6, 7]
    expected = metrics.frechet_distance(x[:, kept], y[:, kept])
    assert metrics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert metrics.frechet_distance(x[:4], y[:4]) > 0  # fewer images than features


@pytest.mark.parametrize("sizes", [(1200, 700), (60, 1100), (7, 7)])
def test_neighbour_metrics_agree_with_prdc(sizes: tuple[int, int]) -> None:
    real, samples = gaussians(*sizes)  # at most one set exceeds a chunk of 1000
    expected = compute_prdc(real.astype(np.float64), samples.astype(np.float64), nearest_k=5)
    assert metrics.NUM_NEAREST == 5
    found = metrics.neighbour_metrics(real, samples)
    assert found == pytest.approx({name: float(value) for name, value in expected.items()})


def test_an_image_in_a_set_of_two_has_one_neighbour() -> None:
    real, samples = np.array([[0.0], [2.0]]), np.array([[1.5], [9.0]])
    found = metrics.neighbour_metrics(real, samples)
    # The balls around 0 and 2 have the radius 2, those around 1.5 and 9 the radius 7.5.
    assert found == {"precision": 0.5, "recall": 1.0, "density": 1.0, "coverage": 1.0}


def test_kernel_distance_agrees_with_a_brute_force_sum() -> None:
    x, y = gaussians(12, 9)

    def mean(first: np.ndarray, second: np.ndarray, but_itself: bool) -> float:
        values = [
            (float(a.astype(np.float64) @ b.astype(np.float64)) / 8 + 1) ** 3
            for i, a in enumerate(first)
            for j, b in enumerate(second)
            if not (but_itself and i == j)
        ]
        return sum(values) / len(values)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert metrics.kernel_distance(x, y) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_not_biased() -> None:
    rng = np.random.default_rng(0)
    draws = [
        metrics.kernel_distance(rng.standard_normal((40, 4)), rng.standard_normal((60, 4)))
        for _ in range(400)
    ]
    # Between sets of one distribution, the distance is 0 on average, and negative about as
    # often as positive.
    assert np.mean(draws) == pytest.approx(0, abs=4 * np.std(draws) / 20)
    assert min(draws) < 0 < max(draws)


def test_class_balance_is_one_minus_the_total_variation() -> None:
    first, second = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1, 3, 3, 3, 3])
    shares = np.array([[0.5, 0.25, 0.25, 0], [0.125, 0.375, 0, 0.5]])
    expected = 1 - abs(shares[0] - shares[1]).sum() / 2
    assert metrics.class_balance(first, second) == pytest.approx(expected)
    assert metrics.class_balance(first, np.tile(first, 3)) == 1
    assert metrics.class_balance(first, np.array([5])) == 0


def test_label_agreement_ignores_images_without_a_label() -> None:
    features, classes = np.zeros((4, 1)), np.array([0, 1, 1, 0])
    some = Seen(features, classes, np.array([0, -1, 0, -1]))
    assert metrics.label_agreement(some) == 0.5
    assert metrics.label_agreement(Seen(features, classes, np.full(4, -1))) is None
    unlabelled = Seen(features, classes)
    assert metrics.class_metrics(unlabelled, unlabelled, unlabelled) == {"class_balance": 1}
    assert metrics.class_metrics(Seen(features), unlabelled, some) == {}
    wrong = Seen(features, classes, 1 - classes)
    scores = metrics.class_metrics(wrong, some, wrong)
    assert scores["label_agreement"] == scores["label_agreement_reconstructed"] == 0


def test_a_single_test_image_gives_no_metrics() -> None:
    one, many = Seen(np.ones((1, 3))), Seen(gaussians(9, num_features=3)[0])
    assert list(metrics.generation_metrics(many, one, [many], many)) == []


# --- maps ----------------------------------------------------------------------------------------


def test_a_map_that_keeps_neighbours_has_high_trustworthiness(digits: np.ndarray) -> None:
    rows = TEST[:400]
    rng = np.random.default_rng(0)
    line = np.linspace(0, 1, 200, dtype=np.float32)[:, None]
    greys = (line[..., None, None] * np.full((200, 8, 8, 1), 250)).astype(np.uint8)
    kept = metrics.trustworthiness(greys, np.arange(200), line)["trustworthiness"]
    # 200 images in 250 grey values, so that few images have two neighbours at the same distance.
    assert kept > 0.99
    drawn = rng.standard_normal((400, 2)).astype(np.float32)
    by_chance = metrics.trustworthiness(digits, rows, drawn)["trustworthiness"]
    assert by_chance == pytest.approx(0.5, abs=0.05)
    pixels = digits[rows].reshape(400, -1).astype(np.float32)
    main = (pixels - pixels.mean(axis=0)) @ linalg.svd(
        pixels - pixels.mean(axis=0), full_matrices=False
    )[2][:2].T
    assert metrics.trustworthiness(digits, rows, main)["trustworthiness"] > by_chance + 0.2


def test_two_images_have_no_trustworthiness(digits: np.ndarray) -> None:
    assert metrics.trustworthiness(digits, TEST[:2], np.zeros((2, 2), np.float32)) == {}
