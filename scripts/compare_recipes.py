"""Draw an image of each class from several recipes, with the same seeds: a row for each recipe.

`python scripts/compare_recipes.py images-64d flow-64d` reads the servables that
`scripts/measure_recipes.py` has left in `.latentworks/recipes/`, and writes PICTURE. The recipes
need a sampler that draws images of a class.
"""

import argparse
from pathlib import Path

import numpy as np

from latentworks.artifacts.figures import write_figure
from latentworks.plots.comparison import comparison
from latentworks.repository import dag
from latentworks.serving.servable import load
from latentworks.system import disk
from latentworks.system.state import STATE

PICTURE = Path("docs/pictures/recipes-side-by-side.png")
SEED = 0


def drawn(folder: Path) -> np.ndarray:
    """Draw an image of each class from the servable in `folder`: uint8 [K, H, W, C]."""
    servable = load(folder)
    labels = range(len(servable.interface.labels))
    return np.concatenate(
        [servable.sample(None, num=1, seed=SEED + label, label=label) for label in labels]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", metavar="NAME")
    names = parser.parse_args().names
    root = dag.root()
    rows = {name: drawn(root / STATE / "recipes" / name / "models/servable") for name in names}
    figure = comparison(
        "The same classes and seeds from each recipe",
        f"One image of each class, with the seeds {SEED} to {SEED + len(rows[names[0]]) - 1}",
        rows,
    )
    with disk.replacing(root / PICTURE) as temporary:
        write_figure(temporary, figure)
    print(f"{root / PICTURE}: written")


if __name__ == "__main__":
    main()
