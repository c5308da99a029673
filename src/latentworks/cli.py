"""The command line. Each command imports heavy packages only when it runs."""

import json
import os
import re
import secrets
import signal
import sys
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from latentworks import advice, params, sections
from latentworks.errors import Differs, LatentworksError, Refused, Unavailable
from latentworks.params import recipes
from latentworks.repository import dag, experiments, git
from latentworks.system import disk
from latentworks.system.console import columns, one_line_errors
from latentworks.system.state import STATE
from latentworks.tracking.uri import URI, absolute, tracking_uri, without_password


class Commands(TyperGroup):
    """The commands. An error of the user ends each of them with one line."""

    def invoke(self, ctx: Any) -> Any:
        with one_line_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys = typer.Typer(help="Keys that sign versions, and keys that are trusted.", no_args_is_help=True)
app.add_typer(keys, name="keys")


VERSION = typer.Argument(min=1, max=2**31 - 1, help="number of a registered version")
DRIFTED = 8  # exit code
JSON = typer.Option("--json", help="print one line of JSON instead of text")
PICTURES = typer.Argument(
    metavar="IN...", help="picture files, or folders of them", show_default=False
)
RESULT = typer.Option(
    "--result", help="verify only the result in this checkout, not the registered versions"
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latentworks {metadata.version('latentworks')}")
        raise typer.Exit


@app.callback()
def commands(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="show the version"),
    ] = False,
) -> None:
    """Train generative autoencoders as DVC stages and follow them in MLflow."""


@app.command()
def validate() -> None:
    """Check params.yaml, and that it names images; exit 2 with one line for each fault."""
    root = dag.root()
    dataset = sections.checked(root).dataset
    sections.refuse_images_among_outputs(root, dataset)
    sections.require_images(root, dataset)
    typer.echo("params.yaml is valid")
    for line in advice.advice(root):
        typer.echo(f"note: {line}")


@app.command()
def recipe(
    name: Annotated[
        str | None, typer.Argument(help="name of a file in recipes/, without .yaml; none: list all")
    ] = None,
) -> None:
    """Write a recipe into params.yaml, or list the recipes.

    Edits of yours in sections that the recipe has are not overwritten, and others stay.
    """
    root = dag.root()
    if name is None:
        rows = [("recipe", "minutes", "")]
        for each in recipes.described(root):
            minutes = "-" if each.minutes is None else f"{each.minutes:.0f}"
            rows.append((each.name, minutes.rjust(len("minutes")), each.text))
        typer.echo("\n".join(columns(rows)))
        typer.echo("\nMinutes are of two cores. `make repro RECIPE=NAME` writes one and runs it.")
        return
    _write_recipe(root, name)
    typer.echo(f"params.yaml now follows recipes/{name}.yaml")


@app.command()
def new(
    images: Annotated[Path, typer.Option(help="folder or file of your images", show_default=False)],
    folder: Annotated[
        Path | None, typer.Argument(help="new folder for a project; none: write params.yaml here")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="pixels: of the longer side, 96, or height x width, 48x64")
    ] = None,
    is_map: Annotated[
        bool, typer.Option("--map", help="2 latents, which can be drawn as a map")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print params.yaml instead of writing it")
    ] = False,
    no_timing: Annotated[
        bool, typer.Option("--no-timing", help="do not measure the time of a training")
    ] = False,
    source: Annotated[
        str | None, typer.Option(help="repository that FOLDER follows; default: this clone")
    ] = None,
) -> None:
    """Look at images of yours, and write params that fit them into params.yaml.

    Uncommitted edits of yours in its sections are not overwritten. With FOLDER, make a project of
    your own there, with its own git repository; `latentworks upgrade` renews it.
    """
    from latentworks.project import fitting

    root = dag.root()
    sides = None if size is None else fitting.size_of(size)
    if source and not folder:
        raise LatentworksError("--source is of a new project. Name its FOLDER, too.")
    if folder:
        from latentworks.project import folder as projects

        fitted = projects.create(
            root, folder, images, source=source, size=sides, is_map=is_map, keep=not dry_run
        )
    else:
        fitted = fitting.fit(root, images, size=sides, is_map=is_map)
    for line in [*fitted.report, *(f"note: {note}" for note in fitted.notes)]:
        typer.echo(line, err=dry_run)
    if dry_run:
        typer.echo(fitted.text, nl=False)
    elif folder:
        if left_out := git.differences(root):
            typer.echo(f"note: not committed, so not in the project: {', '.join(left_out[:5])}")
        typer.echo(f"{folder} is a project now. To train in it: `cd {folder}`, then `make repro`.")
    else:
        fitting.write(root, fitted.text)
        typer.echo("params.yaml now fits these images. To train on them, run `make repro`.")
    if not no_timing:
        typer.echo(fitting.duration(fitted), err=dry_run)


@app.command()
def upgrade(
    to: Annotated[
        str, typer.Option(help="branch, tag or commit of the repository that the project follows")
    ] = "HEAD",
) -> None:
    """Merge a newer version of the template into a project that `latentworks new` made.

    Your edits stay. Files in which they clash with new ones get conflict markers, and exit code 1.
    """
    from latentworks.system import locks

    root = dag.root()
    with locks.exclusive(locks.of(root), "upgrade", wait=False):
        from latentworks.project import upgrade as upgrading

        done = upgrading.upgrade(root, to)
    if not done.is_new:
        typer.echo(f"This project follows latentworks at {done.commit[:10]} already.")
        return
    for name in done.conflicts:
        typer.echo(f"conflict in {name}: choose lines between <<<<<<< and >>>>>>>, then `git add`")
    if done.conflicts:
        raise typer.Exit(1)
    typer.echo(
        f"This project now follows latentworks at {done.commit[:10]}. Nothing is committed yet: "
        "look at `git status` and `git diff`, run `make repro`, and commit."
    )


@app.command()
def repro(
    recipe: Annotated[
        str | None, typer.Option(help="recipe to write into params.yaml first")
    ] = None,
) -> None:
    """Run the stages that are out of date; exit 75 if another process is running them.

    A killed run is continued. At the end, the result is written to MLflow as far as it is missing.
    """
    from latentworks.system import locks

    _end_by_sigterm()
    root = dag.root()
    with locks.exclusive(locks.of(root), "run the stages", wait=False):
        from latentworks.repository.result import recorded_result
        from latentworks.results import summary
        from latentworks.runner import repair
        from latentworks.runner.reproduce import reproduce_on_terminal
        from latentworks.tracking import outbox

        for line in repair.repair_checkout(root):
            typer.echo(line)
        if recipe:
            _write_recipe(root, recipe)
        dataset = sections.checked(root).dataset
        sections.refuse_images_among_outputs(root, dataset)
        typer.echo("params.yaml is valid")
        experiments.link_images(root, Path(dataset.path))
        reproduce_on_terminal(root, typer.echo, partial(advice.before, root))
        result = recorded_result(root)
        synced = result is not None and outbox.sync(result, root) is None  # else it warns
        if synced:
            typer.echo(f"MLflow has this result: {without_password(tracking_uri(root))}")
        if summary.is_complete(result):
            typer.echo(f"\n{summary.summarise(root, ask=synced).text()}")


@app.command()
def sweep(
    values: Annotated[
        list[str],
        typer.Argument(metavar="PARAM=VALUES...", help="such as model.latent_dim=8,16,64"),
    ],
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="search with Optuna; ranges such as 0.0005..0.005 are allowed"),
    ] = None,
    by: Annotated[
        str, typer.Option(help="score of validation images: mse, ssim, sliced_wasserstein, loss")
    ] = "mse",
    name: Annotated[
        str, typer.Option(help="recipe for the best params, in recipes/ or a path")
    ] = "sweep",
) -> None:
    """Train with each combination of values, and write the best one as a recipe.

    The trials run in a worktree, with the committed code and your params.yaml. A sweep that was
    killed goes on when the same command is run again.
    """
    from latentworks.sweep.trials import sweep as run

    _end_by_sigterm()
    run(dag.root(), values, trials, by, name, typer.echo)


@app.command()
def sync() -> None:
    """Write the result of this checkout to MLflow, as far as it is missing there."""
    from latentworks.repository.result import recorded_result
    from latentworks.system import locks
    from latentworks.tracking import outbox

    root = dag.root()
    with locks.exclusive(locks.of(root), "write to MLflow"):
        result = recorded_result(root)
        if result is None:
            fault = "dvc.lock records no trained model"
            if "train" in dag.locked(root):
                fault = "the files that dvc.lock records are missing here, or differ"
            typer.echo(f"Nothing to write: {fault}. Run `make repro`.")
            return
        if outbox.sync(result, root) is not None:
            raise typer.Exit(1)
    typer.echo(f"MLflow has this result: {without_password(tracking_uri(root))}")


@app.command()
def show(as_json: Annotated[bool, JSON] = False) -> None:
    """Show the scores of this result in words, its pictures, and the commands to run next."""
    from latentworks.results import summary

    found = summary.summarise(dag.root())
    typer.echo(json.dumps(found.to_json()) if as_json else found.text())


@app.command()
def sample(
    out: Annotated[Path, typer.Argument(help="a .png file, or a folder for a file each")],
    num: Annotated[int, typer.Option(min=1, max=10_000, help="number of images")] = 64,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="equal seeds give equal images")
    ] = None,
    label: Annotated[str | None, typer.Option(help="name or number of a class")] = None,
) -> None:
    """Draw new images from the model of this checkout, which need not be registered."""
    from latentworks.results import open_result, pictures

    pictures.check_target(out)
    model = open_result()
    seed = secrets.randbelow(2**32) if seed is None else seed
    images = model.sample(num, seed, model.label(label))
    if out.suffix == pictures.PNG:
        pictures.write_grid(out, images)
    else:
        pictures.write_each(out, images)
    typer.echo(f"{num} samples in {out}, drawn with --seed {seed}")


@app.command()
def reconstruct(
    pictures_in: Annotated[list[Path], PICTURES],
    out: Annotated[Path, typer.Argument(help="the .png file to write")],
) -> None:
    """Reconstruct pictures. In the file OUT, reconstructions are below their originals."""
    from latentworks.results import open_result, pictures

    pictures.check_file(out)
    model = open_result()
    images = pictures.read(pictures_in, model.servable.interface)
    pictures.write_pairs(out, images, model.reconstruct(images, prepared=True))
    typer.echo(f"{len(images)} originals, each row above its reconstructions: {out}")


@app.command()
def encode(
    pictures_in: Annotated[list[Path], PICTURES],
    out: Annotated[Path, typer.Argument(help="the .csv or .parquet file to write")],
) -> None:
    """Encode pictures to latents: a table with a row for each file, and the columns z0, z1, …"""
    from latentworks.results import latents, open_result, pictures

    latents.check_name(out)
    model = open_result()
    files: list[str] = []
    codes = []  # of each batch
    for names, images in pictures.batches(pictures_in, model.servable.interface):
        files += names
        codes.append(model.encode(images, prepared=True))
    latents.write(out, files, codes)
    typer.echo(f"{len(files)} pictures encoded to {model.latent_dim} latents each: {out}")


@app.command()
def plan() -> None:
    """Show which stages would run and why, how long they took, and the disk space they need."""
    from latentworks.repository import plan as planning

    root = dag.root()
    sections.checked(root)
    typer.echo(planning.table(planning.plan(root), root))


@app.command()
def timings() -> None:
    """Show the time and memory of each stage in its last run in this checkout."""
    from latentworks.repository.timings import known

    rows = known(dag.root())
    if not rows:
        typer.echo("No stage has run in this checkout yet. Run `make repro`.")
        return
    typer.echo(f"{'stage':<10}{'seconds':>9}{'peak memory':>15}")
    for row in rows:
        memory = f"{row['peak_memory_mb']:,} MB"
        typer.echo(f"{row['stage']:<10}{row['seconds']:>9.1f}{memory:>15}")


@app.command()
def doctor() -> None:
    """Check Python, packages, git, disk, DVC's remote, MLflow and keys; exit 1 on a fault.

    Each fault comes with its cure. The checks take a few seconds, and change nothing.
    """
    from latentworks import doctor as checks

    found = checks.examine(dag.root())
    typer.echo(checks.table(found))
    if any(finding.state == "fault" for finding in found.values()):
        raise typer.Exit(1)


@app.command()
def register(as_json: Annotated[bool, JSON] = False) -> None:
    """Register the result of this checkout as a version, with the alias challenger."""
    from latentworks.registry.registry import Registry

    registry = Registry(dag.root())
    version = registry.register()
    if as_json:
        typer.echo(json.dumps(asdict(version)))
        return
    typer.echo(f"{version} is registered; {registry.standing(version)}")


@app.command()
def promote(
    number: Annotated[int | None, VERSION] = None, as_json: Annotated[bool, JSON] = False
) -> None:
    """Compare a version (default: the challenger) with the champion; exit 7 if it is refused."""
    from latentworks.registry.aliases import REFUSED
    from latentworks.registry.registry import Registry

    entry = Registry(dag.root()).promote(number)
    typer.echo(json.dumps(asdict(entry)) if as_json else entry.text)
    if entry.decision == REFUSED:
        raise typer.Exit(Refused.exit_code)
    if not as_json:
        typer.echo(f"\n{entry.name} version {entry.version} is champion")


@app.command()
def rollback(
    number: Annotated[int | None, VERSION] = None,
    reason: Annotated[str, typer.Option(help="reason to record with the decision")] = "",
) -> None:
    """Make the previous champion, or another former champion, champion again."""
    from latentworks.serving import preflight

    # A rollback is urgent: the trial process imports its packages while this one imports its own.
    with preflight.Trial() as trial:
        from latentworks.registry.registry import Registry

        entry = Registry(dag.root()).rollback(number, reason, trial)
        instead = f", instead of version {entry.champion_before}" if entry.champion_before else ""
        typer.echo(f"{entry.name} version {entry.version} is champion again{instead}")


@app.command()
def rebuild(
    version: Annotated[str, typer.Argument(help="models:/NAME/NUMBER, models:/NAME@ALIAS")],
) -> None:
    """Rebuild a version from its commit, parameters and data; exit 9 if the result differs.

    The stages run in a separate worktree, and take as long as the first time.
    """
    from latentworks.registry.rebuilding import rebuild as make_again

    rebuilt = make_again(dag.root(), version, typer.echo)
    typer.echo(f"\n{rebuilt.table()}\n")
    if rebuilt.same:
        typer.echo(f"{rebuilt.version} came out the same")
        return
    if not rebuilt.same_environment:
        typer.echo("Its commit pins other packages than those installed here.")
    raise Differs(f"{rebuilt.version} did not come out the same: the table lists what differs.")


@app.command()
def drift(
    picture: Annotated[Path, typer.Option(help="file for the picture")] = Path("drift.png"),
) -> None:
    """Compare new images with the champion's test images; exit 8 on drift."""
    from latentworks.artifacts.figures import write_figure
    from latentworks.monitoring.check import check

    report = check(dag.root())
    typer.echo(report.table())
    if report.figure is not None:
        with disk.replacing(picture) as temporary:
            write_figure(temporary, report.figure)
        typer.echo(f"\npicture of test and new images: {picture}")
    if report.drifted:
        raise typer.Exit(DRIFTED)


@app.command()
def serve(
    model: Annotated[str, typer.Option(help="name of a registered model")] = "autoencoder",
    alias: Annotated[str, typer.Option(help="alias of the version to serve")] = "champion",
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port")] = 8000,
    home: Annotated[
        Path | None,
        typer.Option(help="folder for copies of versions", show_default=".latentworks/serving"),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.1, max=60, help="seconds between two checks of the alias")
    ] = 5,
    follow_any: Annotated[
        bool,
        typer.Option("--follow-any", help="also serve versions that no decision made champion"),
    ] = False,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="calls that may wait or be in progress; more get 503")
    ] = 256,
    memory: Annotated[
        int, typer.Option(min=1, help="MB that requests may claim together; more get 503")
    ] = 800,
    allowed_hosts: Annotated[
        str, typer.Option(help="host names that requests may give, besides IP addresses: a,b")
    ] = "",
    cors: Annotated[
        list[str] | None, typer.Option(help="origin whose pages may read answers; repeatable")
    ] = None,
    root_path: Annotated[str, typer.Option(help="prefix that a proxy removes, such as /ml")] = "",
) -> None:
    """Serve over HTTP the version that an alias names, and follow the alias when it moves."""
    from latentworks.server import run

    for name in (model, alias):
        if not (name and name.isascii() and name.isprintable()):
            raise LatentworksError(
                f"--model and --alias take printable ASCII characters. Received: {name!a}."
            )
    if alias != "champion" and not follow_any:
        raise LatentworksError(
            f"No decision is about the alias {alias}. To serve whatever version it names, "
            "add --follow-any."
        )
    folder = _serving_folder()
    settings = run.Settings(
        uri=absolute(tracking_uri(folder)),
        home=(home or folder / STATE / "serving").absolute(),
        model=model,
        alias=alias,
        host=host,
        port=port,
        every=every,
        follow_any=follow_any,
        max_waiting=max_waiting,
        memory=memory * 1_000_000,
        hosts=tuple(_host(name) for name in filter(None, allowed_hosts.split(","))),
        origins=tuple(_origin(text) for text in cors or ()),
        root_path=_root_path(root_path),
    )
    run.serve(settings)


@app.command()
def verify(
    result: Annotated[bool, RESULT] = False,
) -> None:
    """Hash all files of dvc.lock and the registry, and repair damage; exit 11 if a file is lost.

    Damaged files are moved to .latentworks/quarantine.
    """
    from latentworks.system import locks

    _end_by_sigterm()
    root = dag.root()
    with locks.exclusive(locks.of(root), "verify", wait=False):
        from latentworks.registry import version_files
        from latentworks.runner import repair
        from latentworks.runner.verify import verify_checkout

        repair.refuse_beside_dvc(root)
        for line in repair.repair_checkout(root):
            typer.echo(line)
        verified = repair.missing_lock(root) or verify_checkout(root, typer.echo)
        for line in verified.lines():
            typer.echo(line)
        if not result:
            try:
                versions = version_files.verify(root, verified.objects)
            except Unavailable as error:
                typer.echo(verified.summary())
                if verified.lost:  # lost files decide the exit code
                    typer.echo(str(error), err=True)
                    verified.demand_whole()
                raise
            for line in versions.lines():
                typer.echo(line)
            verified += versions
        typer.echo(verified.summary())
        verified.demand_whole()


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="file to write, such as latentworks.tar")],
) -> None:
    """Write versions, decisions, runs and their files into one file, from which restore reads.

    It holds the public keys that are trusted, and not the private key.
    """
    from latentworks.registry import backups

    backups.backup(dag.root(), file, typer.echo)


@app.command()
def restore(
    file: Annotated[Path | None, typer.Argument(help="file of `latentworks backup`")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="move a database with content to the quarantine")
    ] = False,
) -> None:
    """Restore the versions, decisions, runs and files of a backup.

    Without a file, put back the versions and decisions that MLflow's database lacks, from the
    records beside the artifacts.
    """
    from latentworks.registry import backups
    from latentworks.system import locks

    root = dag.root()
    with locks.exclusive(locks.of(root), "restore", wait=False):
        if file is None:
            backups.restore_records(root, typer.echo)
        else:
            backups.restore(root, file, replace, typer.echo)


@keys.command("list")
def list_keys() -> None:
    """List the trusted keys, and tell which of them signs versions on this machine."""
    from latentworks.registry.signatures import Keys, public_text

    known = Keys.of_user()
    typer.echo(f"Keys in {known.folder}:")
    trusted, own = known.trusted(), known.own
    for name, key in trusted.items():
        typer.echo(f"{name}  {public_text(key)}{'  signs here' * (name == own)}")
    if not trusted:
        typer.echo("none yet; the first `latentworks register` makes one")


@keys.command("make")
def make_key() -> None:
    """Make the key that signs versions here, unless there is one, and print its public key."""
    from latentworks.registry.signatures import Keys, public_text

    typer.echo(public_text(Keys.of_user().make().public_key()))


@keys.command("trust")
def trust_key(
    file: Annotated[Path, typer.Argument(help="public key: ssh-ed25519 AAAA…")],
) -> None:
    """Trust the versions that the owner of a public key has signed."""
    from latentworks.registry.signatures import Keys

    typer.echo(f"Versions that key {Keys.of_user().trust(file)} signed are trusted now.")


@keys.command("adopt")
def adopt(
    numbers: Annotated[
        list[int] | None,
        typer.Argument(min=1, max=2**31 - 1, help="numbers of versions; default: all", metavar="N"),
    ] = None,
) -> None:
    """Sign versions from before versions were signed, after a check of their files.

    Without numbers, it signs all versions, if this machine has signed none before.
    """
    from latentworks.registry.adoption import adopt as sign
    from latentworks.registry.registry import Registry

    adopted = 0
    for version in sign(Registry(dag.root()), numbers or []):
        typer.echo(f"{version} is signed now")
        adopted += 1
    if not adopted:
        these = "each of these versions has" if numbers else "no version lacks"
        typer.echo(f"Nothing to sign: {these} a signature.")


@app.command()
def history() -> None:
    """List the decisions about the registered model: when, which version, and why."""
    from latentworks.registry.registry import Registry

    typer.echo(Registry(dag.root()).history_table())


@app.command()
def compare(
    first: Annotated[int, typer.Argument(help="number of a version")],
    second: Annotated[int, typer.Argument(help="number of another version")],
    picture: Annotated[
        Path, typer.Option(help="file for the picture of the same images through both")
    ] = (Path("comparison.png")),
) -> None:
    """Compare two versions: their numbers, and the same test images through both."""
    from latentworks.registry import comparison
    from latentworks.registry.registry import Registry

    registry = Registry(dag.root())
    typer.echo(comparison.compare(registry, first, second, picture))
    typer.echo(f"\nthe same images, reconstructed by both: {picture}")


def _end_by_sigterm() -> None:
    """From now on, exit with 143 on SIGTERM, once the started processes have ended."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)


def _serving_folder() -> Path:
    """Return this folder if the environment names a store, else the checkout around it."""
    if os.environ.get(URI):
        return Path.cwd()
    try:
        return dag.root()
    except LatentworksError as error:
        raise LatentworksError(f"{error} Or set {URI} to the address of MLflow.") from None


def _host(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+", text.strip(), re.ASCII):
        raise LatentworksError(
            f"--allowed-hosts takes names without a port, such as models.example.org,models. "
            f"Received: {text!r}."
        )
    return text.strip()


def _origin(text: str) -> str:
    """Check an origin. Browsers send it in lower case and without a path."""
    if not re.fullmatch(r"https?://[^/\s*]+", text):
        raise LatentworksError(
            f"--cors takes an origin, such as https://example.org. Received: {text!r}."
        )
    return text.lower()


def _root_path(text: str) -> str:
    if not re.fullmatch(r"(/[\w.~-]+)*/?", text, re.ASCII):
        raise LatentworksError(f"--root-path takes a path, such as /ml. Received: {text!r}.")
    return text.rstrip("/")


def _write_recipe(root: Path, name: str) -> None:
    recipes.write(root, name, git.committed(root, str(params.PARAMS)))


if __name__ == "__main__":
    app()
