"""Decisions about versions. Each decision is an MLflow run in the experiment DECISIONS."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Run

from latentworks.tracking.once import create_once

DECISIONS = "latentworks decisions"  # name of the experiment


@dataclass(frozen=True)
class Entry:
    """A decision, as `latentworks history` lists it."""

    id: str  # chosen by the deciding process, so that a request sent twice is one decision
    name: str
    version: int
    decision: str  # promoted, refused or restored
    reason: str
    champion_before: int | None
    champion_after: int | None
    text: str = ""  # Markdown: the decision, the reason, the scores
    scored: bool = False  # the text has a table of scores
    metrics: dict[str, float] = field(default_factory=dict)  # of challenger and champion, by name
    milliseconds: int = 0  # since 1970, when it was recorded
    status: str = ""  # FINISHED when the aliases follow the decision
    run_id: str = ""


class Decisions:
    """All decisions in a store."""

    def __init__(
        self,
        client: MlflowClient,
        experiment: Callable[[], Experiment | None] | None = None,
        origin: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """Use the experiment that `experiment` returns; by default look for it in the store.

        `origin` returns tags that say who records decisions, and where.
        """
        self.client = client
        self.origin = origin
        self.experiment = experiment or (lambda: client.get_experiment_by_name(DECISIONS))

    def record(self, entry: Entry) -> Entry:
        """Write a decision as a run. The run stays open until `close`."""
        values = {**asdict(entry), "metrics": json.dumps(entry.metrics)}
        tags = {
            tag: "" if values[name] is None else str(values[name]) for name, tag in _TAGS.items()
        }
        experiment = self.experiment()
        assert experiment is not None  # only a `RegistryStore` records, and it makes one
        run = create_once(
            lambda: [*self._runs(f"tags.`{_TAGS['id']}` = '{entry.id}'")],
            lambda: self.client.create_run(
                experiment.experiment_id,
                tags={**self.origin(), **tags},
                run_name=f"{entry.name} {entry.version} {entry.decision}",
            ),
            lambda double: self.client.delete_run(double.info.run_id),
        )
        return _entry(run)

    def close(self, entry: Entry, status: str = "FINISHED") -> None:
        """End the run: FINISHED once the aliases follow the decision, KILLED if they never do.

        Logs the metrics, which `record` wrote into a tag. So a decision that another process
        completes has them, too. MLflow keeps one of equal points. Also deletes duplicate runs that
        a kill or a late answer left, which `record` did not see.
        """
        if entry.metrics:
            when = entry.milliseconds
            points = [Metric(name, value, when, 0) for name, value in entry.metrics.items()]
            self.client.log_batch(entry.run_id, metrics=points)
        self.client.set_terminated(entry.run_id, status)
        for other in self._runs(f"tags.`{_TAGS['id']}` = '{entry.id}'"):
            if other.info.run_id != entry.run_id:
                self.client.delete_run(other.info.run_id)

    def of(self, name: str, *, unfinished: bool = False) -> list[Entry]:
        """Decisions about the model `name`, oldest first; with `unfinished` the open ones only."""
        terms = [f"tags.`{_TAGS['name']}` = '{name}'"]
        if unfinished:
            terms.append("attributes.status = 'RUNNING'")
        entries: dict[str, Entry] = {}
        for run in self._runs(" and ".join(terms)):
            with suppress(ValueError, TypeError):  # skip a run whose tags were edited by hand
                entry = _entry(run)
                # A kill may have left two runs of one decision.
                entries.setdefault(entry.id or entry.run_id, entry)
        return [*entries.values()]

    def champions(self, name: str) -> set[int]:
        """The version that the last decision made champion, and those of decisions in progress."""
        found: set[int] = set()
        for entry in reversed(self.of(name)):
            if entry.champion_after == entry.version and entry.status != "KILLED":
                found.add(entry.version)
                if entry.status == "FINISHED":
                    break
        return found

    def _runs(self, terms: str) -> Iterator[Run]:
        token, experiment = None, self.experiment()
        while experiment is not None:
            page = self.client.search_runs(
                [experiment.experiment_id],
                terms,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return


_TAGS = {
    "id": "decision.id",
    "name": "model.name",
    "version": "model.version",
    "decision": "decision",
    "reason": "decision.reason",
    "champion_before": "champion.before",
    "champion_after": "champion.after",
    "scored": "decision.scored",
    "metrics": "decision.metrics",
    "text": "mlflow.note.content",  # MLflow shows this tag as the run's description
}
# The tags of a decision that nobody edits: MLflow's pages let the user edit its text.
FIXED = tuple(tag for name, tag in _TAGS.items() if name != "text")


def _entry(run: Run) -> Entry:
    values: dict[str, Any] = {name: run.data.tags.get(tag, "") for name, tag in _TAGS.items()}
    for name in ("version", "champion_before", "champion_after"):
        values[name] = int(values[name]) if values[name] else None
    # Decisions from before this tag show their scores in a table.
    values["metrics"] = dict(json.loads(values["metrics"] or "{}"))
    values["scored"] = values["scored"] == str(True) or "\n| " in values["text"]
    info = run.info
    return Entry(**values, milliseconds=info.start_time, status=info.status, run_id=info.run_id)
