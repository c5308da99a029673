"""Drift check: compare the images at dataset.path with the champion's own test images.

Nothing is written. The champion's code runs in a process that can neither write files nor read the
user's; see `isolated`.
"""

import heapq
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from latentworks import metrics, params, plots
from latentworks.artifacts.figures import Figure
from latentworks.artifacts.images import Prepared, read_prepared
from latentworks.config import Config
from latentworks.datasets.config import DatasetConfig
from latentworks.datasets.decoding import decoded
from latentworks.datasets.split import content_id
from latentworks.errors import DataError, LatentworksError, NoChampion
from latentworks.monitoring.drift import Comparison, DriftConfig, Measured, compare
from latentworks.monitoring.isolated import Isolated
from latentworks.preprocess import to_pixels
from latentworks.registry import candidates
from latentworks.registry.registry import Registry
from latentworks.registry.versions import Version
from latentworks.repository import dag
from latentworks.runner.worktree import RETRAINING, Worktree
from latentworks.serving import packaging
from latentworks.system.console import columns

PREPARE = "prepare"  # the stage that makes the index and the test images
MAX_TEST = 10_000  # test images in the comparison
BATCH = 256
NUM_WORST = 12  # images in the picture


class _Params(Config):
    dataset: DatasetConfig
    drift: DriftConfig


@dataclass
class _Incoming:
    """Measurements of the images that the champion never saw, and the worst of these images."""

    known: int = 0
    duplicates: int = 0
    rejects: int = 0
    errors: list[np.ndarray] = field(default_factory=list)
    latents: list[np.ndarray] = field(default_factory=list)
    worst: list[tuple[float, int, np.ndarray]] = field(default_factory=list)  # a heap

    def add(self, images: np.ndarray, version: Isolated) -> None:
        """Measure a batch: uint8 [B, H, W, C]."""
        measured = version.measure(images)
        first = sum(map(len, self.errors))
        self.errors.append(measured.errors)
        self.latents.append(measured.latents)
        for i, (error, image) in enumerate(zip(measured.errors, images, strict=True)):
            # An error that is not finite ranks worst; the image's number breaks ties.
            size = float(error) if np.isfinite(error) else np.inf
            entry = (size, -(first + i), image)
            (heapq.heappush if len(self.worst) < NUM_WORST else heapq.heappushpop)(
                self.worst, entry
            )

    def measured(self, latent_dim: int) -> Measured:
        errors = [np.empty(0, np.float32), *self.errors]
        latents = [np.empty((0, latent_dim), np.float32), *self.latents]
        return Measured(np.concatenate(errors), np.concatenate(latents))


@dataclass(frozen=True)
class Report:
    """Comparison of incoming images with the champion's test images."""

    version: str
    path: str
    counts: dict[str, int]  # of the images at `path`
    comparison: Comparison
    figure: Figure | None  # None without new images

    @property
    def drifted(self) -> bool:
        return self.comparison.drifted

    @property
    def reason(self) -> str:
        return self.comparison.reason

    def rows(self) -> list[tuple[str, ...]]:
        names = ("quantity", "test images", "new images", "distance", "by chance", "verdict")
        lines: list[tuple[str, ...]] = [names]
        for row in self.comparison.rows:
            spreads = (f"{mean:.4g} ± {std:.2g}" for mean, std in (row.test, row.incoming))
            chance = "< 0.0001" if row.chance < 1e-4 else f"{row.chance:.2g}"
            lines.append((row.quantity, *spreads, f"{row.distance:.3f}", chance, row.verdict))
        return lines

    @property
    def counted(self) -> str:
        return ", ".join(f"{number:,} {name}" for name, number in self.counts.items())

    def table(self) -> str:
        lines = [f"{self.path}: {self.counted}", ""]
        if self.comparison.rows:
            lines += [*columns(self.rows()), ""]
        return "\n".join([*lines, f"{self.version}: {self.reason}"])


def check(root: Path) -> Report:
    """Compare the images at dataset.path that the champion never saw with its own test images.

    All images are prepared as for the champion, so that a known image has the same content id.
    Raises NoChampion, and LatentworksError if the champion's data or the source is missing.
    """
    config = params.load(_Params, root / params.PARAMS)
    registry = Registry(root)
    with registry.one_line("Try again when MLflow answers."):
        champion = registry.aliases.champion
        if champion is None:
            raise NoChampion(
                f"Cannot check for drift: {registry.name} has no champion"
                f"{registry.store.doubt(registry.name)}. "
                "Run `latentworks register`, then `latentworks promote`."
            )
        folder = registry.store.fetch(champion)
    prepared = _prepared(root, champion, folder)
    with Isolated(folder, str(champion)) as version:
        return _compare(root, config, champion, version, prepared)


def _compare(
    root: Path, config: _Params, champion: Version, version: Isolated, prepared: Prepared
) -> Report:
    rows = metrics.subset(prepared.rows("test"), MAX_TEST)
    parts = [version.measure(prepared.images[part]) for part in _batches(rows)]
    test = Measured(
        np.concatenate([part.errors for part in parts]),
        np.concatenate([part.latents for part in parts]),
    )
    path = config.dataset.path
    place = root / path
    if dag.is_made(root, Path(path)) and not place.exists():
        place = Worktree(root, RETRAINING).path / path  # only retraining has fetched images
    dataset = config.dataset.model_copy(update={"path": str(place)})
    incoming = _incoming(dataset, set(prepared.index["id"]), version)
    new = incoming.measured(version.about.latent_dim)
    comparison = compare(test, new, config.drift)
    counts = {
        "known": incoming.known,
        "new": len(new.errors),
        "duplicates": incoming.duplicates,
        "rejects": incoming.rejects,
    }
    figure = _figure(str(champion), comparison, (test, new), incoming, version)
    return Report(str(champion), path, counts, comparison, figure)


def _incoming(dataset: DatasetConfig, known: set[str], version: Isolated) -> _Incoming:
    source = dataset.load()
    incoming, seen, waiting = _Incoming(), set(known), []
    new: set[str] = set()
    for _, result in tqdm(
        decoded(source, version.about.prepare), total=source.num_items, desc="drift", disable=None
    ):
        if result.image is None:
            incoming.rejects += 1
            continue
        image_id = content_id(result.image)
        if image_id in seen:
            incoming.duplicates += image_id in new
            incoming.known += image_id not in new
            continue
        seen.add(image_id)
        new.add(image_id)
        waiting.append(result.image)
        if len(waiting) == BATCH:
            incoming.add(np.stack(waiting), version)
            waiting = []
    if waiting:
        incoming.add(np.stack(waiting), version)
    return incoming


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def _figure(
    champion: str,
    comparison: Comparison,
    both: tuple[Measured, Measured],
    incoming: _Incoming,
    version: Isolated,
) -> Figure | None:
    if not incoming.worst:
        return None
    images = np.stack([image for *_, image in sorted(incoming.worst, key=lambda entry: -entry[0])])
    reconstructed = to_pixels(np.nan_to_num(version.measure(images).reconstructions))
    title = "Drift" if comparison.drifted else "No drift"
    pairs = [(each.errors, each.latents) for each in both]
    return plots.drift(
        f"{title}: {champion}", f"{comparison.reason}.", pairs[0], pairs[1], (images, reconstructed)
    )


def _prepared(root: Path, champion: Version, folder: Path) -> Prepared:
    """Read the champion's data from this checkout, from a worktree, or from DVC's cache."""
    retraining = Worktree(root, RETRAINING).path
    for checkout in (root, retraining):
        prepared = _recorded(checkout, champion)
        if prepared:
            return read_prepared(prepared)
    worktree = Worktree(root, "champion")
    with worktree.held("check for drift"):
        worktree.check_out(champion.tags["git.commit"])
        for name in (str(params.PARAMS), dag.LOCK):
            text = (folder / packaging.PROVENANCE / name).read_text(encoding="utf-8")
            worktree.write(name, text)
        with suppress(LatentworksError):
            worktree.restore(PREPARE)
        prepared = _recorded(worktree.path, champion)
        if prepared is None:
            raise DataError(
                f"Cannot check for drift: the test images of {champion} are missing from this "
                "checkout and from DVC's cache and remote. Run `dvc pull`, or promote another "
                "version with `latentworks promote`."
            )
        return read_prepared(prepared)


def _recorded(checkout: Path, champion: Version) -> Path | None:
    """The prepared data of a checkout if it is the champion's, else None."""
    if not (checkout / dag.DAG).is_file():
        return None
    stage = dag.recorded(checkout).get(PREPARE)
    if stage is None or candidates.fingerprint(stage.outs["prepared"]) != champion.data:
        return None
    return stage.outs["prepared"]
