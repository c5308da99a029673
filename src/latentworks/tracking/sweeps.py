"""The run of a sweep in MLflow: a table of its trials, above their runs.

The run of a trial is that of its result. It becomes a child of the sweep that had it last.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from latentworks.tracking.once import create_once
from latentworks.tracking.pages import WORKFLOW
from latentworks.tracking.runs import RunLog
from latentworks.tracking.source import code_tags, origin_tags
from latentworks.tracking.store import MODEL, SAMPLES, Store

KEY = "sweep.key"  # tag of the run of a sweep
GROUP = "validation"  # of the metrics
MAX_LENGTH = 5000  # characters of a param


@dataclass(frozen=True)
class Trial:
    """A row of the table of a sweep. The digests are empty if the trial has no result."""

    cells: tuple[str, ...]
    scores: dict[str, float]
    model: str
    samples: str


@dataclass(frozen=True)
class Sweep:
    """The content of the run of a sweep."""

    key: str
    name: str
    text: str  # above the table
    axes: dict[str, str]  # params and their values, as text
    head: tuple[str, ...]  # of the table; its first column links to the run of the trial
    trials: Sequence[Trial]  # the best one first
    files: Sequence[Path]
    status: str  # RUNNING, FINISHED or KILLED


def write(store: Store, sweep: Sweep) -> None:
    """Write the run of a sweep, and make the runs of its trials its children."""
    run_id = _find_or_create(store, sweep)
    store.client.update_run(run_id, status="RUNNING")
    links = [_adopt(store, run_id, trial) for trial in sweep.trials]
    known = store.client.get_run(run_id).data.params
    chosen = [Param(name, text[:MAX_LENGTH]) for name, text in sweep.axes.items()]
    store.client.log_batch(run_id, params=[param for param in chosen if param.key not in known])
    if sweep.trials:
        _log_scores(store, run_id, sweep.trials[0].scores)
    store.client.set_tag(run_id, MLFLOW_RUN_NOTE, f"{sweep.text}\n\n{_table(sweep, links)}")
    RunLog(store.client, run_id, store.root).log_files("trials", "", list(sweep.files))
    if sweep.status != "RUNNING":
        store.client.set_terminated(run_id, sweep.status)


def _find_or_create(store: Store, sweep: Sweep) -> str:
    tags = {**origin_tags(store.root), **code_tags(store.root), KEY: sweep.key}
    query = f"tags.`{KEY}` = '{sweep.key}'"
    run = create_once(
        lambda: list(store.client.search_runs([store.experiment_id], query))[::-1],
        lambda: store.client.create_run(store.experiment_id, tags=tags, run_name=sweep.name),
        lambda double: store.client.delete_run(double.info.run_id),
    )
    return str(run.info.run_id)


def _adopt(store: Store, parent: str, trial: Trial) -> str:
    """Make the run of a trial a child of `parent`; return the address of its page, or ""."""
    if not trial.model:
        return ""
    query = f"tags.`{MODEL}` = '{trial.model}' and tags.`{SAMPLES}` = '{trial.samples}'"
    for run in store.client.search_runs([store.experiment_id], query):
        run_id = run.info.run_id
        if run.data.tags.get(MLFLOW_PARENT_RUN_ID) != parent:
            store.client.log_batch(run_id, tags=[RunTag(MLFLOW_PARENT_RUN_ID, parent)])
        _log_scores(store, run_id, trial.scores)
        return f"#/experiments/{store.experiment_id}/runs/{run_id}?{WORKFLOW}"
    return ""  # MLflow was down when the trial ended


def _log_scores(store: Store, run_id: str, scores: dict[str, float]) -> None:
    known, now = store.client.get_run(run_id).data.metrics, int(time.time() * 1000)
    named = {f"{GROUP}/{name}": value for name, value in scores.items()}
    new = [Metric(name, named[name], now, 0) for name in named if known.get(name) != named[name]]
    store.client.log_batch(run_id, metrics=new)


def _table(sweep: Sweep, links: Sequence[str]) -> str:
    """Return the table in Markdown."""
    lines = [sweep.head, ("---",) * len(sweep.head)]
    for trial, link in zip(sweep.trials, links, strict=True):
        number, *cells = (cell.replace("|", "\\|") for cell in trial.cells)
        lines.append((f"[{number}]({link})" if link else number, *cells))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
