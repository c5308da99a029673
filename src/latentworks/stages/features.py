"""Make the feature network, in whose features samples are compared with real images."""

from pathlib import Path

from latentworks.artifacts.features import Features, write_features
from latentworks.artifacts.images import Prepared, read_prepared
from latentworks.engine import backend
from latentworks.evaluation.features import choice, classifier, training
from latentworks.repository import timings
from latentworks.system import disk

MAX_TEST = 10_000


def main(prepared: Path, features: Path) -> None:
    data = read_prepared(prepared)
    rows = data.rows("train")
    labels = data.labels(rows)

    backend.configure(training.SEED, training.NUM_THREADS)
    kind = choice.choose(data.image_shape, labels)
    if kind == "trained":
        print(
            "features: trains a classifier of these images, in whose features samples are compared "
            "later. The epochs below are its own, not those of your model."
        )
    network = choice.make(data.images, rows, labels, data.class_names)
    names = data.class_names if choice.has_classes(labels) else []
    accuracy = _accuracy(network, data) if names else None

    made = Features(kind, names, accuracy, classifier.weights(network))
    with disk.replacing(features) as folder:
        folder.mkdir()
        write_features(folder, made)
    classes = "no classes" if accuracy is None else f"{len(names)} classes, accuracy {accuracy:.4f}"
    print(f"features: {kind} network, {classes}")
    timings.write("features", data.profile["fingerprint"])


def _accuracy(network: object, data: Prepared) -> float | None:
    """Return the accuracy on labelled test images; None if none has a label."""
    rows = data.rows("test")
    labels = data.labels(rows)
    assert labels is not None
    rows, labels = rows[labels >= 0], labels[labels >= 0]
    chosen = training.some(len(rows), MAX_TEST)
    if not len(chosen):
        return None
    _, predicted = classifier.see(network, classifier.batches(data.images, rows[chosen]))
    return float((predicted == labels[chosen]).mean())
