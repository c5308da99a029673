"""The peer's environment, and calls of `scripts/peers_pythae.py` in it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentworks import params
from latentworks.models.architectures import build_decoder, build_encoder
from latentworks.system import disk, processes

PROGRAM = Path("scripts/peers_pythae.py")
HASHED, TORCH = Path("requirements/peers.txt"), Path("requirements/peers-torch.txt")


def environment(root: Path, folder: Path) -> Path:
    """Make the environment in `folder` once for each lock; return the path of its Python."""
    python, ready = folder / "bin/python", folder / ".ready"
    wanted = " ".join(disk.file_digest(root / lock) for lock in (HASHED, TORCH))
    if not ready.exists() or ready.read_text() != wanted:
        print("Installing pythae and torch into an environment of their own", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--require-hashes", "-r", root / HASHED], check=True)
        subprocess.run([*pip, "-r", root / TORCH], check=True)
        ready.write_text(wanted)
    return python


@dataclass(frozen=True)
class Program:
    """A model of the peer: its `kind` with its `nets`, in a folder of files."""

    python: Path
    root: Path
    kind: str
    nets: str
    folder: Path
    num_threads: int

    def train(self, images: Path, seed: int, seconds: float, num_samples: int) -> dict[str, Any]:
        """Train, and draw samples; return `took.json`: the seconds used, and faults of samplers.

        Raises SystemExit if the port of this project's nets has another number of parameters.
        """
        self._call(
            *("train", "--images", images, "--seed", seed),
            *("--seconds", seconds, "--num-samples", num_samples),
        )
        took: dict[str, Any] = disk.read_json(self.folder / "took.json")
        shape = np.load(self.folder / "reconstructions.npy", mmap_mode="r").shape[1:]
        if self.nets == "ours" and self.kind != "VQVAE":
            wanted = num_parameters(self.root, self.kind, shape)
            if took["num_parameters"] != wanted:
                raise SystemExit(
                    f"{PROGRAM} has another architecture than this project. Expected: {wanted} "
                    f"parameters. Received: {took['num_parameters']}. Port it again."
                )
        return took

    def decode(self) -> None:
        """Decode the latents in `drawn.npy`."""
        self._call("decode")

    def _call(self, action: str, *words: object) -> None:
        log = self.folder.parent / "log.txt"
        # -I: without PYTHONPATH, so that no package of this project's environment is found
        call = [self.python, "-I", self.root / PROGRAM, action, self.folder]
        call += ["--kind", self.kind, "--nets", self.nets, *words]
        with log.open("a") as file:
            done = subprocess.run(
                processes.tied([str(word) for word in call]),
                env={**os.environ, "OMP_NUM_THREADS": str(self.num_threads)},
                stdout=file,
                stderr=file,
            )
        if done.returncode:
            raise SystemExit(f"pythae's {self.kind} failed. See {log}.")


def num_parameters(root: Path, kind: str, image_shape: tuple[int, int, int]) -> int:
    """Count the parameters of this project's encoder and decoder for a model of the peer."""
    recipe = "vae-16d" if kind == "VAE" else "images-64d"
    model = params.read(root / "recipes" / f"{recipe}.yaml")["model"]
    heads = ("z_mean", "z_log_var") if kind == "VAE" else ("latents",)
    nets = model["architecture"], image_shape, tuple(model["filters"])
    encoder = build_encoder(*nets, dict.fromkeys(heads, model["latent_dim"]))
    decoder = build_decoder(*nets, model["latent_dim"])
    return int(encoder.count_params() + decoder.count_params())
