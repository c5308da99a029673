"""The deployments of prefect.yaml, served from one process without work pool or worker."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import prefect
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.server.schemas.schedules import CronSchedule as Cron
from ruamel.yaml import YAML

from latentworks.errors import LatentworksError
from pipeline.server import auth_file

FILE = "prefect.yaml"
TAG = "latentworks"  # on all flow runs, to distinguish them from those of other projects
RUNS_AT_ONCE = 5  # in this process; each deployment also has its own limit in prefect.yaml


def read_deployments(root: Path) -> list[dict[str, Any]]:
    """The deployments in prefect.yaml."""
    content = YAML(typ="safe", pure=True).load((root / FILE).read_text(encoding="utf-8"))
    return [dict(deployment) for deployment in content["deployments"]]


def serve(root: Path, report: Callable[[str], None]) -> None:
    """Register the deployments, run them on schedule, and return when interrupted.

    `report` gets a line for each deployment: when its next flow run starts. Raises LatentworksError
    if no Prefect server answers: the temporary server of a flow has no scheduler.
    """
    require_server()
    served = [_runner(deployment) for deployment in read_deployments(root)]
    with get_client(sync_client=True) as client:
        for deployment in served:
            # Prefect keeps the old folder of a known deployment, and a run copies that folder over
            # the project. So set the folder to the project, where a run copies nothing.
            identity = deployment.apply()
            assert isinstance(identity, UUID)  # no coroutine, since this code is synchronous
            client.update_deployment(identity, DeploymentUpdate(path=str(root)))
    for written in read_deployments(root):
        report(f"{written['name']}: next flow run {next_run(written['schedules'])}")
    prefect.serve(*served, limit=RUNS_AT_ONCE)


def next_run(schedules: list[dict[str, Any]]) -> str:
    """Return the time of the next flow run of a deployment, as `Tue 2026-12-01 03:00 UTC`."""
    dates = [
        date
        for schedule in schedules
        for date in asyncio.run(Cron(**schedule).get_dates(1, start=datetime.now(UTC)))
    ]
    return f"{min(dates):%a %Y-%m-%d %H:%M %Z}" if dates else "only by hand or on an event"


def require_server() -> None:
    url = prefect.settings.get_current_settings().api.url
    with get_client(sync_client=True) as client:
        fault = client.api_healthcheck()
        if fault is not None:
            raise LatentworksError(f"The Prefect server at {url} does not answer. Start it first.")
        try:
            client.read_flows(limit=1)
        except PrefectHTTPStatusError as error:
            status = error.response.status_code
            if status not in (401, 403):
                raise LatentworksError(
                    f"The Prefect server at {url} answered with status {status}. Its log says why."
                ) from None
            raise LatentworksError(
                f"The Prefect server at {url} refused the password (status {status}). Set "
                "PREFECT_API_AUTH_STRING or PREFECT_API_KEY to its password; that of "
                f"`make prefect` is in {auth_file()}."
            ) from None


def _runner(deployment: dict[str, Any]) -> RunnerDeployment:
    schedules = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        )
        for schedule in deployment["schedules"]
    ]
    made: RunnerDeployment = RunnerDeployment.from_entrypoint(
        deployment["entrypoint"],
        name=deployment["name"],
        description=deployment["description"],
        parameters=deployment.get("parameters", {}),
        tags=deployment["tags"],
        schedules=schedules,
        concurrency_limit=ConcurrencyLimitConfig(**deployment["concurrency_limit"]),
    )
    return made
