"""`python -m pipeline`: retrain now or on a schedule, and set up automations."""

import json
import os
import sys
from typing import Annotated, Any

import typer

from latentworks.errors import Busy, LatentworksError, ParamsError
from latentworks.repository import dag
from latentworks.system.console import one_line_errors
from pipeline import ROOT, server

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.callback()
def commands() -> None:
    """Retrain now or on a schedule, and set up automations."""


@app.command()
def retrain(
    recipe: Annotated[str | None, typer.Option(help="name of a recipe in recipes/")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="a parameter, such as train.epochs=12")
    ] = None,
    revision: Annotated[str, typer.Option(help="branch, tag or commit to check out")] = "HEAD",
    branch: Annotated[bool, typer.Option(help="also keep the result as a branch")] = False,
) -> None:
    """Run the outdated stages in a worktree, register the result, and let the gate decide."""
    from latentworks.runner.worktree import RETRAINING, Worktree
    from latentworks.system import locks, processes

    with one_line_errors():
        overrides = dict(_override(text) for text in override or ())
        worktree = Worktree(dag.root(), RETRAINING)
        # Report git's refusal, a wrong revision and a busy lock before Prefect starts.
        worktree.repository.resolve(revision)
        with worktree.held("retrain"):
            arguments = json.dumps([recipe, overrides, revision, branch])
            call = [sys.executable, "-m", "pipeline", "flow", arguments]
            environment = {**os.environ, locks.OF_PARENT: worktree.lock}
            code = processes.hand_over(call, locks.handles(), environment)
    raise typer.Exit(code)


@app.command(hidden=True)
def flow(arguments: str) -> None:
    """Run the flow with its arguments as JSON. `retrain` starts this command with its lock."""
    from prefect.settings import get_current_settings, temporary_settings

    from pipeline import temporary
    from pipeline.deployments import require_server

    with one_line_errors():
        if get_current_settings().api.url:
            require_server()
            _run(*json.loads(arguments))
            return
        with temporary.server() as settings, temporary_settings(settings):
            _run(*json.loads(arguments))


def _run(*arguments: Any) -> None:
    from prefect import tags

    from pipeline import retraining
    from pipeline.deployments import TAG

    with tags(TAG):
        state: Any = retraining.retrain(*arguments, return_state=True)
    if state.is_completed():
        typer.echo(f"{state.name}: {state.message}")
        return
    fault = state.result(raise_on_failure=False)
    ours = isinstance(fault, LatentworksError)
    typer.echo(str(fault) if ours else f"{state.name}: {state.message}", err=True)
    raise typer.Exit(Busy.exit_code if state.is_cancelled() else fault.exit_code if ours else 1)


@app.command("server")
def start_server() -> None:
    """Start Prefect's server for this machine alone, with a password."""
    with one_line_errors():
        if not os.environ.get(server.SERVER_AUTH):
            file = server.auth_file()
            shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
            typer.echo(f"Prefect's page asks for a password once: paste the line in {shown}.")
        server.start()


@app.command(
    "prefect",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def run_prefect(context: typer.Context) -> None:
    """Run a command of Prefect's, such as `worker start`, as a client of that server."""
    server.be_default()
    call = [sys.executable, "-m", "prefect", *context.args]
    os.execv(call[0], call)


@app.command()
def schedule() -> None:
    """Serve the deployments of prefect.yaml until interrupted. Needs a Prefect server."""
    server.be_default()  # before Prefect is imported
    from pipeline import deployments

    with one_line_errors():
        deployments.serve(dag.root(), typer.echo)


@app.command()
def automations(
    tell: Annotated[
        str | None,
        typer.Option(help="notification block to use, such as slack-webhook/latentworks"),
    ] = None,
    pending: Annotated[
        float, typer.Option(min=10, help="seconds after which an unstarted run is dead")
    ] = 600,
    silent: Annotated[
        float, typer.Option(min=35, help="seconds without a heartbeat after which a run is dead")
    ] = 600,
) -> None:
    """Create or update the automations on new images, drift, failures and decisions."""
    server.be_default()
    from pipeline.automations import apply

    with one_line_errors():
        apply(tell, typer.echo, pending=pending, silent=silent)


def _override(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ParamsError(f"--set takes NAME=VALUE, such as train.epochs=12. Received: {text!r}.")
    try:
        return name.strip(), json.loads(value)
    except ValueError:  # a plain word needs no quotes
        return name.strip(), value


if __name__ == "__main__":
    app()
