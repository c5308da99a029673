"""The choice of the feature network: shipped, trained on the images, or with random weights."""

from typing import Literal

import keras
import numpy as np

from latentworks.evaluation.features import classifier, head, shipped, training

Kind = Literal["shipped", "trained", "random"]

MAX_FITTED = 10_000  # images to which a head is fitted
NUM_RARE = 10  # images of each class that are always among them


def choose(image_shape: tuple[int, int, int], labels: np.ndarray | None) -> Kind:
    """Choose by the shape of the images and the labels of the training images, int64 [N]."""
    *sides, channels = image_shape
    if channels == 1 and all(side in shipped.SIDES for side in sides):
        return "shipped"
    return "trained" if has_classes(labels) else "random"


def has_classes(labels: np.ndarray | None) -> bool:
    """Return True if the labels have at least two classes; -1 means that an image has no label."""
    return labels is not None and len(np.unique(labels[labels >= 0])) > 1


def make(
    images: np.ndarray, rows: np.ndarray, labels: np.ndarray | None, class_names: list[str]
) -> keras.Model:
    """Make the feature network for training images, `images[rows]`, uint8 [n, H, W, C].

    The network has logits if the labels have at least two classes.
    """
    height, width, channels = images.shape[1:]
    kind = choose((height, width, channels), labels)
    if labels is None or not has_classes(labels):
        model = classifier.build((height, width, channels), 0)
        if kind == "shipped":
            classifier.fill(model, shipped.load()[0])
        return model
    known = labels >= 0
    rows, labels = rows[known], labels[known]
    if kind == "trained":
        return training.fit(images, rows, labels, len(class_names))
    return _with_head(images, rows, labels, class_names)


def _with_head(
    images: np.ndarray, rows: np.ndarray, labels: np.ndarray, class_names: list[str]
) -> keras.Model:
    """Load the shipped network with its own head, or fit a head if the classes are others."""
    values, names = shipped.load()
    model = classifier.load(images.shape[1:], values)
    if names == class_names:
        return model
    rare = [np.flatnonzero(labels == each)[:NUM_RARE] for each in np.unique(labels)]
    chosen = np.unique(np.concatenate([training.some(len(rows), MAX_FITTED), *rare]))
    features, _ = classifier.see(model, classifier.batches(images, rows[chosen]))
    kernel, bias = head.fit(features, labels[chosen], len(class_names))
    own = {f"{classifier.HEAD}/kernel": kernel, f"{classifier.HEAD}/bias": bias}
    return classifier.load(images.shape[1:], {**values, **own})
