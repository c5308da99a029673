"""Contents of the pictures of a result; test_plots.py tests their layout."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from families import NUM_CLASSES, OF_KIND
from latentworks import plots
from latentworks.artifacts.images import Prepared
from latentworks.artifacts.latents import Latents
from latentworks.evaluation import pictures

NAMES = ["dress", "sneaker", "bag"]


def shown(figure: Figure) -> np.ndarray:
    """The first picture in the figure: uint8 [h, w, C]."""
    (picture,) = [axes.get_images()[0] for axes in figure.axes if axes.get_images()][:1]
    return np.asarray(picture.get_array())


def labelled(labels: list[int]) -> Prepared:
    """Prepared images of these classes; -1 stands for an image without a class."""
    index = pd.DataFrame({"label": pd.Series(labels, dtype="Int64").where(np.array(labels) >= 0)})
    images = np.zeros((len(labels), 8, 8, 1), dtype=np.uint8)
    return Prepared(images, index, {"class_names": NAMES})


def test_pictures_of_a_conditional_model_use_the_typical_images_class() -> None:
    network = OF_KIND["conditional"].build((8, 8, 1), NUM_CLASSES)
    rng = np.random.default_rng(0)
    z = rng.standard_normal((50, 2)).astype(np.float32)
    labels = rng.integers(0, NUM_CLASSES, 50)
    label = int(labels[plots.typical(z)])
    figures = pictures.of_latents(network, Latents(np.empty(50, str), z, labels), NAMES)
    for told in range(-1, NUM_CLASSES):
        decode = pictures._decoder(network, np.array(told))
        expected = {
            "traversals": plots.traversals(decode, z),
            "latent_grid": plots.latent_grid(decode, z, labels, NAMES),
        }
        for name, figure in expected.items():
            assert np.array_equal(shown(figure), shown(figures[name])) == (told == label), name
    assert all(NAMES[label] in figures[name].texts[0].get_text() for name in expected)
    unlabelled = pictures.of_latents(network, Latents(np.empty(50, str), z, None), NAMES)
    assert "for" not in unlabelled["latent_grid"].texts[0].get_text().split()


@pytest.mark.parametrize(
    ("labels", "first"),
    [
        ([0] * 20 + [2] * 3 + [-1] * 5, [0, 20, 1, 21, 2, 22, 3, 4]),  # the rare class is included
        ([-1] * 12, [0, 1, 2, 3]),
        ([2], [0]),
    ],
)
def test_the_shown_images_cover_all_classes(labels: list[int], first: list[int]) -> None:
    found = pictures._some_of_each_class(labelled(labels), np.arange(len(labels)))
    assert found[: len(first)].tolist() == first
    assert len(found) <= pictures.MAX_SHOWN
