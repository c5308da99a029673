"""Comparison of two versions on the same test images: a table of scores and a picture."""

from pathlib import Path

from latentworks import plots
from latentworks.artifacts.figures import write_figure
from latentworks.errors import LatentworksError
from latentworks.registry import tables
from latentworks.registry.registry import Registry
from latentworks.serving import loading
from latentworks.system import disk


def compare(registry: Registry, first: int, second: int, picture: Path) -> str:
    """Draw two versions into the file `picture` and return their table of scores.

    The images are the golden test images of the first version.
    """
    if not picture.name or picture.is_dir():
        raise LatentworksError(
            f"--picture must be the name of a PNG file. Received: {str(picture)!r}."
        )
    both = registry.compared(first, second)
    images = disk.read_arrays(both[0].folder / loading.SERVABLE / "golden.npz")["0.input"]
    servables = {each.version.number: loading.load(each.folder) for each in both}
    rows = {"Test images": images}
    for number, servable in servables.items():
        rows[f"Version {number}: the same images, reconstructed"] = servable.reconstruct(images)
    for number, servable in servables.items():
        rows[f"Version {number}: samples"] = servable.sample(None, num=len(images), seed=0)
    title = f"{registry.name}: version {first} and version {second}"
    figure = plots.comparison(title, "Samples are drawn with seed 0, not hand-picked.", rows)
    with disk.replacing(picture) as temporary:
        write_figure(temporary, figure)
    return tables.comparison([each.version for each in both], [each.scores for each in both])
