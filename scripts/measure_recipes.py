"""Run recipes and record their scores: `expected` in the recipe's file, and docs/recipes.md.

Run `python scripts/measure_recipes.py [NAME …]` on an idle machine. The minutes are those of the
stages from `train` on. A missed goal is printed, and the scores are recorded nevertheless.
`--first sample` keeps the outs of the stages before `sample` from the last measurement.
"""

import argparse
import math
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import sampling_cost
from goals import goals, score
from latentworks import params
from latentworks.artifacts.curves import read_curves
from latentworks.params import recipes
from latentworks.repository import dag
from latentworks.system import disk
from scratch import Scratch

DOC = Path("docs/recipes.md")
START, END = "<!-- written by scripts/measure_recipes.py -->", "<!-- up to here -->"
PICTURES = ("class_samples", "samples")  # docs/recipes.md shows the first that a recipe has
NATS = "prior.nats_a_code"  # of the validation images, for a prior that draws codes
# Columns of the table in docs/recipes.md, which leaves out those without a score.
SHOWN = {
    "test.bce": "BCE",
    "test.mse": "MSE",
    "test.ssim": "SSIM",
    "latents.knn_accuracy": "kNN",
    "samples.frechet": "Fréchet",
    "samples.frechet_floor": "its floor",
    "samples.frechet_blur": "blur",
    "samples.frechet_sampler": "sampler",
    "samples.precision": "precision",
    "samples.recall": "recall",
    "samples.coverage": "coverage",
    "samples.label_agreement": "label agreement",
    "samples.classification_accuracy": "classification accuracy",
    "samples.memorisation": "memorisation",
    NATS: "nats a code",
    sampling_cost.SECONDS: "sampling seconds",
    sampling_cost.MEGABYTES: "sampling MB",
}


def measure(name: str, first: str | None) -> list[str]:
    """Run a recipe and record its scores and picture; return a line for each missed goal."""
    scratch = Scratch(f"recipes/{name}", keep=first is not None)
    minutes = scratch.run(name, first=first)
    cost = sampling_cost.measure(scratch.folder / "models/servable")
    metrics = scratch.metrics() | _nats(scratch) | cost
    path = scratch.root / "recipes" / f"{name}.yaml"
    wanted = goals(path)
    expected: dict[str, Any] = {"minutes": round(minutes, 1)}
    expected |= {each: _short(metrics[each]) for each in SHOWN if each in metrics}
    _write_expected(path, expected)  # before the goals, which may name a missing score
    scored = {each: score(each, metrics) for each in wanted if not each.startswith("parity.")}
    _write_expected(path, expected | {each: _short(value) for each, value in scored.items()})
    files = [scratch.folder / f"reports/figures/{each}.png" for each in PICTURES]
    with disk.replacing(scratch.root / picture(name)) as temporary:
        shutil.copy(next(file for file in files if file.exists()), temporary)
    return [f"{name}: {each}" for each in missed(path)]


def _nats(scratch: Scratch) -> dict[str, float]:
    """The least validation loss of a prior that draws codes; else an empty dict."""
    if params.read(scratch.folder / params.PARAMS)["model"]["kind"] != "codes":
        return {}
    epochs = read_curves(scratch.folder / "models/prior/curves.csv")
    return {NATS: min(epoch["val_loss"] for epoch in epochs)}


def missed(path: Path) -> list[str]:
    """The goals that a recipe missed in its last measurement, as text."""
    expected = params.read(path).get(recipes.EXPECTED, {})
    return [
        f"`{name}` is {expected[name]:.4g}{_beside(name, expected)}; goal: {goal}"
        for name, goal in goals(path).items()
        if name in expected and not goal.reached(expected[name])
    ]


def _beside(name: str, expected: Mapping[str, float]) -> str:
    """The recall beside a precision, which alone says little: equal samples can have 1."""
    recall = name.replace("precision", "recall")
    return f", `{recall}` {expected[recall]:.4g}" if recall != name else ""


def picture(name: str) -> Path:
    """Path of the picture with the samples of a recipe."""
    return DOC.parent / "pictures" / f"recipe-{name}.png"


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _write_expected(path: Path, expected: dict[str, Any]) -> None:
    yaml = YAML()
    yaml.width = 200
    document = yaml.load(path.read_text(encoding="utf-8"))
    document[recipes.EXPECTED] = expected
    with disk.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


def write_table(root: Path) -> None:
    """Write `table` into DOC, between START and END."""
    text = (root / DOC).read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    with disk.replacing(root / DOC) as temporary:
        temporary.write_text(f"{before}{START}\n\n{table(root)}\n\n{END}{after}", encoding="utf-8")


def table(root: Path) -> str:
    """Markdown with the scores of all recipes, the missed goals, and the pictures."""
    rows = {
        name: params.read(root / "recipes" / f"{name}.yaml").get(recipes.EXPECTED, {})
        for name in recipes.names(root)
    }
    shown = [each for each in SHOWN if any(each in row for row in rows.values())]
    columns = ["recipe", "minutes", *(SHOWN[each] for each in shown)]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    ordered = sorted(rows.items(), key=lambda row: row[1].get("minutes", math.inf))
    for name, expected in ordered:
        cells = [expected.get(each, "") for each in ("minutes", *shown)]
        lines.append(f"| `{name}` | {' | '.join(map(str, cells))} |")
    all_missed = [
        f"- `{name}`: {each}"
        for name, _ in ordered
        for each in missed(root / "recipes" / f"{name}.yaml")
    ]
    lines += ["", "Goals that were missed:", "", *(all_missed or ["- none"])]
    for name, expected in ordered:
        if expected:
            path = picture(name).relative_to(DOC.parent)
            lines += ["", f"![Samples of the recipe {name}]({path})"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--first", metavar="STAGE", help="keep the outs of the stages before STAGE")
    arguments = parser.parse_args()
    root = dag.root()
    all_missed = []
    for name in arguments.names or recipes.names(root):
        print(f"{name} …", flush=True)
        all_missed += measure(name, arguments.first)
        write_table(root)
    print("\n".join(all_missed) or "every recipe reached its goals")
    return 0


if __name__ == "__main__":
    sys.exit(main())
