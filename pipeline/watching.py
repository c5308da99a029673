"""Flows that watch incoming images: `watch` detects changes, and `drift` detects drift.

Both flows only emit an event; the automations react to it.
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


@flow(name="watch", flow_run_name="look for new images")
def watch(cool_down: int = 3600) -> State[Any]:
    """Emit an event when the images at dataset.path change, at most once in `cool_down` seconds.

    A change counts once two runs of this flow find the same files, since copying takes time.
    """

    def tell(path: str) -> None:
        emit_event(CHANGED, resource=_resource("data", path), payload={"path": path})

    look = source.look(dag.root(), cool_down, time.time(), tell)
    get_run_logger().info("%s: %s", look.path, look.state)
    return Completed(name=look.state.capitalize())


@flow(name="drift", flow_run_name="compare new images with the champion's")
def drift() -> State[Any]:
    """Compare the images that the champion never saw with its own test images."""
    # The import takes seconds, which `watch` and `schedule` do not need.
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
