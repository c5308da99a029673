"""The command line. What is heavy is imported inside the command that needs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from latentworks import params, recipes, repository
from latentworks.config import Config, Seed
from latentworks.datasets.config import DatasetConfig, PrepareConfig
from latentworks.errors import LatentworksError, ParamsError, Refused
from latentworks.models.config import ModelConfig, TrainConfig
from latentworks.promotion import PromotionConfig
from latentworks.samplers.config import SampleConfig


class Params(Config):
    """The whole of params.yaml."""

    seed: Seed
    dataset: DatasetConfig
    prepare: PrepareConfig
    model: ModelConfig
    train: TrainConfig
    sample: SampleConfig
    promotion: PromotionConfig


app = typer.Typer(
    help="Train generative autoencoders as DVC stages and follow them in MLflow.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


VERSION = typer.Argument(min=1, max=2**31 - 1, help="the number of a version")


@app.command()
def validate() -> None:
    """Check every line of params.yaml, in a second; exit 2 with one line for each fault."""
    with _one_line_errors():
        root = repository.root()
        checked = params.load(Params, root / params.PARAMS, whole=True)
        _refuse_images_among_outputs(root, checked.dataset)
        typer.echo("params.yaml is valid")


@app.command()
def recipe(name: Annotated[str, typer.Argument(help="a file in recipes/, without .yaml")]) -> None:
    """Write a recipe into params.yaml, which must not have edits of your own."""
    with _one_line_errors():
        recipes.write(repository.root(), name)
        typer.echo(f"params.yaml now follows recipes/{name}.yaml")


@app.command()
def sync() -> None:
    """Write to MLflow what it lacks of the result in this checkout."""
    from latentworks import tracking

    with _one_line_errors():
        root = repository.root()
        outputs = tracking.recorded_outputs(root)
        if outputs is None:
            typer.echo("nothing to write: no trained model on record. Run `make repro`.")
            return
        if tracking.sync(outputs, root) is not None:
            raise typer.Exit(1)
        typer.echo(
            f"MLflow has this result: {tracking.without_password(tracking.tracking_uri(root))}"
        )


@app.command()
def timings() -> None:
    """Time and memory of each stage when it last ran in this checkout."""
    from latentworks import records

    with _one_line_errors():
        root = repository.root()
        rows = [records.read(stage, root) for stage in repository.stages(root)]
        typer.echo(f"{'stage':<10}{'seconds':>9}{'peak memory':>15}")
        for row in filter(None, rows):
            memory = f"{row['peak_memory_mb']:,} MB"
            typer.echo(f"{row['stage']:<10}{row['seconds']:>9.1f}{memory:>15}")


@app.command()
def register() -> None:
    """Make the result of this checkout a version of the registered model, its challenger."""
    from latentworks.registry import Registry

    with _one_line_errors():
        registry = Registry(repository.root())
        version = registry.register()
        typer.echo(
            f"{version} is registered; decide on it with `latentworks promote {version.number}`"
        )


@app.command()
def promote(number: Annotated[int | None, VERSION] = None) -> None:
    """Compare a version, by default the challenger, with the champion; exit 7 if it is refused."""
    from latentworks import registry

    with _one_line_errors():
        entry = registry.Registry(repository.root()).promote(number)
        typer.echo(entry.text)
        if entry.decision == registry.REFUSED:
            raise typer.Exit(Refused.exit_code)
        typer.echo(f"\n{entry.name} version {entry.version} is champion")


@app.command()
def rollback(
    number: Annotated[int | None, VERSION] = None,
    reason: Annotated[str, typer.Option(help="why; kept with the decision")] = "",
) -> None:
    """Make the previous champion, or a version that was champion once, champion again."""
    from latentworks.registry import Registry

    with _one_line_errors():
        entry = Registry(repository.root()).rollback(number, reason)
        instead = f", instead of version {entry.champion_before}" if entry.champion_before else ""
        typer.echo(f"{entry.name} version {entry.version} is champion again{instead}")


@app.command()
def history() -> None:
    """Who was champion, when, and why: every decision about the registered model."""
    from latentworks.registry import Registry

    with _one_line_errors():
        typer.echo(Registry(repository.root()).history_table())


@app.command()
def compare(
    first: Annotated[int, typer.Argument(help="a version")],
    second: Annotated[int, typer.Argument(help="another one")],
    picture: Annotated[Path, typer.Option(help="where to draw the same images through both")] = (
        Path("comparison.png")
    ),
) -> None:
    """Two versions side by side: the numbers, and the same test images through both."""
    from latentworks import comparison
    from latentworks.registry import Registry

    with _one_line_errors():
        registry = Registry(repository.root())
        typer.echo(comparison.compare(registry, first, second, picture))
        typer.echo(f"\nthe same images through both: {picture}")


def _refuse_images_among_outputs(root: Path, dataset: Any) -> None:
    """A stage replaces its outputs, and DVC refuses a source that holds them."""
    path = (root / dataset.path).resolve()
    fetched = dataset.kind == "fashion_mnist"
    for name, stage in repository.stages(root).items():
        for entry in repository.paths([*stage.get("outs", ()), *stage.get("metrics", ())]):
            out = (root / entry).resolve()
            inside = path.is_relative_to(out) and not (fetched and name == "fetch")
            if inside or (path != out and out.is_relative_to(path)):
                raise ParamsError(
                    f"{params.PARAMS}: dataset.path {'lies in' if inside else 'holds'} {entry}, "
                    f"which stage {name} writes. Expected a place of your own. "
                    f"Received: {dataset.path!r}."
                )


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """A user's mistake is shown as its message alone."""
    try:
        yield
    except LatentworksError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        typer.echo(f"{error.strerror or error}{where}", err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
