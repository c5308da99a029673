"""The command line. What is heavy is imported inside the command that needs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from latentworks import params, recipes, repository
from latentworks.config import Config, Seed
from latentworks.datasets.config import DatasetConfig, PrepareConfig
from latentworks.errors import LatentworksError, ParamsError
from latentworks.models.config import ModelConfig, TrainConfig
from latentworks.samplers.config import SampleConfig


class Params(Config):
    """The whole of params.yaml."""

    seed: Seed
    dataset: DatasetConfig
    prepare: PrepareConfig
    model: ModelConfig
    train: TrainConfig
    sample: SampleConfig


app = typer.Typer(
    help="Train generative autoencoders as DVC stages and follow them in MLflow.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


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


if __name__ == "__main__":
    app()
