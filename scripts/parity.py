"""Compare the book's two models, with three seeds each, with public runs of its notebooks.

`seed`: the mean cross-entropy of the test images; three public runs print 0.2544 to 0.2555.
`vae-book`: the mean total loss, 500 times the cross-entropy plus the KL divergence; three public
runs print 134.6 to 135.5. The recipes have the bounds, under `goal`. Exits with 1 if a mean exceeds
its bound. `python scripts/parity.py vae-book` compares one model alone.
"""

import statistics
import sys
from typing import Any

from goals import goals
from latentworks.artifacts.images import read_prepared
from latentworks.artifacts.model import read_model
from latentworks.engine.batches import Batches
from latentworks.models.config import ModelConfig
from scratch import Scratch

SEEDS = (0, 1, 2)
BATCH_SIZE = 500
# The score of each recipe, and the factor from this project's loss to the book's. This project's
# loss is in nats per pixel and weighs the divergence; the book's VAE weighs the cross-entropy with
# 500 instead.
LOSSES = {"seed": ("test.bce", 1), "vae-book": ("parity.total_loss", 500)}


def test_loss(scratch: Scratch) -> float:
    """The training loss on the test images; a VAE decodes drawn latents, as in training."""
    model: Any = read_model(scratch.folder / "models/autoencoder", ModelConfig)
    data = read_prepared(scratch.folder / "data/prepared")
    model.compile()
    batches = Batches(data.images, data.rows("test"), BATCH_SIZE)
    return float(model.evaluate(batches, verbose=0, return_dict=True)["loss"])


def is_on_par(recipe: str) -> bool:
    """Print the score of each seed; return True if their mean keeps the recipe's bound."""
    name, weight = LOSSES[recipe]
    scratch = Scratch("parity")
    goal = goals(scratch.root / "recipes" / f"{recipe}.yaml")[name]
    print(f"{recipe}\n{'seed':>4}{name:>20}{'minutes':>9}", flush=True)
    scores: list[float] = []
    for seed in SEEDS:
        minutes = scratch.run(recipe, seed=seed, first="train" if scores else None, last="train")
        scores.append(weight * test_loss(scratch))
        print(f"{seed:>4}{scores[-1]:>20.4f}{minutes:>9.1f}", flush=True)
    mean = statistics.mean(scores)
    print(f"mean{mean:>20.4f}  expected {goal}", flush=True)
    return goal.reached(mean)


if __name__ == "__main__":
    results = [is_on_par(recipe) for recipe in sys.argv[1:] or LOSSES]
    sys.exit(0 if all(results) else 1)
