"""Score results in the features of a second network: EfficientNet-Lite0, trained on ImageNet.

`python scripts/second_opinion.py FOLDER …` prints two rows for each folder with a result: the
scores of its samples by the second network, and those by the feature network, from its
`reports/metrics.json`. `.` is the checkout, and `.latentworks/recipes/NAME` a recipe that
`scripts/measure_recipes.py` has measured. The recipes were chosen by the scores of the feature
network, so another network, which saw none of these images, shows if the images are really better.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import efficientnet
from latentworks.artifacts.images import read_prepared
from latentworks.artifacts.model import read_model
from latentworks.artifacts.samples import read_samples
from latentworks.engine import inference
from latentworks.evaluation import generation
from latentworks.models.config import ModelConfig
from latentworks.system import disk

METRICS = Path("reports/metrics.json")
# Columns of the table. Distances of the two networks have different units: compare them with the
# floor of their network.
SHOWN = {
    "frechet": "Fréchet",
    "frechet_floor": "its floor",
    "frechet_blur": "blur",
    "frechet_sampler": "sampler",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
}
HEADER = f"| result | network | {' | '.join(SHOWN.values())} |\n|{'---|' * (len(SHOWN) + 2)}"


def second_opinion(folder: Path, values: efficientnet.Values) -> dict[str, float]:
    """Compute the metrics of samples in the features of the second network."""
    data = read_prepared(folder / "data/prepared")
    model = read_model(folder / "models/autoencoder", ModelConfig)
    samples = read_samples(folder / "data/samples")
    network = efficientnet.build(values, data.image_shape)
    return generation.compare(partial(efficientnet.see, network), model, data, samples)


def row(folder: Path, network: str, scores: Mapping[str, Any]) -> str:
    """Return a row of a Markdown table."""
    cells = [f"{scores[name]:.4g}" if name in scores else "" for name in SHOWN]
    return f"| `{folder}` | {network} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", metavar="FOLDER", type=Path)
    folders = parser.parse_args().folders
    for folder in folders:
        if not (folder / METRICS).is_file():
            raise SystemExit(
                f"Cannot score {folder}: it has no {METRICS}. Run the stages there, or measure the "
                "recipe with scripts/measure_recipes.py."
            )
    values = efficientnet.read(efficientnet.find())
    inference.configure()
    print(HEADER)
    for folder in folders:
        print(row(folder, "second", second_opinion(folder, values)))
        own = disk.read_json(folder / METRICS)["samples"]
        print(row(folder, own["features"], own), flush=True)


if __name__ == "__main__":
    main()
