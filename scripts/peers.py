"""Compare this project with the library pythae at equal wall-clock, and write docs/peers.md.

Run `python scripts/peers.py` on an idle machine. Finished rows are kept in `.latentworks/peers`,
and a later call continues there. `--trial` takes a few minutes: each model of pythae trains for
ten seconds on few images, and the tables are printed.
"""

import argparse
import os
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from latentworks import metrics, params
from latentworks.artifacts.images import Prepared, read_prepared
from latentworks.artifacts.model import read_model
from latentworks.artifacts.samples import read_samples
from latentworks.engine import inference
from latentworks.errors import DataError
from latentworks.models.config import ModelConfig
from latentworks.preprocess import to_pixels
from latentworks.repository import dag
from latentworks.samplers.class_gaussian_mixture import ClassGaussianMixture
from latentworks.samplers.drawing import class_shares, draw
from latentworks.system import disk
from latentworks.system.state import STATE
from peers_program import Program, environment
from peers_scores import Scorer, judges
from peers_table import DOC, OURS, Row, tables, write_document
from scratch import SECONDS, Scratch

# Recipes, each with those that share its model and have another sampler.
RECIPES = {"images-64d": ("images-64d", "flow-64d"), "vae-16d": ("vae-16d",)}
MAIN = "images-64d"  # the peer gets the time and the mixtures of this recipe
KINDS = ("VAE", "RAE_L2", "WAE_MMD", "VQVAE")
NETS = {"default": "pythae's default", "ours": "`fast`, ported"}
CLASSES = "class_mixture"
SAMPLERS = {
    "normal": "normal",
    "mixture": "mixture of 10",
    CLASSES: "our mixtures of classes",
    "pixelcnn": "PixelCNN",
}


@dataclass(frozen=True)
class Extent:
    """The size of a comparison."""

    num_seeds: int
    num_images: int | None = None  # of training, for the peer; None: all
    num_samples: int = metrics.MAX_SEEN  # and of test images
    num_threads: int = 2  # of the peer; the recipes have as many


TRIAL = Extent(num_seeds=1, num_images=2_000, num_samples=500, num_threads=1)
TRIAL_MINUTES = 1 / 6


class Comparison:
    """The images, the judges, and the folder of the finished rows."""

    def __init__(self, folder: Path, scratch: Scratch, extent: Extent) -> None:
        self.folder, self.scratch, self.extent = folder, scratch, extent
        self.data: Prepared = read_prepared(scratch.folder / "data/prepared")
        train = self.data.rows("train")
        self.train = metrics.subset(train, extent.num_images or len(train))
        self.test = metrics.subset(self.data.rows("test"), extent.num_samples)
        seen_by = judges(scratch.folder / "models/features", self.data.image_shape)
        self.scorers = {
            name: Scorer(see, self.data, self.test, extent.num_samples)
            for name, see in seen_by.items()
        }
        self._write_images()

    def _write_images(self) -> None:
        """Write the images that the peer's program reads."""
        splits = {"train": self.train, "val": self.data.rows("val"), "test": self.test}
        with disk.replacing(self.folder / "images") as folder:
            folder.mkdir()
            for split, rows in splits.items():
                np.save(folder / f"{split}.npy", self.data.images[rows])

    def rows(self) -> list[Row]:
        """Read the finished rows."""
        files = sorted((self.folder / "rows").glob("*.json"))
        return [Row(**row) for file in files for row in disk.read_json(file)]

    def text(self) -> str:
        """Return the tables of the finished rows, and the machine."""
        return f"{tables(self.rows())}\n\nMeasured on {machine()}."

    def finish(self, name: str, measure: Callable[[], list[Row]]) -> None:
        """Measure rows and keep them, unless an earlier call did."""
        path = self.folder / "rows" / f"{name}.json"
        if not path.exists():
            print(f"{name} …", flush=True)
            disk.write_json(path, [asdict(row) for row in measure()])

    def score(self, samples: np.ndarray, reconstructions: np.ndarray) -> dict[str, Any]:
        return {name: each.score(samples, reconstructions) for name, each in self.scorers.items()}

    def ours(self, recipe: str, seed: int) -> list[Row]:
        """Train a recipe; draw with its sampler and with those that share its model."""
        disk.remove(self.scratch.folder / STATE)  # a checkpoint would shorten the training
        rows = []
        for name in RECIPES[recipe]:
            first = "train" if name == recipe else "prior"
            self.scratch.run(name, seed=seed, first=first, last="sample")
            rows.append(self.our_row(name, seed))
        return rows

    def our_row(self, recipe: str, seed: int) -> Row:
        """Score the model and the samples that the stages have left in the scratch folder."""
        folder, data = self.scratch.folder, self.data
        network: Any = read_model(folder / "models/autoencoder", ModelConfig)
        pairs = inference.reconstruct(network, data.images, self.test, data.labels(self.test))
        again = np.concatenate([to_pixels(images) for _, images in pairs])
        seconds = disk.read_json(folder / SECONDS)
        used = params.read(folder / params.PARAMS)
        return Row(
            OURS,
            f"recipe `{recipe}`",
            f"`{used['model']['architecture']}`",
            f"`{used['sample']['sampler']['kind']}`",
            seed,
            (seconds["train"] + seconds["prior"]) / 60,
            self.score(read_samples(folder / "data/samples").images, again),
        )

    def peer(self, python: Path, kind: str, nets: str, seed: int, minutes: float) -> list[Row]:
        """Train a model of pythae; draw with its samplers and with our mixtures of classes."""
        folder = self.folder / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        root, threads = self.scratch.root, self.extent.num_threads
        program = Program(python, root, kind, nets, folder, threads)
        images = self.folder / "images"
        took = program.train(images, seed, 60 * minutes, self.extent.num_samples)
        faults: dict[str, str] = took["faults"]
        if (folder / "latents.npy").exists():
            try:
                np.save(folder / "drawn.npy", self.drawn(np.load(folder / "latents.npy"), seed))
                program.decode()
            except DataError as fault:
                faults[CLASSES] = str(fault)
        again = np.load(folder / "reconstructions.npy")
        rows = []
        for name, sampler in SAMPLERS.items():
            file = folder / f"samples-{name}.npy"
            more = took.get("pixelcnn_seconds", 0) if name == "pixelcnn" else 0
            of_row = ("pythae", kind, NETS[nets], sampler, seed, (took["seconds"] + more) / 60)
            if file.exists():
                rows.append(Row(*of_row, self.score(np.load(file), again)))
            elif name in faults:
                rows.append(Row(*of_row, {}, faults[name]))
        shutil.rmtree(folder)
        return rows

    def drawn(self, latents: np.ndarray, seed: int) -> np.ndarray:
        """Fit mixtures to the latents of the training images; draw float32 [num_samples, D]."""
        labels = self.data.labels(self.train)
        recipe = params.read(self.scratch.root / "recipes" / f"{MAIN}.yaml")
        num = recipe["sample"]["sampler"]["num_components"]
        fitted = ClassGaussianMixture.fit(latents, labels, num, seed)
        shares = class_shares(fitted, False, labels, num_classes=0)
        return draw(fitted, self.extent.num_samples, np.random.default_rng(seed), shares)[0]

    def minutes(self, given: float | None) -> float:
        """The minutes of each model of the peer: `given`, or those of MAIN with its first seed.

        Raises SystemExit if rows were measured with others.
        """
        of_main = [row for row in self.rows() if row.model == f"recipe `{MAIN}`" and not row.seed]
        wanted = given or of_main[0].minutes
        path = self.folder / "minutes.json"
        kept = disk.read_json(path) if path.exists() else wanted
        if given and kept != wanted:
            raise SystemExit(
                f"Cannot continue: rows in {self.folder} were measured with {kept:.1f} minutes. "
                f"Received: {given:.1f}. Leave out --minutes, or delete this folder."
            )
        disk.write_json(path, kept)
        return float(kept)


def machine() -> str:
    """The number of cores and the name of the processor."""
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    return f"{os.cpu_count()} cores of {found[1] if found else platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--minutes", type=float, metavar="M", help="for each model of pythae")
    parser.add_argument("--trial", action="store_true", help="a few minutes in all; no document")
    arguments = parser.parse_args()
    root = dag.root()
    base = root / STATE / "peers"
    python = environment(root, base / "env")
    scratch = Scratch("peers/stages", keep=True)
    if not (scratch.folder / "models/features/features.json").exists():
        scratch.run(MAIN, last="features")
    inference.configure()
    extent = TRIAL if arguments.trial else Extent(num_seeds=arguments.seeds)
    compared = Comparison(base / "trial" if arguments.trial else base, scratch, extent)

    def show() -> None:
        if not arguments.trial:
            write_document(root / DOC, compared.text())

    for seed in range(extent.num_seeds):
        for recipe in () if arguments.trial else RECIPES:
            compared.finish(f"{recipe}-{seed}", partial(compared.ours, recipe, seed))
            show()
        minutes = compared.minutes(TRIAL_MINUTES if arguments.trial else arguments.minutes)
        for kind in KINDS:
            for nets in NETS:
                measure = partial(compared.peer, python, kind, nets, seed, minutes)
                compared.finish(f"{kind}-{nets}-{seed}", measure)
                show()
    print(compared.text())


if __name__ == "__main__":
    main()
