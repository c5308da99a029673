"""A second network, whose weights a package ships, ranks images as people would."""

from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image, ImageOps
from scipy import ndimage
from sklearn.datasets import load_digits

import efficientnet
import second_opinion
from checkouts import Checkout
from latentworks import metrics
from latentworks.engine.backend import keras
from latentworks.system import disk

# Photographs with their classes in ImageNet: a cat, an espresso and a missile.
PICTURES = {"chelsea.png": 285, "coffee.png": 967, "rocket.jpg": 657}


@pytest.fixture(scope="module")
def values() -> efficientnet.Values:
    return efficientnet.read(efficientnet.find())


@pytest.fixture(scope="module")
def network(values: efficientnet.Values) -> keras.Model:
    """The network for grey images of 32 x 32 pixels."""
    return efficientnet.build(values, (32, 32, 1))


def picture(name: str) -> np.ndarray:
    """The middle of a photograph that comes with scikit-image: uint8 [224, 224, 3]."""
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (224, 224), Image.Resampling.BICUBIC))


def test_the_network_names_what_photographs_show(values: efficientnet.Values) -> None:
    """A wrong weight, padding or scale would show here."""
    model = efficientnet.build(values, (224, 224, 3), "logits")
    logits = model.predict_on_batch(np.stack([picture(name) for name in PICTURES]))
    assert logits.argmax(axis=1).tolist() == [*PICTURES.values()]


def test_a_grey_image_has_the_features_of_the_same_image_in_colour(
    values: efficientnet.Values, network: keras.Model
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1), dtype=np.uint8)
    colour = efficientnet.build(values, (32, 32, 3))
    seen = network.predict_on_batch(images), colour.predict_on_batch(images.repeat(3, axis=3))
    np.testing.assert_array_equal(*seen)


def test_a_floor_is_the_least_distance_and_more_blur_a_larger_one(network: keras.Model) -> None:
    large = ndimage.zoom(load_digits().images / 16, (1, 4, 4), order=1)
    digits = (large.clip(0, 1) * 255).astype(np.uint8)[..., None]
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits))
    first, second = digits[order[:300]], digits[order[300:600]]
    real, _ = efficientnet.see(network, [first])

    def distance(images: np.ndarray) -> float:
        return metrics.frechet_distance(efficientnet.see(network, [images])[0], real)

    floor, *blurred = (
        distance(ndimage.gaussian_filter(second, (0, pixels, pixels, 0))) for pixels in (0, 1, 2, 4)
    )
    assert floor < blurred[0] < blurred[1] < blurred[2]
    assert blurred[1] > 2 * floor
    strong, invisible = (
        distance((second + noise).round().clip(0, 255).astype(np.uint8))
        for noise in (level * rng.standard_normal(second.shape) for level in (50, 3))
    )
    assert strong > 2 * floor
    assert invisible < blurred[0]


def test_a_result_has_the_scores_of_two_networks(
    finished: Checkout, values: efficientnet.Values
) -> None:
    second = second_opinion.second_opinion(finished.path, values)
    own = disk.read_json(finished.path / second_opinion.METRICS)["samples"]
    assert set(second_opinion.SHOWN) <= set(second) <= set(own)
    for scores in (second, own):  # the model of the test was hardly trained
        assert scores["frechet_floor"] < scores["frechet_blur"]
    columns = second_opinion.HEADER.splitlines()[0].count("|")
    assert second_opinion.row(finished.path, "second", second).count("|") == columns


def test_a_changed_file_of_weights_is_refused(tmp_path: Path) -> None:
    """It is refused before anything of it is unpickled."""
    content = bytearray(efficientnet.find().read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(SystemExit, match=f"expected SHA-256 {efficientnet.SHA256}"):
        efficientnet.read(tmp_path / "weights.pth")
