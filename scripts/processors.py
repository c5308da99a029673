"""Train on simulated kinds of processors, and write the scores into docs/retraining.md.

Run `python scripts/processors.py` on an idle x86 machine: about an hour on 2 cores. The stages of
the committed params.yaml run once for each row of the table. A variable makes oneDNN, which
computes the layers of a network, use the instructions of an older processor. The last row is
another seed on this processor, for comparison. A processor without newer instructions gives equal
rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from latentworks.repository import dag
from latentworks.system import disk
from scratch import Scratch

DOC = Path("docs/retraining.md")
START, END = "<!-- written by scripts/processors.py -->", "<!-- up to here -->"
SHOWN = {
    "test.bce": "BCE",
    "test.mse": "MSE",
    "latents.knn_accuracy": "kNN",
    "samples.frechet": "Fréchet",
    "samples.precision": "precision",
    "samples.recall": "recall",
    "samples.coverage": "coverage",
}


@dataclass(frozen=True)
class Row:
    """A training: its name in the table, the variables of its stages, and its seed."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None  # None is that of params.yaml


ROWS = (
    Row("this processor"),
    Row("AVX-512", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    Row("AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Row("this processor, another seed", seed=1),
)


def table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown with a line for each training, by name."""
    lines = [f"| processor | {' | '.join(SHOWN.values())} |", f"|{'---|' * (len(SHOWN) + 1)}"]
    for name, found in scores.items():
        lines.append(f"| {name} | {' | '.join(f'{found[each]:.4g}' for each in SHOWN)} |")
    return "\n".join(lines)


def write(page: Path, content: str) -> None:
    """Write `content` into a page, between START and END."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    with disk.replacing(page) as temporary:
        temporary.write_text(f"{before}{START}\n\n{content}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    scratch = Scratch("processors")
    scores: dict[str, Mapping[str, float]] = {}
    for row in ROWS:
        print(f"{row.name} …", flush=True)
        first = "train" if scores else None  # all rows share the data
        scratch.run(seed=row.seed, first=first, last="evaluate", environment=row.environment)
        scores[row.name] = scratch.metrics()
    write(dag.root() / DOC, table(scores))
    print(table(scores))


if __name__ == "__main__":
    main()
