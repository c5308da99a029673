"""Train the model; continue an interrupted training from its checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np

from latentworks import plots
from latentworks.artifacts.curves import write_curves
from latentworks.artifacts.images import Prepared, read_prepared
from latentworks.artifacts.model import write_model
from latentworks.config import Config, Seed
from latentworks.engine import backend, refinement, training
from latentworks.engine.batches import Batches
from latentworks.engine.checkpoint import Checkpoint, Epoch
from latentworks.models.config import ModelConfig, TrainConfig
from latentworks.params import load
from latentworks.repository import dag
from latentworks.repository.result import Result
from latentworks.system import disk
from latentworks.system.state import STATE
from latentworks.tracking import outbox

NUM_WATCHED = 10  # images whose reconstruction is shown after every epoch


class Params(Config):
    seed: Seed
    model: ModelConfig
    train: TrainConfig


def main(prepared: Path, model: Path) -> None:
    params = load(Params)
    data = read_prepared(prepared)
    train, val = data.rows("train"), data.rows("val")
    test = data.rows("test")[:NUM_WATCHED]
    watched = data.images[test], data.labels(test)

    backend.configure(params.seed, params.train.num_threads)
    # The weights are drawn from Python's global random state, before any thread draws from it.
    known = data.labels(train)
    num_classes = len(data.class_names) if known is not None and (known >= 0).any() else 0
    network = params.model.build(data.image_shape, num_classes)
    labels = data.labels(np.arange(len(data.images))) if network.num_classes else None
    size = params.train.batch_size
    batches = Batches(data.images, train, size, params.seed, labels)
    validation = Batches(data.images, val, size, labels=labels) if len(val) else None
    # The first phase does not depend on the params of the second, and is kept when they change.
    # More epochs may go on from it, which `fit` decides.
    made_from = params.model_dump(mode="json")
    whole = _fingerprint(made_from, data)
    for name in ("refine", "epochs"):
        made_from["train"].pop(name)
    checkpoint = Checkpoint(STATE / "checkpoint.npz", _fingerprint(made_from, data))
    second = Checkpoint(STATE / "refinement.npz", whole)
    second.forget_finished(dag.locked_md5(Path(), model), checkpoint)

    with outbox.live_run(whole, Result.of(prepared)) as live:

        def report(epoch: Epoch) -> None:
            images, classes = watched
            reconstructions = network.decode(network.encode(images, classes), classes)
            pairs = np.concatenate([images / 255.0, reconstructions])
            live.log_epoch(epoch, plots.tile(pairs, NUM_WATCHED))

        progress = training.fit(network, batches, validation, params.train, checkpoint, report)
        rounds: list[Epoch] = []
        if params.train.refine is not None:
            num_epochs, refine = len(progress.epochs), params.train.refine
            rounds = refinement.refine(
                network, batches, validation, refine, num_epochs, second, report
            )
        with disk.replacing(model) as folder:
            folder.mkdir()
            write_model(folder, network, params.model)
            write_curves(folder / "curves.csv", [*progress.epochs, *rounds])
        second.became(dag.md5_of(model))
        live.finish(model)

    best = rounds[-1] if rounds else progress.epochs[progress.best_epoch]
    score = "val_loss" if "val_loss" in best else "loss"
    phases = f"{len(progress.epochs)} epochs" + (f" and {len(rounds)} rounds" if rounds else "")
    print(
        f"train: {len(train)} images, {phases}; "
        f"{score} {best[score]:.4f} after epoch {best['epoch']:.0f}"
    )


def _fingerprint(made_from: dict[str, Any], data: Prepared) -> str:
    stage = disk.file_digest(Path(__file__))
    return training.fingerprint(made_from, data.profile["fingerprint"], stage)
