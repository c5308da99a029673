"""The screen of `latentworks show`: scores in words, pictures, and the next commands."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from latentworks import params
from latentworks.artifacts.images import read_prepared
from latentworks.config import Config
from latentworks.errors import LatentworksError, Unavailable
from latentworks.promotion.decision import PromotionConfig
from latentworks.repository import dag, git
from latentworks.repository.result import Result, flat, recorded_result
from latentworks.results import scores
from latentworks.system import disk
from latentworks.system.console import columns, few
from latentworks.tracking.uri import SQLITE, tracking_uri

NEEDED = ("metrics", "figures", "atlas", "servable", "prepared")  # outs, by name
UNKNOWN = "unknown, since MLflow did not answer"
PATIENCE = 10.0  # seconds for MLflow's answers
HISTORY = ("latentworks history", "lists the decisions about versions, with their reasons")
SAMPLE = ("latentworks sample --num 64 samples.png", "draws new images")


class PromotionParams(Config):
    promotion: PromotionConfig


@dataclass(frozen=True)
class Standing:
    """The place of a result in the registry."""

    version: int | None = None  # None if the result is not registered, or MLflow did not answer
    is_champion: bool = False
    is_decided: bool = False  # True if the gate has decided on it
    text: str = "not registered"


@dataclass(frozen=True)
class Summary:
    """A result, described for its user."""

    title: str
    metrics: dict[str, Any]  # the content of metrics.json
    rows: list[scores.Row]
    mean_image_mse: float | None
    warning: str  # empty unless the reconstructions are hardly better than the mean image
    pictures: Path  # relative to the checkout
    atlas: Path
    standing: Standing
    changed: list[str]  # the files to commit
    notes: list[str]

    def commands(self) -> list[tuple[str, str]]:
        """Return the three commands that make sense next, each with its effect."""
        place = self.standing
        if place.is_champion:
            serve = ("latentworks serve", "answers over HTTP, with a page to explore the latents")
            return [serve, SAMPLE, HISTORY]
        if place.is_decided:
            return [HISTORY, ("latentworks recipe", "lists settings to train with next"), SAMPLE]
        promote = f"latentworks promote{f' {place.version}' if place.version else ''}"
        gate = (promote, "asks the gate if it is the new champion")
        if place.version:
            return [SAMPLE, gate, ("make ui", "shows all runs in MLflow's pages")]
        return [SAMPLE, ("latentworks register", "makes this result a version"), gate]

    def text(self) -> str:
        """Return the screen."""
        cells = [
            cell
            for name, value, (first, *others) in self.rows
            for cell in [(name, value, first), *(("", "", other) for other in others)]
        ]
        lines = [self.title, "", *columns(cells), ""]
        if self.warning:
            lines += [self.warning, ""]
        lines += [
            f"Pictures: {self.pictures}",
            f"Latent space to explore: open {self.atlas} in a browser",
            f"Registry: {self.standing.text}",
            *self.notes,
            "",
            "Next:",
            *(f"  {line}" for line in columns(self.commands())),
        ]
        if self.changed:
            names = " ".join(self.changed)
            lines += [
                "",
                f"Commit the record of this result: git commit --message Train {names}",
                "With it, `git checkout` and `dvc checkout` bring this result back later.",
            ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the fields for programs."""
        return {
            "metrics": flat(self.metrics),
            "mean_image_mse": self.mean_image_mse,
            "warning": self.warning or None,
            "pictures": str(self.pictures),
            "atlas": str(self.atlas),
            "version": self.standing.version,
            "champion": self.standing.is_champion,
            "next": [command for command, _ in self.commands()],
            "uncommitted": self.changed,
        }


def is_complete(result: Result | None) -> TypeGuard[Result]:
    """True if a result has all that `summarise` describes."""
    return result is not None and result.outs.keys() >= {*NEEDED}


def summarise(root: Path, *, ask: bool = True) -> Summary:
    """Describe the result of a checkout. Raises LatentworksError if it is missing or incomplete.

    Without `ask`, MLflow is not asked for the version of the result.
    """
    result = recorded_result(root)
    if not is_complete(result):
        raise LatentworksError(
            f"Nothing to show: {root} does not have all files of the result that {dag.LOCK} "
            "records. Run `make repro`; `latentworks plan` shows which stages it runs."
        )
    metrics = disk.read_json(result.outs["metrics"])
    interface = disk.read_json(result.outs["servable"] / "interface.json")
    prepared = read_prepared(result.outs["prepared"])
    of_mean = metrics["test"].get("mse_mean_image")  # results from before lack it
    height, width, channels = prepared.image_shape
    kind, data = result.params["model"]["kind"], result.params["dataset"]["kind"]
    limit = params.load(PromotionParams, root / params.PARAMS).promotion.first.mse
    warning = ""
    if scores.is_poor(metrics["test"]["mse"], of_mean, limit):
        tries = scores.advice(result.params, len(prepared.rows("train")))
        better = "hardly" if metrics["test"]["mse"] < (of_mean or 0) else "no"
        warning = f"The reconstructions are {better} better than the mean image. Try this: {tries}."
    return Summary(
        f"{kind} of {data}: {height}x{width}x{channels} images, {interface['latent_dim']} latents",
        metrics,
        scores.rows(metrics, interface["latent_dim"], of_mean),
        of_mean,
        warning,
        result.outs["figures"].relative_to(root),
        result.outs["atlas"].relative_to(root),
        _standing(root, result) if ask else Standing(text=UNKNOWN),
        _uncommitted(root, result),
        _notes(root, result),
    )


def _standing(root: Path, result: Result) -> Standing:
    uri = tracking_uri(root)
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).exists():
        return Standing()
    from latentworks.registry.registry import Registry  # imports MLflow

    try:
        return _of_version(Registry(root, patience=PATIENCE), result)
    except Unavailable:
        return Standing(text=UNKNOWN)
    except LatentworksError as error:  # the result is fine even so
        return Standing(text=str(error))


def _of_version(registry: Any, result: Result) -> Standing:
    version = registry.known(result)
    if version is None:
        return Standing()
    champion = registry.champion()
    is_champion = champion is not None and champion.number == version.number
    text = f"{version}; {registry.standing(version)}"
    return Standing(version.number, is_champion, registry.is_decided(version), text)


def _uncommitted(root: Path, result: Result) -> list[str]:
    """Return params.yaml, dvc.lock and the folder of the scores, as far as they differ from git."""
    files = [str(params.PARAMS), dag.LOCK, str(result.outs["metrics"].parent.relative_to(root))]
    try:
        return [name for name in files if git.run(root, "status", "--porcelain", "--", name)]
    except git.GitError:
        return []


def _notes(root: Path, result: Result) -> list[str]:
    """Say what keeps the result from being registered as it is."""
    notes = []
    current = params.read(root / params.PARAMS)
    if any(current.get(name) != section for name, section in result.params.items()):
        notes.append(f"{params.PARAMS} has changed since: `latentworks plan` shows what would run.")
    with suppress(git.GitError):
        if code := git.differences(root):
            notes.append(f"Before you register it, commit the code: {few(code, 1)}.")
    return notes
