"""Retraining: from the committed code and today's images to a decision about the champion.

DVC chooses which stages run and in which order; Prefect watches them. The flow works in a worktree,
with the code of that worktree.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from latentworks import params
from latentworks.errors import Busy, LatentworksError, Unavailable
from latentworks.params import recipes
from latentworks.registry.registry import Registry
from latentworks.registry.versions import Version
from latentworks.repository import dag, git
from latentworks.repository.result import recorded_result
from latentworks.runner.reproduce import UNCHANGED, reproduce, reproduce_stage
from latentworks.runner.verify import verify_checkout
from latentworks.runner.worktree import RETRAINING, Worktree
from latentworks.runner.worktree_images import link_images
from latentworks.tracking.live import Live
from latentworks.tracking.uri import without_password
from pipeline import reports
from pipeline.reports import Step

OWN = "pipeline/retraining.py"  # this file
NETWORK_STAGE = "fetch"  # the only stage worth retrying, and only if it downloads
DELAYS = [10.0, 60.0, 300.0]  # seconds before each retry of a server or a mirror


Fields = dict[str, Any]  # of a version or a decision: JSON that a latentworks command printed


class OneLine(logging.Filter):
    """Log a LatentworksError as its message alone, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, LatentworksError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


for run in ("flow_runs", "task_runs"):
    logging.getLogger(f"prefect.{run}").addFilter(OneLine())


def run_name() -> str:
    """Name a flow run for its work: `retrain HEAD, recipe seed, train.epochs 12`."""
    given = flow_run.parameters
    parts = [f"retrain {given.get('revision', 'HEAD')}"]
    if given.get("recipe"):
        parts.append(f"recipe {given['recipe']}")
    parts += [f"{name} {value}" for name, value in (given.get("overrides") or {}).items()]
    return ", ".join(parts)


@flow(name="retrain", flow_run_name=run_name)
def retrain(
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    revision: str = "HEAD",
    branch: bool = False,
) -> State[Any]:
    """Run the outdated stages, register the result, and let the gate decide on it.

    `recipe` is a name from recipes/; `overrides` are params such as {"train.epochs": 12};
    `revision` is the branch, tag or commit of the checkout to train. With `branch`, params.yaml and
    dvc.lock also become a branch retrain/NAME-VERSION of the checkout.
    """
    worktree = Worktree(dag.root(), RETRAINING)
    try:
        with worktree.held("retrain"):
            return _retrain(worktree, recipe, overrides or {}, revision, branch)
    except Busy as busy:
        return Cancelled(name="Busy", message=str(busy))


def _retrain(
    worktree: Worktree, recipe: str | None, overrides: dict[str, Any], revision: str, branch: bool
) -> State[Any]:
    started = time.monotonic()
    check_out(worktree, recipe, overrides, revision)
    steps = run_stages(worktree)
    if known := _decided(worktree):
        if Live(worktree.path, without_password(worktree.uri)).key is not None:
            worktree.command(get_run_logger().info, "sync")  # end the run of an old training
        registered = {"name": known.name, "number": known.number}
        failures = _publish(worktree, steps, registered, None, branch)
        decision = f"{known} is this result already, and was {known.tags['decision']}"
        return Completed(name="Nothing new", message=decision + failures)
    verify(worktree)
    version = register(worktree)
    push(worktree)
    entry: Any = promote(worktree, version["number"], return_state=True).result()
    failures = _publish(worktree, steps, version, entry, branch)
    champion = f"{entry['name']}: champion is version {entry['champion_after'] or '-'}"
    get_run_logger().info("%s after %.0f seconds", champion, time.monotonic() - started)
    return Completed(name=str(entry["decision"]).capitalize(), message=entry["reason"] + failures)


def _publish(
    worktree: Worktree,
    steps: list[Step],
    version: Fields,
    entry: Fields | None,
    branch: bool,
) -> str:
    """Write Prefect's pages and push the branch; return what failed, as text.

    A failure here must not undo the decision.
    """
    states = [report(worktree, steps, version, entry, return_state=True)]
    if branch:
        name, number = version["name"], version["number"]
        states.append(push_branch(worktree, name, number, return_state=True))
    return "".join(f"; {state.message}" for state in states if not state.is_completed())


# --- worktree ------------------------------------------------------------------------------------


@task(task_run_name="check out", cache_policy=NO_CACHE)
def check_out(
    worktree: Worktree, recipe: str | None, overrides: Mapping[str, object], revision: str
) -> None:
    """Check out the committed code, write the params of this run, and validate them."""
    log = get_run_logger()
    commit = worktree.check_out(revision)
    if not (worktree.path / OWN).is_file():
        raise LatentworksError(
            f"Cannot retrain commit {commit[:10]}: it has no {OWN}. Choose a newer commit."
        )
    left_out = git.differences(worktree.source)
    if _edited(worktree.source):
        left_out.append(str(params.PARAMS))
    if left_out:
        log.warning("not committed, so not in this run: %s", ", ".join(left_out[:5]))
    text = git.committed(worktree.path, str(params.PARAMS))
    if text is None:
        raise LatentworksError(
            f"Cannot retrain commit {commit[:10]}: it has no {params.PARAMS}. Commit the file."
        )
    worktree.write(str(params.PARAMS), text)
    params.read(worktree.path / params.PARAMS)  # raises ParamsError unless the file is YAML
    if recipe:
        text = recipes.merge(text, recipes.sections(worktree.path, recipe))
    worktree.write(str(params.PARAMS), recipes.overridden(text, overrides))
    link_images(worktree)  # `validate` looks for the images
    worktree.command(log.info, "validate")
    log.info("commit %s is in %s", commit[:10], worktree.path)


def _edited(source: Path) -> bool:
    """True if params.yaml differs from its commit."""
    file = source / params.PARAMS
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None
    return text != git.committed(source, file.name)


# --- stages --------------------------------------------------------------------------------------


def run_stages(worktree: Worktree) -> list[Step]:
    """Run each stage as a task, in DVC's order."""
    path = Path(params.read(worktree.path / params.PARAMS)["dataset"]["path"])
    fetched = dag.is_made(worktree.path, path)
    steps: list[Step] = []

    def each(stage: str, needs: set[str], due: bool) -> str:
        started = time.monotonic()
        run = run_stage.with_options(
            retries=len(DELAYS) if stage == NETWORK_STAGE and fetched else 0
        )
        outcome = str(run(stage, worktree, needs, due, return_state=True).result())
        steps.append(Step(stage, outcome, time.monotonic() - started))
        return outcome

    reproduce(worktree.path, each, worktree.environment)
    return steps


@task(task_run_name="{stage}", retry_delay_seconds=DELAYS, cache_policy=NO_CACHE)
def run_stage(stage: str, worktree: Worktree, needs: set[str], due: bool) -> State[str]:
    """Run one stage if it is due, and log its lines. The state's name is the outcome."""
    outcome = UNCHANGED
    if due:
        log, path = get_run_logger(), worktree.path
        outcome = reproduce_stage(path, stage, needs, log.info, worktree.environment)
    return Completed(name=outcome.capitalize(), data=outcome)


@task(task_run_name="verify", cache_policy=NO_CACHE)
def verify(worktree: Worktree) -> None:
    """Verify the result in the worktree and in DVC's cache before it is registered."""
    log = get_run_logger()
    verified = verify_checkout(worktree.path, log.info, worktree.environment)
    for line in [*verified.lines(), verified.summary()]:
        log.info(line)
    verified.demand_whole()


# --- the registry --------------------------------------------------------------------------------


def _decided(worktree: Worktree) -> Version | None:
    """The version of this result, if a decision about it exists."""
    try:
        return Registry(worktree.path, worktree.uri).decided()
    except Unavailable:  # `register` tries again
        return None


def _may_pass(_task: object, _run: object, state: State[Any]) -> bool:
    """True if another try may succeed, since the registry did not answer."""
    return isinstance(state.result(raise_on_failure=False), Unavailable)


@task(
    task_run_name="register",
    retries=len(DELAYS),
    retry_delay_seconds=DELAYS,
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
)
def register(worktree: Worktree) -> Fields:
    """Register the result as a version, with its dvc.lock and params.yaml; return its fields."""
    log = get_run_logger()
    version = worktree.command(log.info, "register", "--json")
    log.info("%s version %s is registered", version["name"], version["number"])
    return version


@task(
    task_run_name="promote",
    retries=len(DELAYS),
    retry_delay_seconds=DELAYS,
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
)
def promote(worktree: Worktree, number: int) -> State[Fields]:
    """Let the gate decide; return the fields of the decision."""
    log = get_run_logger()
    entry = worktree.command(log.info, "promote", str(number), "--json")
    for line in entry["text"].splitlines():
        log.info(line)
    return Completed(name=entry["decision"].capitalize(), data=entry, message=entry["reason"])


# --- copies and pages ----------------------------------------------------------------------------


@task(
    task_run_name="push",
    retries=len(DELAYS),
    retry_delay_seconds=DELAYS,
    cache_policy=NO_CACHE,
)
def push(worktree: Worktree) -> None:
    """Push the outs in dvc.lock to DVC's remote, so that a local `dvc gc` loses nothing."""
    if worktree.remote:
        worktree.dvc("push", "--quiet")
        get_run_logger().info("pushed to the DVC remote %s", worktree.remote)


@task(task_run_name="push branch", cache_policy=NO_CACHE)
def push_branch(worktree: Worktree, name: str, number: int) -> None:
    """Push the version's params.yaml and dvc.lock to a branch of the checkout."""
    branch = f"retrain/{name}-{number}"
    if worktree.push_branch(branch, f"{name} version {number}"):
        get_run_logger().info("params.yaml and dvc.lock are on branch %s", branch)
    else:
        get_run_logger().info("branch %s exists already and stays unchanged", branch)


@task(task_run_name="report", cache_policy=NO_CACHE)
def report(worktree: Worktree, steps: list[Step], version: Fields, entry: Fields | None) -> None:
    """Write the artifacts of this flow run; without a decision, those of its stages alone."""
    reports.stages(steps, worktree.path)
    if entry is None:
        return
    registry = Registry(worktree.path, worktree.uri)
    reports.decision(entry, registry.pages(version["number"], version["run_id"]))
    result = recorded_result(worktree.path)
    if result and "figures" in result.outs:
        reports.pictures(f"{version['name']} version {version['number']}", result.outs["figures"])
    registry.tidy()  # so that nightly retraining does not fill the disk
