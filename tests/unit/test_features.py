"""The feature network: its choice by the dataset, and equal weights for equal inputs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from checkouts import ROOT, environment
from latentworks.artifacts.features import read_features
from latentworks.datasets.fashion_mnist import CLASS_NAMES
from latentworks.engine.backend import keras
from latentworks.errors import Damaged
from latentworks.evaluation.features import choice, classifier, head, shipped, training
from latentworks.system import disk

TRAIN, TEST = np.arange(1400), np.arange(1400, 1797)
NAMES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Scans of handwritten digits: uint8 [1797, 8, 8, 1]."""
    return (load_digits().images[..., None] * 15.9).astype(np.uint8)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return load_digits().target.astype(np.int64)


def enlarged(images: np.ndarray, side: int = 32) -> np.ndarray:
    return images.repeat(side // 8, axis=1).repeat(side // 8, axis=2)


def features(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return classifier.see(model, classifier.batches(images, np.arange(len(images))))[0]


# --- choice of the network -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_shape", "labels", "kind"),
    [
        ((28, 28, 1), None, "shipped"),
        ((32, 32, 1), [0, 1], "shipped"),
        ((27, 28, 1), [0, 1], "trained"),
        ((33, 33, 1), [0, 1], "trained"),
        ((32, 32, 3), [0, -1, 1], "trained"),
        ((32, 32, 3), [0, -1, 0], "random"),  # one class
        ((32, 32, 3), [-1, -1], "random"),
        ((64, 64, 1), None, "random"),
    ],
)
def test_image_shape_and_labels_decide_on_the_feature_network(
    image_shape: tuple[int, int, int], labels: list[int] | None, kind: str
) -> None:
    assert choice.choose(image_shape, None if labels is None else np.array(labels)) == kind


def test_a_changed_file_of_the_shipped_network_is_refused(tmp_path: Path) -> None:
    values, names = shipped.load()
    assert names == list(CLASS_NAMES)
    assert all(np.isfinite(value).all() for value in values.values())
    content = bytearray(shipped.FILE.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "shipped.npz").write_bytes(content)
    with pytest.raises(Damaged, match=f"Expected SHA-256 {shipped.SHA256}"):
        shipped.load(tmp_path / "shipped.npz")


def test_the_shipped_network_gets_a_new_head_for_other_classes(
    digits: np.ndarray, labels: np.ndarray
) -> None:
    large = enlarged(digits)
    values, names = shipped.load()
    own = classifier.weights(choice.make(large, TRAIN, labels[TRAIN], names))
    assert all(np.array_equal(own[path], value) for path, value in values.items())
    model = choice.make(large, TRAIN, labels[TRAIN], NAMES)
    fitted = classifier.weights(model)
    changed = {path for path, value in values.items() if not np.array_equal(fitted[path], value)}
    assert changed == {"logits/kernel", "logits/bias"}
    _, seen = classifier.see(model, classifier.batches(large, TEST))
    assert (seen == labels[TEST]).mean() > 0.8  # 0.1 is chance
    without = choice.make(large, TRAIN, None, [])
    assert np.array_equal(features(without, large[:9]), features(model, large[:9]))


def test_a_head_learns_a_class_of_one_image(digits: np.ndarray) -> None:
    """A random choice of images to fit the head would miss the rare class."""
    large = enlarged(digits[[0, 1]])
    rows = np.repeat([0, 1], [60_000, 1])
    model = choice.make(large, rows, rows, ["often", "once"])
    _, seen = classifier.see(model, classifier.batches(large, np.arange(2)))
    assert seen is not None
    assert seen.tolist() == [0, 1]


def test_small_grey_images_are_padded_for_the_shipped_network(digits: np.ndarray) -> None:
    values, _ = shipped.load()
    small = np.pad(enlarged(digits[:20], 24), ((0, 0), (2, 2), (2, 2), (0, 0)))
    framed = np.pad(small, ((0, 0), (2, 2), (2, 2), (0, 0)))
    both = [
        features(classifier.load(images.shape[1:], values), images) for images in (small, framed)
    ]
    assert np.array_equal(*both)


@pytest.mark.parametrize(("side", "channels"), [(24, 1), (32, 1), (96, 3)])
def test_a_global_policy_of_mixed_precision_does_not_change_features(
    digits: np.ndarray, labels: np.ndarray, side: int, channels: int
) -> None:
    """Padded, shipped, and averaged over squares: bfloat16 would change the distances."""
    images = enlarged(digits[:200], side).repeat(channels, axis=3)
    if side == 24:
        images = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))  # to 28 x 28
    rows = np.arange(len(images))
    made = choice.make(images, rows, labels[:200] if channels == 1 else None, NAMES)
    values = classifier.weights(made)
    shape = images.shape[1:]
    before = classifier.see(classifier.load(shape, values), [images])
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = classifier.load(shape, values)
    finally:
        keras.config.set_dtype_policy(policy)
    after = classifier.see(model, [images])
    assert after[0].dtype == np.float32
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first, second)


def test_random_weights_give_repeatable_features_of_moderate_spread(digits: np.ndarray) -> None:
    for images in (digits, enlarged(digits, 64).repeat(3, axis=3)[:200]):
        model = choice.make(images, np.arange(len(images)), None, [])
        found = features(model, images)
        assert found.shape == (len(images), classifier.NUM_FEATURES)
        assert classifier.HEAD not in model.output
        spreads = found.std(axis=0)
        assert 0.01 < spreads.min() < spreads.max() < 10
        again = choice.make(images, np.arange(len(images)), None, [])
        assert np.array_equal(features(again, images), found)


@pytest.mark.parametrize("image_shape", [(8, 8, 1), (7, 12, 3), (64, 64, 3), (100, 200, 1)])
def test_images_of_any_shape_have_the_same_number_of_features(
    image_shape: tuple[int, int, int],
) -> None:
    model = classifier.build(image_shape, 3)
    *_, last = [layer for layer in model.layers if layer.name.startswith("conv_")]
    assert max(last.output.shape[1:3]) <= classifier.MAX_MAP
    images = np.random.default_rng(0).integers(0, 256, (5, *image_shape), np.uint8)
    found, classes = classifier.see(model, classifier.batches(images, np.arange(5)))
    assert found.shape == (5, classifier.NUM_FEATURES)
    assert classes is not None
    assert set(classes) <= {0, 1, 2}
    assert model.count_params() < 250_000


# --- fitted to images -----------------------------------------------------------------------------


@pytest.mark.parametrize("known", [[0, 1, 2, 3], [1, 3], [2, 5, 7]])
def test_a_head_agrees_with_the_logistic_regression_of_scikit_learn(
    known: list[int], digits: np.ndarray, labels: np.ndarray
) -> None:
    rows = np.isin(labels, known)
    pixels = digits[rows].reshape(-1, 64).astype(np.float32)
    kernel, bias = head.fit(pixels, labels[rows], 10)
    assert kernel.shape == (64, 10)
    scaled = pixels / np.maximum(pixels.std(axis=0), 1e-9)
    expected = LogisticRegression(max_iter=1000).fit(scaled, labels[rows]).predict(scaled)
    seen = (pixels @ kernel + bias).argmax(axis=1)
    assert (seen == expected).mean() > 0.995  # images on a border may get either class
    assert set(seen) <= set(known)


def test_a_head_does_not_depend_on_the_number_of_cores(labels: np.ndarray) -> None:
    """Several threads would add the terms of a sum in another order."""
    found = np.random.default_rng(0).standard_normal((9000, 64)).astype(np.float32)
    classes = np.resize(labels, 9000)
    fits = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            fits.append(head.fit(found, classes, 10))
    assert all(np.array_equal(*pair) for pair in zip(*fits, strict=True))


def test_training_images_are_moved_by_at_most_two_pixels() -> None:
    images = np.zeros((200, 32, 32, 1), np.uint8)
    images[:, 16, 10] = 255
    moved = training.moved(images, np.random.default_rng(0), flip=False)
    _, y, x, _ = np.nonzero(moved)
    assert set(y - 16) == set(x - 10) == {-2, -1, 0, 1, 2}
    _, _, x, _ = np.nonzero(training.moved(images, np.random.default_rng(0), flip=True))
    assert {*range(8, 13), *range(19, 24)} == set(x)  # a flip moves 10 to 31 - 10 = 21


def test_training_images_get_noise_of_any_strength_up_to_a_limit() -> None:
    grey = np.full((400, 32, 32, 1), 128, np.uint8)
    strengths = training.noisy(grey, np.random.default_rng(0)).std(axis=(1, 2, 3))
    assert strengths.max() == pytest.approx(training.NOISE, rel=0.1)
    assert np.median(strengths) == pytest.approx(training.NOISE / 2, rel=0.2)
    assert strengths.min() < 1
    black = training.noisy(np.zeros_like(grey), np.random.default_rng(0))
    assert black.max() < 6 * training.NOISE  # no pixel wrapped around to 255


def write_prepared(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write the outs of `prepare`, as far as the stage `features` reads them."""
    folder.mkdir()
    np.save(folder / "images.npy", images)
    split = np.where(np.arange(len(images)) < len(TRAIN), "train", "test")
    known = pd.array(labels, dtype="Int64")
    known[::50] = pd.NA  # some images have no label
    pd.DataFrame({"split": split, "label": known}).to_parquet(folder / "index.parquet")
    disk.write_json(folder / "profile.json", {"class_names": NAMES, "fingerprint": "0"})


def test_the_features_stage_writes_equal_bytes_with_one_and_four_threads(
    digits: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    write_prepared(tmp_path / "prepared", digits, labels)
    for name, threads in (("first", "1"), ("second", "4")):
        done = subprocess.run(
            [sys.executable, "-m", "latentworks.stages", "features", "prepared", name],
            cwd=tmp_path,
            env=environment(PYTHONPATH=str(ROOT / "src"), OMP_NUM_THREADS=threads),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    first, second = (tmp_path / name for name in ("first", "second"))
    assert sorted(os.listdir(first)) == ["features.json", "weights.npz"]
    for name in os.listdir(first):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    made = read_features(first)
    assert (made.kind, made.class_names) == ("trained", NAMES)
    assert made.accuracy is not None
    assert made.accuracy > 0.9  # 0.1 is chance
    assert f"features: trained network, 10 classes, accuracy {made.accuracy:.4f}\n" in done.stdout
    model = classifier.load((8, 8, 1), made.weights)
    _, seen = classifier.see(model, classifier.batches(digits, TEST))
    known = np.arange(1797)[TEST] % 50 > 0
    assert (seen == labels[TEST])[known].mean() == pytest.approx(made.accuracy)
