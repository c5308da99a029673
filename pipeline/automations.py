"""Prefect automations: retrain on events, end dead flow runs, and notify people.

Notifications need one of Prefect's notification blocks, which holds the address of the receiver.
"""

from collections.abc import Callable
from datetime import timedelta
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
from prefect.events.actions import ActionTypes
from prefect.exceptions import ObjectNotFound

from latentworks.errors import LatentworksError
from pipeline.deployments import TAG, require_server
from pipeline.watching import CHANGED, DRIFTED

PREFIX = "latentworks: "
RETRAIN = "retrain/retrain"  # flow and deployment
FLOWS = ["retrain", "watch", "drift"]
LINE = (
    "{{ flow.name }}, {{ flow_run.name }}: {{ flow_run.state.name }}. "
    "{{ flow_run.state.message or '' }} {{ flow_run|ui_url }}"
)


def apply(
    block: str | None,
    report: Callable[[str], None],
    *,
    pending: float,
    silent: float,
) -> None:
    """Create or update all automations, remove outdated ones, and report a line for each.

    `block` is the TYPE/NAME of a notification block, such as `slack-webhook/latentworks`; without a
    block there are no notifications. A flow run that has not started after `pending` seconds, or
    has sent no heartbeat for `silent` seconds, is ended. A deployment without a process for
    `pending` seconds causes a notification. Raises LatentworksError if the server, the deployment
    or the block is missing.
    """
    require_server()
    with get_client(sync_client=True) as client:
        try:
            retrain = client.read_deployment_by_name(RETRAIN).id
        except ObjectNotFound:
            raise LatentworksError(
                f"Prefect has no deployment {RETRAIN} yet. Run `make schedule` or `prefect deploy`."
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
        report("no notifications of failures and decisions: no block was named with --tell")


def automations(
    retrain: UUID, tell: UUID | None, pending: float, silent: float
) -> list[AutomationCore]:
    """Return all automations; without the block `tell`, only those that do not just notify."""
    run = RunDeployment(
        source="selected", deployment_id=retrain, parameters=None, job_variables=None
    )
    made = [
        _automation("retrain on new images", _event(CHANGED), run),
        _automation("retrain on drift", _event(DRIFTED), run),
        _automation(
            "end a run that never starts",
            _silence(pending, "Pending", "Submitting", "InfrastructurePending"),
            _crash("The run did not start."),
        ),
        _automation(
            "end a run that died", _silence(silent, "heartbeat"), _crash("Its process is gone.")
        ),
    ]
    notices = {
        "a run failed": _ended("Failed", "Crashed"),
        "a model was refused": _ended("Refused"),
        "a new champion": _ended("Promoted"),
    }
    if tell:
        made += [_automation(name, trigger, tell=tell) for name, trigger in notices.items()]
        body = (
            "{{ deployment.name }}: no process serves it. Is `make schedule`, or the worker, alive?"
        )
        made.append(_automation("a worker died", _unserved(pending), tell=tell, body=body))
    return made


# --- triggers ------------------------------------------------------------------------------------


def _event(name: str) -> EventTrigger:
    return EventTrigger(expect={name}, threshold=1, within=timedelta(0))


def _of_ours() -> dict[str, str | list[str]]:
    """Match flow runs with the tag TAG: other projects may have a flow named `retrain`, too."""
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
    """Trigger if a flow run sends no event for `seconds` after one of these events."""
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
    """Trigger if no process has asked for the flow runs of a deployment for `seconds`.

    A server that has just started finds all deployments unserved until their processes ask again.
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


# --- actions -------------------------------------------------------------------------------------


def _crash(why: str) -> ChangeFlowRunState:
    """Set a flow run to Crashed, which frees its place and causes a notification.

    Not forced: a last heartbeat may arrive after the run has ended, and its final state must stay.
    """
    return ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=why, force=False)


def _automation(
    name: str,
    trigger: EventTrigger,
    *actions: ActionTypes,
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
            f"Prefect has no notification block {block!r}. Expected TYPE/NAME, such as "
            "slack-webhook/latentworks. Create the block on Prefect's pages."
        ) from None


def _put(client: SyncPrefectClient, automation: AutomationCore) -> str:
    known = client.read_automations_by_name(automation.name)
    if not known:
        client.create_automation(automation)
        return "made"
    # The client sends only fields that were set; the server needs all fields except this one.
    whole = AutomationCore(**automation.model_dump(exclude={"owner_resource"}))
    client.update_automation(known[0].id, whole)
    return "renewed"
