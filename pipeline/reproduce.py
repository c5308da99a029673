"""The DVC stages as a Prefect flow, a task for each.

Prefect says when and watches; DVC decides what is out of date. The order is DVC's own.
"""

import os
from pathlib import Path
from typing import Any

# Read by Prefect when it is imported: its state stays in the project, and without a server it
# starts one for the length of the flow, which takes longer on a busy machine than it allows.
os.environ.setdefault("PREFECT_HOME", str(Path(__file__).parents[1] / ".latentworks/prefect"))
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from latentworks import repository


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def run_stage(stage: str, checkout: Path) -> Any:
    """One stage, its lines in the log; the state is named for what became of it."""
    log = get_run_logger()
    outcome = repository.reproduce(checkout, stage, log.info)
    return Completed(name=outcome.capitalize(), data=outcome)


@flow
def reproduce(checkout: Path | None = None) -> dict[str, str]:
    """Bring every stage up to date; returns what became of each: ran, restored, unchanged."""
    checkout = checkout or repository.root()
    return {stage: str(run_stage(stage, checkout)) for stage in repository.order(checkout)}


if __name__ == "__main__":
    reproduce()
