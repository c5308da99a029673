"""Versions and decisions as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from latentworks.promotion.decision import METRICS, Decision, number, percent, span
from latentworks.promotion.scores import Scores
from latentworks.registry.decisions import DECISIONS
from latentworks.system.console import columns

if TYPE_CHECKING:
    from latentworks.registry.decisions import Entry  # these two modules import MLflow
    from latentworks.registry.versions import Version
NOT_DONE = {
    "RUNNING": " (in progress, or interrupted: the next `promote` or `rollback` completes it)",
    "KILLED": " (never carried out)",
}


def decision(made: Decision) -> str:
    """The rows of a decision as a Markdown table, aligned for a terminal."""
    first = all(row.champion is None for row in made.rows)
    if first:
        cells = [["metric", "challenger", "reference", "limit", "verdict"]]
    else:
        cells = [["metric", "challenger", "champion", "better by", "95 % band", "limit", "verdict"]]
    for row in made.rows:
        against = row.reference if first else row.champion
        gain = "" if row.gain is None else f"{percent(row.gain)} %"
        band = "" if row.band is None else f"{span(row.band)} %"
        middle = [] if first else [gain, band]
        numbers = [number(row.challenger), number(against), *middle, number(row.limit)]
        cells.append([row.metric, *numbers, row.verdict])
    aligned = []
    for column in zip(*cells, strict=True):
        width = max(map(len, column))
        if column[0] in ("metric", "verdict"):
            aligned.append([text.ljust(width) for text in (column[0], "-" * width, *column[1:])])
        else:
            rule = "-" * (width - 1) + ":"  # align numbers on the right
            aligned.append([text.rjust(width) for text in (column[0], rule, *column[1:])])
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*aligned, strict=True))


def history(name: str, entries: list[Entry], champion: int | None) -> str:
    """One line per decision, and the current champion."""
    if not entries and champion is not None:
        return (
            f"{name}: champion is version {champion}, and no decision is on record. Restore the "
            f'experiment "{DECISIONS}" in MLflow; if nobody deleted it, the alias was set by hand.'
        )
    if not entries:
        return (
            f"No decision about {name} exists yet. Run `latentworks register`, then "
            "`latentworks promote`."
        )
    rows = [("when", "version", "decision", "champion", "why")]
    for entry in entries:
        when = datetime.fromtimestamp(entry.milliseconds / 1000).astimezone()
        rows.append(
            (
                f"{when:%Y-%m-%d %H:%M:%S}",
                str(entry.version),
                entry.decision,
                _or_dash(entry.champion_after),
                entry.reason + NOT_DONE.get(entry.status, ""),
            )
        )
    lines = [f"{name}: champion is version {_or_dash(champion)}", "", *columns(rows)]
    last = entries[-1].champion_after
    if last != champion and entries[-1].status == "FINISHED":
        lines += ["", f"The alias was moved by hand: the last decision was for {_or_dash(last)}."]
    return "\n".join(lines)


def comparison(versions: Sequence[Version], scores: Sequence[Scores]) -> str:
    """The scores of two versions, and the change from the first to the second: better or worse."""
    first, second = scores
    rows = [("", *(f"version {version.number}" for version in versions), "change")]
    same_data = first.data == second.data
    for metric in [name for name in first.metrics if name in second.metrics]:
        a, b = first.metrics[metric].value, second.metrics[metric].value
        change = f"{(b - a) / abs(a):+.1%}" if a else ""
        verdict = _verdict(metric, a, b) if same_data else ""
        rows.append((metric, f"{a:.4g}", f"{b:.4g}", f"{change} {verdict}".strip()))
    rows.append(("size in MB", f"{first.size_mb:.1f}", f"{second.size_mb:.1f}", ""))
    for size in first.latency_ms:
        times = [f"{each.latency_ms.get(size, math.nan):.2f}" for each in (first, second)]
        rows.append((f"ms to decode {size}", *times, ""))
    for name in ("data.fingerprint", "git.commit", "decision"):
        values = [version.tags.get(name, "-")[:12] for version in versions]
        rows.append((name, *values, "same" if values[0] == values[1] else "differs"))
    lines = columns(rows)
    if not same_data:
        lines += ["", "Each version was scored on its own test data: do not compare the scores."]
    return "\n".join(lines)


def _verdict(metric: str, first: float, second: float) -> str:
    """Return "better" or "worse" for the second value of a metric of the gate; "" if equal."""
    rule = METRICS.get(metric)
    if rule is None or math.isnan(first + second):
        return ""
    gain = rule.better * (min(second, rule.enough) - min(first, rule.enough))
    return "" if gain == 0 else "better" if gain > 0 else "worse"


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)
