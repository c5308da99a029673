"""The pictures and the atlas of a result: the choice of images, latents and samples in them."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from latentworks import metrics, plots
from latentworks.artifacts.images import Prepared
from latentworks.artifacts.latents import Latents
from latentworks.artifacts.samples import Samples
from latentworks.engine import inference
from latentworks.models.network import Network
from latentworks.plots.tiles import Decode

NUM_PER_CLASS = 8  # test images that are shown with their reconstructions
MAX_SHOWN = 10 * NUM_PER_CLASS
NUM_LINES, NUM_STEPS = 8, 10  # of interpolation
NUM_LOOKED_UP = 20  # samples whose nearest training images are shown
NUM_NEAREST = 3  # nearest training images of each of these samples
NUM_COMPARED = 100  # test images whose distances to training images are the comparison
MAX_POINTS = 10_000  # of the atlas
MAX_POINT_BYTES = 2**29  # of the images of all points, which limits the number of large images


def of_data(network: Network, data: Prepared) -> dict[str, Figure]:
    """Draw the profile of the data, reconstructions of test images, and interpolations."""
    shown = _some_of_each_class(data, data.rows("test"))
    originals, labels = data.images[shown], data.labels(shown)
    z = _encoded(network, data, shown)
    unlabelled = np.concatenate([*inference.encode(network, data.images, shown)])
    starts, ends = _pairs(len(shown))
    return {
        "data": plots.data_profile(data.images, data.index, data.profile),
        "reconstructions": plots.reconstructions(originals, _decoder(network, labels)(z)),
        "interpolations": plots.interpolations(
            _decoder(network),
            unlabelled[starts],
            unlabelled[ends],
            originals[starts],
            originals[ends],
            NUM_STEPS,
            " No class is told." if network.num_classes else "",  # the ends differ in class
        ),
    }


def of_latents(network: Network, train: Latents, names: list[str]) -> dict[str, Figure]:
    """Draw the latents of training images, a grid of decoded points, and latent traversals."""
    label = _typical_label(train) if network.num_classes else -1
    class_name = names[label] if label >= 0 else None
    decode = _decoder(network, np.array(label))
    return {
        "latent_scatter": plots.latent_scatter(train.z, train.labels, names),
        "latent_grid": plots.latent_grid(
            decode, train.z, train.labels, names, class_name=class_name
        ),
        "traversals": plots.traversals(decode, train.z, class_name),
    }


def _typical_label(train: Latents) -> int:
    """Return the class of the image whose latents `traversals` moves; -1 if it has none."""
    return -1 if train.labels is None else int(train.labels[plots.typical(train.z)])


def of_samples(data: Prepared, drawn: Samples) -> dict[str, Figure]:
    """Draw the first samples, also of each class, and the training images nearest to samples."""
    train, test = data.rows("train"), metrics.subset(data.rows("test"), NUM_COMPARED)
    shown = drawn.images[:NUM_LOOKED_UP]
    found, distances = metrics.nearest_images(shown, data.images, train, NUM_NEAREST)
    _, typical = metrics.nearest_images(data.images[test], data.images, train, 1)
    pictures = {
        "samples": plots.samples(drawn.images, "Samples: latents drawn at random, decoded"),
        "nearest_neighbours": plots.nearest_neighbours(
            shown, data.images[found], distances, float(np.median(typical))
        ),
    }
    if drawn.labels is not None:
        pictures["class_samples"] = plots.class_samples(
            drawn.images, drawn.labels, data.class_names
        )
    return pictures


def atlas(network: Network, data: Prepared, mse: float) -> str:
    """Make the atlas page: test images at their positions in latent space, and the decoder."""
    num = min(MAX_POINTS, max(1, MAX_POINT_BYTES // data.images[0].size))
    rows = metrics.subset(data.rows("test"), num)
    labels = data.labels(rows)
    pairs = inference.reconstruct(network, data.images, rows, labels)
    errors = [metrics.mean_squared_error(x / 255, again) for x, again in pairs]
    facts = {
        "images": f"{len(rows):,} test images",
        "reconstruction": f"mean squared error {mse:.4f}",
    }
    return plots.atlas(
        _program(network.decoder),
        _encoded(network, data, rows),
        data.images[rows],
        np.concatenate(errors),
        labels,
        data.class_names,
        "Latent atlas",
        facts,
    )


def _encoded(network: Network, data: Prepared, rows: np.ndarray) -> np.ndarray:
    """Encode `data.images[rows]` to latents float32 [n, D]."""
    return np.concatenate([*inference.encode(network, data.images, rows, data.labels(rows))])


def _decoder(network: Network, labels: np.ndarray | None = None) -> Decode:
    """Make a function that decodes latents float32 [M, D] to images.

    `labels`, for a conditional model, are int64 [M], or one label for all, int64 [].
    """

    def decode(latents: np.ndarray) -> np.ndarray:
        each = None if labels is None else np.broadcast_to(labels, len(latents))
        return np.concatenate([*inference.decode(network, latents, each)])

    return decode


def _program(decoder: Any) -> plots.DecoderProgram | None:
    """Return the decoder as a program for the atlas page; None if the page cannot run it."""
    try:
        return plots.DecoderProgram.of(decoder)
    except plots.UnknownLayer as fault:
        print(f"The atlas page has no decoder: {fault}")
        return None


def _some_of_each_class(data: Prepared, rows: np.ndarray) -> np.ndarray:
    """Choose the first rows of each class, in turn; without labels, the first rows."""
    labels = data.labels(rows)
    if labels is None or not (labels >= 0).any():
        return rows[:MAX_SHOWN]
    known = np.unique(labels[labels >= 0])
    chosen = [rows[labels == label][:NUM_PER_CLASS] for label in known]
    turns = [part[turn] for turn in range(NUM_PER_CLASS) for part in chosen if turn < len(part)]
    return np.array(turns[:MAX_SHOWN])


def _pairs(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where lines start and end: each line goes from an image to the next one.

    `_some_of_each_class` puts images of different classes next to each other.
    """
    starts = np.arange(max(1, min(NUM_LINES, num - 1)))
    return starts, (starts + 1) % num
