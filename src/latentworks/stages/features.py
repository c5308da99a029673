"""Make the network in whose features samples are compared with real images."""

from pathlib import Path

from latentworks import artifacts, backend, disk, records
from latentworks.features import choice, classifier, training
from latentworks.stages import run

MAX_TEST = 10_000


def main(prepared: Path, features: Path) -> None:
    data = artifacts.read_prepared(prepared)
    rows = data.rows("train")
    labels = data.labels(rows)

    backend.configure(training.SEED, training.NUM_THREADS)
    kind = choice.choose(data.image_shape, labels)
    network = choice.make(data.images, rows, labels, data.class_names)
    names = data.class_names if choice.has_classes(labels) else []
    accuracy = _accuracy(network, data) if names else None

    made = artifacts.Features(kind, names, accuracy, classifier.weights(network))
    with disk.replacing(features) as folder:
        folder.mkdir()
        artifacts.write_features(folder, made)
    told = "no classes" if accuracy is None else f"{len(names)} classes, accuracy {accuracy:.4f}"
    print(f"features: {kind} network, {told}")
    records.write("features", data.profile["fingerprint"])


def _accuracy(network: object, data: artifacts.Prepared) -> float | None:
    """The share of labelled test images whose class it tells; None where none has a label."""
    rows = data.rows("test")
    labels = data.labels(rows)
    assert labels is not None
    rows, labels = rows[labels >= 0], labels[labels >= 0]
    chosen = training.some(len(rows), MAX_TEST)
    if not len(chosen):
        return None
    _, seen = classifier.see(network, classifier.batches(data.images, rows[chosen]))
    return float((seen == labels[chosen]).mean())


if __name__ == "__main__":
    run(main)
