"""Train the network that ships with the package, and write it to where it is read from.

From the training images of Fashion-MNIST, as `prepare` leaves them in data/prepared; equal on one
kind of processor. Prints the SHA-256 that `features/shipped.py` expects, and the accuracy on the
test images. Every Fréchet distance of grey images changes with it.
"""

import sys
from pathlib import Path

import numpy as np

from latentworks import artifacts, disk
from latentworks.backend import configure
from latentworks.features import classifier, shipped, training

NUM_SEEN = 720_000  # images in all epochs
BATCH_SIZE = 500


def main(prepared: Path) -> int:
    data = artifacts.read_prepared(prepared)
    rows, names = data.rows("train"), data.class_names
    labels = data.labels(rows)
    assert labels is not None
    configure(training.SEED, training.NUM_THREADS)
    model = training.fit(data.images, rows, labels, len(names), num_seen=NUM_SEEN, flip=True)
    halves = {path: each.astype(np.float16) for path, each in classifier.weights(model).items()}
    arrays = {**halves, shipped.CLASS_NAMES: np.array(names)}
    with disk.replacing(shipped.FILE) as temporary:
        disk.write_arrays(temporary, arrays)

    classifier.fill(model, halves)  # it is these that are measured
    rows = data.rows("test")
    seen = model.predict(data.images[rows], BATCH_SIZE, verbose=0)[classifier.HEAD].argmax(axis=1)
    print(f"SHA-256 {disk.file_digest(shipped.FILE)}")
    print(f"accuracy on {len(rows)} test images {(seen == data.labels(rows)).mean():.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "data/prepared")))
