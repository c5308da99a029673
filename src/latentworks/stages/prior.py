"""Train the prior; continue an interrupted training from its checkpoint."""

from pathlib import Path

import numpy as np

from latentworks.artifacts.curves import write_curves
from latentworks.artifacts.latents import read_latents
from latentworks.artifacts.prior import write_prior
from latentworks.config import Config, Seed
from latentworks.params import load
from latentworks.priors.config import NoPriorConfig, PriorConfig, TrainedConfig
from latentworks.repository import dag
from latentworks.repository.result import Result
from latentworks.system import disk
from latentworks.system.state import STATE
from latentworks.tracking import outbox

MAX_LATENTS = 200_000  # to which a prior is fitted; bounds the memory


class Params(Config):
    seed: Seed
    prior: PriorConfig


def main(model: Path, latents: Path, prior: Path) -> None:
    params = load(Params)
    if not isinstance(params.prior, NoPriorConfig):
        _train(latents, prior, params, params.prior)
    else:
        with disk.replacing(prior) as folder:
            folder.mkdir()
            write_prior(folder, params.prior)
        print("prior: none; the stage sample fits its sampler to the latents")

    outbox.log("prior", Result.of(model, latents, prior))


def _train(latents: Path, prior: Path, params: Params, config: TrainedConfig) -> None:
    # Imported here: TensorFlow takes seconds, and most params need no network.
    from latentworks.engine import backend, training
    from latentworks.engine.batches import Batches
    from latentworks.engine.checkpoint import Checkpoint
    from latentworks.engine.onnx_file import write_onnx

    backend.configure(params.seed, config.num_threads)
    train, val = (read_latents(latents, split, MAX_LATENTS) for split in ("train", "val"))
    labels = np.full(len(train.z), -1) if train.labels is None else train.labels
    counts = np.bincount(labels[labels >= 0])
    network = config.build(train.z, train.levels, len(counts))
    size = config.batch_size
    seen = network.seen(train.z)
    batches = Batches(seen, np.arange(len(seen)), size, params.seed, labels)
    validation = None
    if len(val.z):
        known = np.full(len(val.z), -1) if val.labels is None else val.labels
        known = np.where(np.isin(known, np.flatnonzero(counts)), known, -1)
        validation = Batches(network.seen(val.z), np.arange(len(val.z)), size, labels=known)
    fingerprint = training.fingerprint(params.model_dump(mode="json"), disk.file_digest(latents))
    checkpoint = Checkpoint(STATE / "prior.npz", fingerprint)
    checkpoint.forget_finished(dag.locked_md5(Path(), prior))
    progress = training.fit(
        network, batches, validation, config, checkpoint, lambda _: None, "prior"
    )

    with disk.replacing(prior) as folder:
        folder.mkdir()
        write_onnx(folder / "graph.onnx", network.graph())
        arrays = {
            "graph": np.fromfile(folder / "graph.onnx", np.uint8),
            "shares": counts / max(1, counts.sum()),
            **network.arrays(),
        }
        (folder / "graph.onnx").unlink()  # prior.npz holds it
        write_prior(folder, config, arrays)
        write_curves(folder / "curves.csv", progress.epochs)
    checkpoint.became(dag.md5_of(prior))
    best = progress.epochs[progress.best_epoch]
    score = "val_loss" if "val_loss" in best else "loss"
    print(
        f"prior: {len(train.z)} latents, {len(progress.epochs)} epochs; "
        f"{score} {best[score]:.4f} after epoch {best['epoch']:.0f}"
    )
