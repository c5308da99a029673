"""The tables of docs/peers.md: a row for each model and sampler, with all its seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import norm, t

from latentworks.system import disk
from peers_scores import ERROR

DOC = Path("docs/peers.md")
START, END = "<!-- written by scripts/peers.py -->", "<!-- up to here -->"
OURS = "latentworks"
CONFIDENCE = 0.95
GOAL = 0.5  # our best Fréchet distance, as a share of the peer's best
COLUMNS = ("frechet_blur", "precision", "recall", "coverage")
HEAD = (
    *("library", "model", "nets", "sampler", "minutes", "seeds"),
    *("Fréchet", "blur", "precision", "recall", "coverage"),
)


@dataclass(frozen=True)
class Row:
    """A model of one seed, and one of its samplers."""

    library: str
    model: str
    nets: str
    sampler: str
    seed: int
    minutes: float  # of training
    scores: dict[str, dict[str, float]]  # by judge; empty if the sampler cannot be fitted
    fault: str = ""  # the reason

    @property
    def name(self) -> tuple[str, str, str, str]:
        return self.library, self.model, self.nets, self.sampler


def tables(rows: Sequence[Row]) -> str:
    """Markdown with a table for each judge, the best first, and the result of the comparison."""
    judges = list(dict.fromkeys(judge for row in rows for judge in row.scores))
    parts = [_table(judge, [row for row in rows if judge in row.scores]) for judge in judges]
    faults = {row.name: row.fault for row in rows if row.fault}
    if faults:
        lines = [f"- {', '.join(name)}: {fault}" for name, fault in faults.items()]
        parts.append("\n".join(["Samplers that could not be fitted:", "", *lines]))
    return "\n\n".join(parts)


def _table(judge: str, rows: Sequence[Row]) -> str:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.name, []).append(row)
    means = {name: _mean(judge, "frechet", group) for name, group in groups.items()}
    lines = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    for name in sorted(groups, key=means.__getitem__):
        group = groups[name]
        half = half_width(
            [row.scores[judge]["frechet"] for row in group],
            [row.scores[judge][ERROR] for row in group],
        )
        cells = [
            *name,
            f"{statistics.mean(row.minutes for row in group):.1f}",
            str(len(group)),
            f"{means[name]:.2f} ± {half:.2f}",
            *(f"{_mean(judge, column, group):.3g}" for column in COLUMNS),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    floor = _mean(judge, "frechet_floor", rows)
    found = [f"Compared by {judge}; the floor is {floor:.2f}:", "", *lines]
    return "\n".join([*found, "", verdict(means)])


def verdict(means: dict[tuple[str, ...], float]) -> str:
    """Compare the best Fréchet distance of this project with the best of the peer."""
    ours = [mean for name, mean in means.items() if name[0] == OURS]
    others = [mean for name, mean in means.items() if name[0] != OURS]
    if not ours or not others:
        return "No comparison: only one of the libraries has been measured."
    share = min(ours) / min(others)
    reached = "reached" if share <= GOAL else "missed"
    return (
        f"The best Fréchet distance of this project, {min(ours):.2f}, is {share:.2f} times the "
        f"best of the peer, {min(others):.2f}; goal: at most {GOAL:g} times; {reached}."
    )


def half_width(values: Sequence[float], errors: Sequence[float]) -> float:
    """Half the width of the interval around the mean of `values`, one for each seed.

    Two parts, added as independent errors: the spread of the seeds, by Student's t, and the
    choice of images, with the standard errors of the values, which all seeds share. The second
    part is in the first in part, so that the interval is rather too wide. One seed has no spread.
    """
    high = (1 + CONFIDENCE) / 2
    spread = 0.0
    if (num := len(values)) > 1:
        spread = t.ppf(high, num - 1) * statistics.stdev(values) / math.sqrt(num)
    return float(math.hypot(spread, norm.ppf(high) * statistics.mean(errors)))


def _mean(judge: str, score: str, rows: Sequence[Row]) -> float:
    return statistics.mean(row.scores[judge][score] for row in rows)


def write_document(path: Path, text: str) -> None:
    """Replace the text between START and END in a document."""
    before, _, rest = path.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    with disk.replacing(path) as temporary:
        temporary.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")
