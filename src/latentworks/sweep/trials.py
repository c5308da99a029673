"""A sweep: trials one after the other, each recorded on disk and shown in MLflow as it ends."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latentworks import params, sections
from latentworks.errors import DataError, LatentworksError
from latentworks.params import recipes
from latentworks.repository import git
from latentworks.repository.dvc import StageError
from latentworks.repository.result import recorded_result
from latentworks.results import open_result
from latentworks.sweep import axes as arguments
from latentworks.sweep import best, scores, search, table
from latentworks.sweep.axes import Axis, Values
from latentworks.sweep.local import Local
from latentworks.sweep.records import Folder, Record
from latentworks.system.console import first_line
from latentworks.tracking import outbox

if TYPE_CHECKING:
    from latentworks.tracking.store import Store

# Runs the stages with a text of params.yaml, and returns the checkout that then has the result.
# Raises StageError if a stage fails. `Local` does so here; a cluster would be another one.
Executor = Callable[[str], Path]
Report = Callable[[str], None]
ORIGINALS = 0  # the number under which a folder keeps the validation images
CSV, PICTURE = "trials.csv", "trials.png"


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, and the score that compares them."""

    root: Path  # of the checkout
    base: str  # text of params.yaml
    axes: Sequence[Axis]
    num_trials: int | None  # of a search; None for a grid
    by: str

    @property
    def total(self) -> int:
        return self.num_trials or len(arguments.grid(self.axes))

    @property
    def name(self) -> str:
        return " and ".join(axis.name for axis in self.axes)

    def check(self) -> None:
        """Raise ParamsError unless params.yaml is valid with each value of each param."""
        combined = arguments.one_by_one if self.num_trials else arguments.grid
        for values in combined(self.axes):
            text = recipes.overridden(self.base, values)
            checked = sections.check(recipes.sections_of(text), self.root)
            sections.refuse_images_among_outputs(self.root, checked.dataset)
            sections.require_images(self.root, checked.dataset)

    def identity(self, commit: str) -> dict[str, object]:
        """Return the facts that the trials depend on. More trials may follow in a search."""
        found = [(axis.name, str(axis)) for axis in self.axes]  # their order numbers the trials
        how = {"search": self.by} if self.num_trials else {}
        base = recipes.sections_of(self.base)
        return {"axes": found, "params": base, "commit": commit, **how}

    def values(self, before: Sequence[Record]) -> Values:
        """Return the values of the trial after those of `before`."""
        if not self.num_trials:
            return arguments.grid(self.axes)[len(before)]
        seed = int(recipes.sections_of(self.base)["seed"])
        return search.next_values(self.axes, before, self.by, seed)


def sweep(
    root: Path, given: Sequence[str], num_trials: int | None, by: str, name: str, report: Report
) -> None:
    """Run the trials of a sweep that are not finished; report a table, and write the best recipe.

    Raises ParamsError for values that params.yaml does not take, Busy while another sweep runs in
    this checkout, and LatentworksError if no trial finishes.
    """
    scores.require_known(by)
    if num_trials:
        search.require_optuna()
    params.read(root / params.PARAMS)  # raises unless it is valid YAML
    base = (root / params.PARAMS).read_text(encoding="utf-8")
    axes = arguments.parse(given, with_ranges=num_trials is not None)
    plan = Plan(root, base, axes, num_trials, by)
    plan.check()
    recipe = best.path_of(root, name)
    local = Local(root, report)
    commit = local.worktree.repository.resolve("HEAD")
    folder = Folder(root, plan.identity(commit))
    with local.ready(commit):
        if left_out := git.differences(root):
            report(f"note: not committed, so not in the trials: {', '.join(left_out[:5])}")
        records = run(plan, folder, local, report)
    conclude(plan, folder, records, recipe, report)


def conclude(
    plan: Plan, folder: Folder, records: Sequence[Record], recipe: Path, report: Report
) -> None:
    """Report the table, and write the best trial as the file `recipe`.

    Raises LatentworksError if all trials failed.
    """
    found = table.ordered(records, plan.by)
    report(f"\n{table.text(found)}\n")
    report(f"The table with all digits, and a picture: {folder.path.relative_to(plan.root)}")
    first = found[0]
    if not first.is_finished:
        raise LatentworksError(f"All {len(found)} trials failed. The last one: {found[-1].fault}")
    reason = f"{len(found)} trials of {plan.name}: {plan.by} {first.scores[plan.by]:.4g}"
    best.write(plan.root, recipe, plan.base, first.values, f"{reason} on validation images")
    report(f"The best by {plan.by} is trial {first.number}. {_how_to_use(plan.root, recipe)}")


def run(plan: Plan, folder: Folder, execute: Executor, report: Report) -> list[Record]:
    """Run the trials that are not finished, and return the records of all."""
    known = [folder.read(number) for number in range(1, plan.total + 1)]
    if done := sum(record is not None and record.is_finished for record in known):
        report(f"{done} of {plan.total} trials are finished, and do not run again")
    records: list[Record] = []
    try:
        for number, record in enumerate(known, start=1):
            if record is None or not record.is_finished:
                record = Record(number, record.values if record else plan.values(records))
                folder.write(record)  # before it runs, so that a search goes on with its values
                report(f"trial {number} of {plan.total}: {record.summary}")
                record = _try(plan, record, folder, execute)
                folder.write(record)
                report(f"trial {number} of {plan.total}: {_outcome(record, plan.by)}")
                _publish(plan, folder, [*records, record], "RUNNING")
            records.append(record)
    except BaseException:  # SIGTERM, Ctrl-C, or an error that stops all trials
        _publish(plan, folder, records, "KILLED", outbox.LAST_PATIENCE)
        raise
    _publish(plan, folder, records, "FINISHED")
    return records


def _try(plan: Plan, record: Record, folder: Folder, execute: Executor) -> Record:
    """Run a trial; return its record with its scores, or with its fault."""
    try:
        checkout = execute(recipes.overridden(plan.base, record.values))
    except StageError as error:
        return Record(record.number, record.values, fault=first_line(str(error)))
    result = recorded_result(checkout)
    if result is None or "samples" not in result.outs:
        raise DataError(f"{checkout} has no complete result. Run the same command again.")
    servable = open_result(checkout).servable
    folder.write_images(ORIGINALS, scores.originals(result))
    folder.write_images(record.number, scores.images(result, servable))
    measured = scores.score(result, servable)
    samples = result.samples_digest() or ""
    return Record(record.number, record.values, measured, "", result.model_digest(), samples)


def _outcome(record: Record, by: str) -> str:
    return f"{by} {record.scores[by]:.4g}" if record.is_finished else f"failed: {record.fault}"


def _how_to_use(root: Path, recipe: Path) -> str:
    if recipe.parent == root / "recipes":
        name = recipe.stem
        return f"`latentworks recipe {name}` writes its params into params.yaml."
    return f"Its params are in {recipe}."


def _publish(
    plan: Plan,
    folder: Folder,
    records: Sequence[Record],
    status: str,
    patience: float = outbox.PATIENCE,
) -> None:
    """Write the table and the picture into the folder and into MLflow, which may be down."""
    if not records:
        return
    found = table.ordered(records, plan.by)
    files = [folder.path / CSV]
    table.write_csv(files[0], found)
    with suppress(OSError):  # a row of images was removed
        numbers = [record.number for record in found if record.is_finished]
        images = {number: folder.read_images(number) for number in (ORIGINALS, *numbers)}
        table.write_picture(folder.path / PICTURE, found, images, plan.by)
        files.append(folder.path / PICTURE)
    sent = outbox.Outbox(plan.root, patience)
    sent.send(lambda store: _write(store, plan, folder, found, files, status))
    sent.close()


def _write(
    store: "Store",
    plan: Plan,
    folder: Folder,
    found: Sequence[Record],
    files: Sequence[Path],
    status: str,
) -> None:
    from latentworks.tracking import sweeps  # imports MLflow

    done = sum(record.is_finished for record in found)
    page = sweeps.Sweep(
        key=folder.key,
        name=f"sweep · {plan.name}",
        text=f"{done} of {plan.total} trials, the best {plan.by} first. Scores are of validation "
        "images; the runs of the trials have those of test images.",
        axes={axis.name: str(axis) for axis in plan.axes},
        head=table.head(found),
        trials=[
            sweeps.Trial(table.cells(record), record.scores, record.model, record.samples)
            for record in found
        ],
        files=files,
        status=status,
    )
    sweeps.write(store, page)
