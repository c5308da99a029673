"""Comparison of two versions on the same test images: a table of scores and a picture."""

from pathlib import Path

from latentworks import plots
from latentworks.artifacts.figures import write_figure
from latentworks.errors import LatentworksError, RegistryError
from latentworks.promotion.scores import Scores
from latentworks.registry import tables
from latentworks.registry.registry import Registry
from latentworks.registry.versions import Version
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
    with registry.one_line("Try again when MLflow answers."):
        versions = [registry.store.get(registry.name, number) for number in (first, second)]
        folders = [registry.store.fetch(version) for version in versions]
        scores = _scores(registry, versions)
    images = disk.read_arrays(folders[0] / loading.SERVABLE / "golden.npz")["0.input"]
    servables = {
        version.number: loading.load(folder)
        for version, folder in zip(versions, folders, strict=True)
    }
    rows = {"Test images": images}
    for number, servable in servables.items():
        rows[f"Version {number}: the same images, reconstructed"] = servable.reconstruct(images)
    for number, servable in servables.items():
        rows[f"Version {number}: samples"] = servable.sample(None, num=len(images), seed=0)
    title = f"{registry.name}: version {first} and version {second}"
    figure = plots.comparison(title, "Samples are drawn with seed 0, not hand-picked.", rows)
    with disk.replacing(picture) as temporary:
        write_figure(temporary, figure)
    return tables.comparison(versions, scores)


def _scores(registry: Registry, versions: list[Version]) -> list[Scores]:
    """Return the scores of two versions on the data of the second.

    If this checkout does not have that data, each version keeps the scores recorded with it.
    """
    try:
        return [registry.scores(version, versions[1].data) for version in versions]
    except RegistryError:
        return [registry.scores(version, version.data) for version in versions]
