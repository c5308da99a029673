"""What happens when something happens: Prefect automations, made or renewed by one command.

The ones that tell people need a notification block of Prefect's, which holds the address to tell.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import (
    AutomationCore,
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    RunDeployment,
    SendNotification,
)
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

from latentworks.errors import LatentworksError
from pipeline.deployments import TAG, require_server
from pipeline.watching import CHANGED, DRIFTED

PREFIX = "latentworks: "
RETRAIN = "retrain/retrain"  # flow and deployment
FLOWS = ["retrain", "watch", "drift"]
LINE = (
    "{{ flow.name }} {{ flow_run.name }}: {{ flow_run.state.name }}. "
    "{{ flow_run.state.message or '' }} {{ flow_run|ui_url }}"
)


def apply(
    block: str | None,
    report: Callable[[str], None],
    *,
    pending: float,
    silent: float,
) -> None:
    """Make every automation what it is here, and report a line for each.

    `block` is TYPE/NAME of a notification block, `slack-webhook/latentworks` for one; without it
    nobody is told. A run that is pending or silent for so many seconds is ended; a deployment that
    nobody serves may be so for as long as a run may be pending. Those of an earlier call that are
    no more are removed. Raises LatentworksError where the server, deployment or block is missing.
    """
    require_server()
    with get_client(sync_client=True) as client:
        try:
            retrain = client.read_deployment_by_name(RETRAIN).id
        except ObjectNotFound:
            raise LatentworksError(
                f"there is no deployment {RETRAIN} yet. Run `make schedule` or `prefect deploy`."
            ) from None
        tell = _notification(client, block) if block else None
        wanted = automations(retrain, tell, pending, silent)
        for automation in wanted:
            report(f"{_put(client, automation)}: {automation.name}")
        names = {automation.name for automation in wanted}
        for known in client.read_automations():
            if known.name.startswith(PREFIX) and known.name not in names:
                client.delete_automation(known.id)
                report(f"removed: {known.name}")
    if block is None:
        report("nobody is told of failures and decisions: no notification block was named")


def automations(
    retrain: UUID, tell: UUID | None, pending: float, silent: float
) -> list[AutomationCore]:
    """All of them; those that only tell somebody are left out where nobody is to be told."""
    run = RunDeployment(
        source="selected", deployment_id=retrain, parameters=None, job_variables=None
    )
    made = [
        _automation("new images are trained on", _event(CHANGED), run),
        _automation("drift is trained on", _event(DRIFTED), run),
        _automation(
            "a run that never starts is ended",
            _silence(pending, "Pending", "Submitting", "InfrastructurePending"),
            _crash("never started"),
        ),
        _automation(
            "a run that died is ended", _silence(silent, "heartbeat"), _crash("its process is gone")
        ),
    ]
    told = {
        "a failed run is told": _ended("Failed", "Crashed"),
        "a refused model is told": _ended("Refused"),
        "a new champion is told": _ended("Promoted"),
    }
    if tell:
        made += [_automation(name, trigger, tell=tell) for name, trigger in told.items()]
        body = "{{ deployment.name }}: nobody runs it. Is its process, or the worker, alive?"
        made.append(_automation("a dead worker is told", _unserved(pending), tell=tell, body=body))
    return made


# --- when ----------------------------------------------------------------------------------------


def _event(name: str) -> EventTrigger:
    return EventTrigger(expect={name}, threshold=1, within=timedelta(0))


def _of_ours() -> dict[str, Any]:
    """Runs with our tag: other projects may have a flow called `retrain`, too."""
    return {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}


def _ended(*states: str) -> EventTrigger:
    return EventTrigger(
        expect={f"prefect.flow-run.{state}" for state in states},
        match_related=_of_ours(),
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(0),
    )


def _silence(seconds: float, *events: str) -> EventTrigger:
    """Nothing more of a flow run for so long after one of these events of it."""
    return EventTrigger(
        posture=Posture.Proactive,
        after={f"prefect.flow-run.{event}" for event in events},
        expect={"prefect.flow-run.*"},
        match_related=_of_ours(),
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(seconds=seconds),
    )


def _unserved(seconds: float) -> EventTrigger:
    """Nobody has asked for the runs of a deployment, and that goes on for so long.

    A server that was away finds all of them unserved, until they ask again.
    """
    return EventTrigger(
        posture=Posture.Proactive,
        after={"prefect.deployment.not-ready"},
        expect={"prefect.deployment.ready"},
        match={"prefect.resource.name": FLOWS},
        for_each={"prefect.resource.id"},
        threshold=1,
        within=timedelta(seconds=seconds),
    )


# --- what ----------------------------------------------------------------------------------------


def _crash(why: str) -> ChangeFlowRunState:
    """Its place is free again, and a failed run is told.

    Not forced: a last heartbeat may arrive after the end of its run, which then stays as it ended.
    """
    return ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=why, force=False)


def _automation(
    name: str,
    trigger: EventTrigger,
    *actions: Any,
    tell: UUID | None = None,
    body: str = LINE,
) -> AutomationCore:
    notify = [SendNotification(block_document_id=tell, subject=name, body=body)] if tell else []
    return AutomationCore(name=f"{PREFIX}{name}", trigger=trigger, actions=[*actions, *notify])


def _notification(client: SyncPrefectClient, block: str) -> UUID:
    kind, _, name = block.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound:
        raise LatentworksError(
            f"Prefect has no block {block!r}. Expected one such as slack-webhook/latentworks."
        ) from None


def _put(client: SyncPrefectClient, automation: AutomationCore) -> str:
    known = client.read_automations_by_name(automation.name)
    if not known:
        client.create_automation(automation)
        return "made"
    # The client sends what was set; the server wants all of it but this.
    whole = AutomationCore(**automation.model_dump(exclude={"owner_resource"}))
    client.update_automation(known[0].id, whole)
    return "renewed"
