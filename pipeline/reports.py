"""Artifacts of a flow run on Prefect's pages: stages, decision, pictures, and links to MLflow.

Each kind of artifact has a fixed key, so that Prefect shows its history.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from latentworks.repository import timings

if TYPE_CHECKING:  # the import takes seconds
    from latentworks.monitoring.check import Report

PICTURES = ("reconstructions", "samples")  # figures of `evaluate` to show


@dataclass(frozen=True)
class Step:
    """Outcome of a stage."""

    stage: str
    outcome: str  # ran, restored or unchanged
    seconds: float  # in this flow run


def stages(steps: list[Step], folder: Path) -> None:
    """Write a table with a row for each stage; peak memory only for stages that ran."""
    rows = []
    for step in steps:
        record = timings.read(step.stage, folder) if step.outcome == "ran" else None
        memory = f"{record['peak_memory_mb']:,} MB" if record else ""
        seconds = f"{step.seconds:.1f}"
        rows.append(
            {"stage": step.stage, "state": step.outcome, "seconds": seconds, "memory": memory}
        )
    create_table_artifact(rows, "stages", "Outcome and duration of each stage.")


def decision(entry: Mapping[str, object], pages: Mapping[str, str]) -> None:
    """Write the decision with its scores, and links to the version and its MLflow run."""
    name, number = entry["name"], entry["version"]
    champion = f"{name}: champion is version {entry['champion_after'] or '-'}"
    text = f"# {name} version {number}\n\n{entry['text']}\n\n{champion}\n"
    create_markdown_artifact(text, "decision", f"Version {number} {entry['decision']}")
    create_link_artifact(pages["version"], f"{name} version {number}", "version", "In MLflow")
    create_link_artifact(pages["run"], "The MLflow run of this result", "mlflow-run", "In MLflow")


def drift(report: Report) -> None:
    """Write the table and the picture of a drift check."""
    names, *rows = report.rows()
    table = [dict(zip(names, row, strict=True)) for row in rows]
    about = f"{report.version}: {report.reason}. {report.path}: {report.counted}."
    create_table_artifact(table or [report.counts], "drift", about)
    if report.figure is not None:
        content = io.BytesIO()
        report.figure.savefig(content, format="png")
        _picture("drift-picture", report.reason, content.getvalue())


def pictures(title: str, figures: Path) -> None:
    """Write the pictures as base64 text, so that Prefect's page needs no other server."""
    for name in PICTURES:
        _picture(name, f"{title}: {name}", (figures / f"{name}.png").read_bytes())


def _picture(key: str, title: str, png: bytes) -> None:
    content = base64.b64encode(png).decode()
    text = f"# {title}\n\n![{title}](data:image/png;base64,{content})\n"
    create_markdown_artifact(text, key, title)
