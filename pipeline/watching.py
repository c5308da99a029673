"""Looking at the images that come in: have they changed, and are they still what was learnt?

Both flows only look, and tell by an event; what follows is up to the automations.
"""

import time
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from latentworks.errors import NoChampion
from latentworks.monitoring import source
from latentworks.repository import dag
from pipeline import reports

CHANGED = "latentworks.data.changed"
DRIFTED = "latentworks.drift.found"


@flow(name="watch")
def watch(cool_down: int = 3600) -> State[Any]:
    """Tell when the images at dataset.path have changed; at most once in `cool_down` seconds.

    A change is told when two looks have found the same, since somebody may still be copying.
    """

    def tell(path: str) -> None:
        emit_event(CHANGED, resource=_resource("data", path), payload={"path": path})

    look = source.look(dag.root(), cool_down, time.time(), tell)
    get_run_logger().info("%s: %s", look.path, look.state)
    return Completed(name=look.state.capitalize())


@flow(name="drift")
def drift() -> State[Any]:
    """Compare the images that the champion never saw with its own test images."""
    # It takes seconds to import, and whoever only watches, or schedules, does without.
    from latentworks.monitoring.check import check

    try:
        report = check(dag.root())
    except NoChampion as fault:
        return Completed(name="No champion", message=str(fault))
    reports.drift(report)
    if report.drifted:
        resource = _resource("model", report.version)
        emit_event(DRIFTED, resource=resource, payload={"reason": report.reason})
    get_run_logger().info(report.reason)
    return Completed(name="Drift" if report.drifted else "No drift", message=report.reason)


def _resource(kind: str, name: str) -> dict[str, str]:
    return {"prefect.resource.id": f"latentworks.{kind}", "prefect.resource.name": name}
