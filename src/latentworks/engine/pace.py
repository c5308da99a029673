"""Time of a training on this machine, estimated from a few of its steps."""

import time

import numpy as np

from latentworks.engine.backend import configure, keras
from latentworks.models.config import ModelConfig, TrainConfig

WARMING, MEASURED = 3, 5  # steps; the first ones trace the graph
REFINEMENT = 5  # steps of the first phase, that a step of the second takes as long as


def seconds_per_step(
    model: ModelConfig, image_shape: tuple[int, int, int], batch_size: int, num_classes: int = 0
) -> float:
    """The median time of training steps on noise, uint8 [B, H, W, C]."""
    network = model.build(image_shape, num_classes)
    network.compile(optimizer=keras.optimizers.Adam())
    images = np.random.default_rng(0).integers(0, 256, (batch_size, *image_shape), dtype=np.uint8)
    seconds = []
    for _ in range(WARMING + MEASURED):
        start = time.perf_counter()
        network.train_on_batch(images)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[WARMING:]))


def training_seconds(
    model: ModelConfig, train: TrainConfig, image_shape: tuple[int, int, int], num_images: int
) -> float:
    """The time of both phases of a training of `num_images` images, if it does not stop early.

    Call this once in a process, before the first tensor is created.
    """
    configure(0, train.num_threads)
    size = min(train.batch_size, num_images)
    num_steps = train.epochs * -(-num_images // size)
    if train.refine is not None:
        num_steps += REFINEMENT * train.refine.steps
    return num_steps * seconds_per_step(model, image_shape, size)
