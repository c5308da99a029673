"""Flow runs, task runs and artifacts of a Prefect server, as its pages show them."""

from typing import Any

import requests

from servers import until


class PrefectPages:
    """The data of a Prefect server's pages, read over its API."""

    def __init__(self, api: str) -> None:
        self.api = api

    def post(self, path: str, **body: Any) -> Any:
        answer = requests.post(f"{self.api}/{path}", json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def last_run(self) -> dict[str, Any]:
        return dict(self.post("flow_runs/filter", sort="START_TIME_DESC", limit=1)[0])

    def tasks(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the task runs of a flow run by name. Wait until each has ended."""
        chosen = {"id": {"any_": [run["id"]]}}

        def ended() -> list[dict[str, Any]] | None:
            found = self.post("task_runs/filter", flow_runs=chosen, sort="EXPECTED_START_TIME_ASC")
            return found if all(task["end_time"] for task in found) else None

        return {task["name"]: task for task in until(ended)}

    def artifacts(self, run: dict[str, Any]) -> dict[str, Any]:
        found = self.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
        return {artifact["key"]: artifact["data"] for artifact in found}
