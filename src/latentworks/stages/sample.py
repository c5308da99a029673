"""Fit a sampler to the latents, draw points from it and decode them to new images."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentworks import preprocess
from latentworks.artifacts.images import ImageWriter
from latentworks.artifacts.latents import read_latents
from latentworks.artifacts.model import read_model
from latentworks.artifacts.prior import read_prior
from latentworks.artifacts.samples import write_sample_latents, write_sampler
from latentworks.config import Config, Seed
from latentworks.engine import inference
from latentworks.models.config import ModelConfig
from latentworks.params import load
from latentworks.repository.result import Result
from latentworks.samplers.config import LearnedConfig, SampleConfig
from latentworks.samplers.drawing import Sampler, class_shares, draw
from latentworks.system import disk
from latentworks.tracking import outbox

MAX_LATENTS = 200_000  # to which a sampler is fitted; bounds the memory


class Params(Config):
    seed: Seed
    sample: SampleConfig


def main(model: Path, latents: Path, prior: Path, sampler: Path, samples: Path) -> None:
    inference.configure()
    params = load(Params)
    network = read_model(model, ModelConfig)
    train = read_latents(latents, "train", MAX_LATENTS)
    num_images, config = params.sample.num_images, params.sample.sampler

    is_learned = isinstance(config, LearnedConfig)
    if is_learned and (arrays := read_prior(prior)):
        fitted: Sampler = config.load(arrays)
    else:
        fitted = config.fit(train.z, train.labels, params.seed)
    conditional = network.num_classes > 0
    shares = class_shares(fitted, conditional, train.labels, network.num_classes)
    points, labels = draw(fitted, num_images, np.random.default_rng(params.seed), shares)

    with disk.replacing(sampler) as folder:
        folder.mkdir()
        write_sampler(folder, fitted, config)
    with disk.replacing(samples) as folder:
        folder.mkdir()
        write_sample_latents(folder, points, labels)
        with (
            ImageWriter(folder / "images.npy", network.image_shape) as writer,
            tqdm(total=num_images, unit=" images", desc="sample", disable=None) as bar,
        ):
            for images in inference.decode(network, points, labels):
                writer.append(preprocess.to_pixels(images))
                bar.update(len(images))
    origin = ", from the stage prior" if is_learned else f" fitted to {len(train.z)} latents"
    print(f"sample: {config.kind}{origin}; {num_images} images decoded")

    outbox.log("sample", Result.of(model, latents, prior, sampler, samples))
