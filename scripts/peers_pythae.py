"""The peer's side of `make peers`: train a model of pythae, and draw images from it.

`scripts/peers.py` starts this program in an environment of its own, with torch and pythae, and
without this project. Images come and go as `.npy` files, uint8 [N, H, W, C].

`train FOLDER` writes into FOLDER: `samples-NAME.npy` for each sampler of pythae that fits the
model, `reconstructions.npy` of the test images, `latents.npy` of the training images, float32
[N, D], if they are vectors, `weights.pt`, and last `took.json`. `decode FOLDER` decodes
`drawn.npy`, float32 [N, D], to `samples-class_mixture.npy`.
"""

import argparse
import contextlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae import models, samplers
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig, CoupledOptimizerTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

KINDS = {
    "VAE": (models.VAE, models.VAEConfig),
    "RAE_L2": (models.RAE_L2, models.RAE_L2_Config),
    "WAE_MMD": (models.WAE_MMD, models.WAE_MMD_Config),
    "VQVAE": (models.VQVAE, models.VQVAEConfig),
}
LATENT_DIM = 64  # for VQVAE, the numbers of each code
VAE_DIM = 16
FILTERS = (64, 128, 256)
GRID_FILTERS = (32, 64)  # of VQVAE, whose codes lie on a grid
BATCH_SIZE = 500  # of inference
NO_END = 1_000_000  # epochs; the clock ends the training
PIXELCNN_SHARE = 0.25  # of the time of the model, in addition, for the network over its codes

# The settings of the training example in pythae's README.
LOADING = {
    "per_device_train_batch_size": 200,
    "per_device_eval_batch_size": 200,
    "train_dataloader_num_workers": 2,
    "eval_dataloader_num_workers": 2,
}
OPTIMIZER = {
    "learning_rate": 1e-3,
    "optimizer_cls": "AdamW",
    "optimizer_params": {"weight_decay": 0.05, "betas": (0.91, 0.995)},
    "scheduler_cls": "ReduceLROnPlateau",
    "scheduler_params": {"patience": 5, "factor": 0.5},
}


# --- the project's architecture `fast`, in torch -------------------------------------------------


class Encoder(BaseEncoder):
    """Convolutions with a head for each output: `embedding`, and `log_covariance` of a VAE."""

    def __init__(self, body: nn.Module, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.body, self.heads = body, nn.ModuleDict(heads)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> ModelOutput:  # [B, C, H, W]
        x = self.body(x)
        return ModelOutput(**{name: head(x) for name, head in self.heads.items()})


class Decoder(BaseDecoder):
    """Latents [B, D], or a grid [B, D, h, w], to images [B, C, H, W] in [0, 1]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.apply(_initialise)

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.body(z))


class Residual(nn.Module):
    """x + f(x), where f is two convolutions and starts as 0."""

    def __init__(self, num_filters: int) -> None:
        super().__init__()
        self.first = conv(num_filters, num_filters, 3, 1)
        self.second = conv(num_filters, num_filters, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


def nets(kind: str, image_shape: tuple[int, int, int]) -> tuple[Encoder, Decoder]:
    """Build the port of `fast` for images [C, H, W], with a grid of codes for VQVAE."""
    channels, height, width = image_shape
    if kind == "VQVAE":
        top = GRID_FILTERS[-1]
        body = nn.Sequential(*_strided(channels, GRID_FILTERS), Residual(top))
        grid = [conv(LATENT_DIM, top, 3, 1), nn.ReLU(), Residual(top)]
        return (
            Encoder(body, {"embedding": conv(top, LATENT_DIM, 1, 1)}),
            Decoder(nn.Sequential(*grid, *_pixels(channels, GRID_FILTERS))),
        )
    smallest = (FILTERS[-1], height // 2 ** len(FILTERS), width // 2 ** len(FILTERS))
    size, dim = int(np.prod(smallest)), latent_dim(kind)
    heads = ("embedding", "log_covariance") if kind == "VAE" else ("embedding",)
    dense = [nn.Linear(dim, size), nn.Unflatten(1, smallest)]
    return (
        Encoder(
            nn.Sequential(*_strided(channels, FILTERS), nn.Flatten()),
            {name: nn.Linear(size, dim) for name in heads},
        ),
        Decoder(nn.Sequential(*dense, *_pixels(channels, FILTERS))),
    )


def latent_dim(kind: str) -> int:
    return VAE_DIM if kind == "VAE" else LATENT_DIM


def _strided(channels: int, filters: tuple[int, ...]) -> Iterator[nn.Module]:
    for number, (before, after) in enumerate(itertools.pairwise((channels, *filters))):
        yield conv(before, after, 2 if number else 3, 2)
        yield nn.ReLU()


def _pixels(channels: int, filters: tuple[int, ...]) -> Iterator[nn.Module]:
    downwards = filters[::-1]
    for before, after in itertools.pairwise(downwards):
        yield transposed(before, after, 3, 2)
        yield nn.ReLU()
    yield transposed(filters[0], channels, 4, 2)
    yield nn.Sigmoid()


def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """A convolution with sides as Keras's padding `same` gives them.

    An odd row or column of padding is at the start, and at the end in Keras. So nets are mirror
    images of ours, which torch computes a third faster than nets with padding at the end.
    """
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2)


def transposed(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """A transposed convolution with sides as Keras's padding `same` gives them."""
    odd = (kernel - stride) % 2
    padding = (kernel - stride + odd) // 2
    return nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, output_padding=odd)


def _initialise(layer: nn.Module) -> None:
    """Draw weights as Keras does. A residual block starts as 0."""
    if isinstance(layer, Residual):
        nn.init.zeros_(layer.second.weight)
    elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


# --- training and sampling, by pythae ------------------------------------------------------------


class TimeIsOver(Exception):
    """The training has used its time."""


class Clock(TrainingCallback):
    """Ends the training after the first epoch that ends later than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.end, self.num_epochs = time.monotonic() + seconds, 0

    def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
        self.num_epochs += 1
        if time.monotonic() > self.end:
            raise TimeIsOver


def build(kind: str, choice: str, image_shape: tuple[int, int, int]) -> Any:
    """Build a model for images [C, H, W], with its default nets or the port."""
    model, config = KINDS[kind]
    settings = config(input_dim=image_shape, latent_dim=latent_dim(kind))
    if choice == "default":
        return model(settings)
    encoder, decoder = nets(kind, image_shape)
    return model(settings, encoder=encoder, decoder=decoder)


def training_config(kind: str, folder: Path, seed: int, num_epochs: int) -> Any:
    common = {"output_dir": str(folder / "trainer"), "num_epochs": num_epochs, "seed": seed}
    if kind != "RAE_L2":
        return BaseTrainerConfig(**common, **LOADING, **OPTIMIZER)
    halves: dict[str, Any] = {  # RAE_L2 has an optimizer for each half, and its own weight decay
        f"{half}_{name}": dict(value) if isinstance(value, dict) else value
        for half in ("encoder", "decoder")
        for name, value in OPTIMIZER.items()
    }
    return CoupledOptimizerTrainerConfig(**common, **LOADING, **halves)


def fit(model: Any, config: Any, data: Tensor, validation: Tensor, seconds: float) -> Any:
    """Train for `seconds`, and finish the last epoch.

    Returns the model with the lowest validation loss, as pythae's trainer keeps it, the number of
    epochs, and the seconds used.
    """
    started, clock = time.monotonic(), Clock(seconds)
    pipeline = TrainingPipeline(model=model, training_config=config)
    with contextlib.suppress(TimeIsOver):
        pipeline(train_data=data, eval_data=validation, callbacks=[clock])
    return pipeline.trainer._best_model.eval(), clock.num_epochs, time.monotonic() - started


def fit_pixelcnn(
    sampler: Any, config: Callable[[int], Any], data: Tensor, validation: Tensor, seconds: float
) -> float:
    """Train a PixelCNN for about `seconds`; return the seconds used.

    Its sampler takes a number of epochs and no clock. One epoch tells the time that others need.
    """
    started = time.monotonic()
    sampler.fit(data, validation, config(1))
    an_epoch = time.monotonic() - started
    num_epochs = int((seconds - an_epoch) / an_epoch)
    if num_epochs > 0:
        sampler.fit(data, validation, config(num_epochs))
    return time.monotonic() - started


def read(path: Path) -> Tensor:
    """Read images uint8 [N, H, W, C] as float32 [N, C, H, W] in [0, 1]."""
    return torch.from_numpy(np.load(path).transpose(0, 3, 1, 2).astype(np.float32) / 255)


def write(path: Path, images: Tensor) -> None:
    """Write images [N, C, H, W] in [0, 1] as uint8 [N, H, W, C]."""
    pixels = np.rint(images.numpy().clip(0, 1) * 255).astype(np.uint8)
    np.save(path, pixels.transpose(0, 2, 3, 1))


def batched(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    return torch.cat([function(part) for part in rows.split(BATCH_SIZE)])


def train(arguments: argparse.Namespace) -> None:
    folder, kind = arguments.folder, arguments.kind
    data, validation, test = (
        read(arguments.images / f"{split}.npy") for split in ("train", "val", "test")
    )
    torch.manual_seed(arguments.seed)
    model = build(kind, arguments.nets, tuple(data.shape[1:]))
    num_parameters = sum(
        each.numel() for half in (model.encoder, model.decoder) for each in half.parameters()
    )

    def config(num_epochs: int) -> Any:
        return training_config(kind, folder, arguments.seed, num_epochs)

    model, num_epochs, used = fit(model, config(NO_END), data, validation, arguments.seconds)
    took: dict[str, Any] = {"seconds": used, "num_epochs": num_epochs}
    np.random.seed(arguments.seed)  # scikit-learn's, in pythae's mixture
    with torch.no_grad():
        write(folder / "reconstructions.npy", batched(model.reconstruct, test))
        latents = batched(model.embed, data)
    drawing: dict[str, Any] = {}
    faults: dict[str, str] = {}
    if kind == "VQVAE":
        drawing["pixelcnn"] = samplers.PixelCNNSampler(model)
        more = PIXELCNN_SHARE * arguments.seconds
        took["pixelcnn_seconds"] = fit_pixelcnn(drawing["pixelcnn"], config, data, validation, more)
    else:
        drawing["normal"] = samplers.NormalSampler(model)
    if latents.ndim == 2:
        np.save(folder / "latents.npy", latents.numpy())
        mixture = samplers.GaussianMixtureSampler(model)  # of 10, its default
        try:
            mixture.fit(data)
            drawing["mixture"] = mixture
        except ValueError as fault:  # scikit-learn's, if too few latents are distinct
            faults["mixture"] = str(fault)
    with torch.no_grad():
        for name, sampler in drawing.items():
            write(folder / f"samples-{name}.npy", sampler.sample(arguments.num_samples))
    torch.save(model.state_dict(), folder / "weights.pt")
    took |= {"num_parameters": num_parameters, "faults": faults}
    (folder / "took.json").write_text(json.dumps(took))


def decode(arguments: argparse.Namespace) -> None:
    folder = arguments.folder
    height, width, channels = np.load(folder / "reconstructions.npy", mmap_mode="r").shape[1:]
    model = build(arguments.kind, arguments.nets, (channels, height, width))
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    model.eval()
    drawn = torch.from_numpy(np.load(folder / "drawn.npy"))
    with torch.no_grad():
        images = batched(lambda z: model.decoder(z).reconstruction, drawn)
    write(folder / "samples-class_mixture.npy", images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("train", "decode"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--nets", choices=("default", "ours"), required=True)
    parser.add_argument("--images", type=Path, help="folder of train.npy, val.npy and test.npy")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--num-samples", type=int)
    arguments = parser.parse_args()
    logging.getLogger("pythae").setLevel(logging.WARNING)
    {"train": train, "decode": decode}[arguments.action](arguments)


if __name__ == "__main__":
    main()
