"""Train the feature network that ships with the package, and write it into the package.

Uses the training images of Fashion-MNIST that `prepare` writes to data/prepared. One kind of
processor gives equal bytes. Prints the SHA-256 that `features/shipped.py` expects, the accuracy on
the test images, and the Fréchet distances that noise and blur on these images cause, as multiples
of the floor. A new feature network changes every Fréchet distance of grey images.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from latentworks import metrics
from latentworks.artifacts.images import read_prepared
from latentworks.engine.backend import configure
from latentworks.evaluation.features import classifier, shipped, training
from latentworks.system import disk

FINGERPRINT = "8375f22b79fc8e47110b47e3a0c10faa771001d785e0e199a8700f39ae6bc0d4"
NUM_SEEN = 720_000  # images in all epochs
NOISES = (3, 6, 12)  # standard deviations, in grey values
BLURS = (0.4, 0.5, 0.7)  # of a Gaussian, in pixels


def main(prepared: Path) -> int:
    data = read_prepared(prepared)
    if data.profile["fingerprint"] != FINGERPRINT:
        raise SystemExit(
            f"Cannot train: {prepared} differs from the data of the committed params.yaml. "
            "Restore params.yaml and run `dvc repro prepare`."
        )
    rows, names = data.rows("train"), data.class_names
    labels = data.labels(rows)
    assert labels is not None
    configure(training.SEED, training.NUM_THREADS)
    model = training.fit(data.images, rows, labels, len(names), num_seen=NUM_SEEN, flip=True)
    halves = {path: each.astype(np.float16) for path, each in classifier.weights(model).items()}
    arrays = {**halves, shipped.CLASS_NAMES: np.array(names)}
    with disk.replacing(shipped.FILE) as temporary:
        disk.write_arrays(temporary, arrays)

    classifier.fill(model, halves)  # measure with the rounded weights that are shipped
    test = data.rows("test")
    images = data.images[test]
    real, seen = see(model, images)
    assert seen is not None
    print(f"SHA-256 {disk.file_digest(shipped.FILE)}")
    print(f"accuracy on {len(test)} test images {(seen == data.labels(test)).mean():.4f}")
    training_images = data.images[metrics.subset(rows, len(test))]
    floor = metrics.frechet_distance(see(model, training_images)[0], real)
    rng = np.random.default_rng(0)
    changed = {
        **{f"noise of {level} grey values": noisy(images, level, rng) for level in NOISES},
        **{f"blur of {pixels} pixels": blurred(images, pixels) for pixels in BLURS},
    }
    for name, others in changed.items():
        distance = metrics.frechet_distance(see(model, others)[0], real)
        print(f"{name}: {distance / floor:.1f} times the floor of {floor:.3f}")
    return 0


def see(model: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    return classifier.see(model, classifier.batches(images, np.arange(len(images))))


def noisy(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    noise = level * rng.standard_normal(images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


def blurred(images: np.ndarray, pixels: float) -> np.ndarray:
    sides = (0, pixels, pixels, 0)
    smooth = ndimage.gaussian_filter(images.astype(np.float32), sides)
    return np.asarray(smooth.round(), np.uint8)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "data/prepared")))
