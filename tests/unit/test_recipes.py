"""Every recipe has goals, measured scores and an explanation in docs/recipes.md.

Recipes that a sweep has written belong to the user, and have none of them.
"""

import re
from itertools import pairwise
from pathlib import Path

import pytest

import measure_recipes
import peers_table
from checkouts import ROOT
from goals import Goal, goals, score
from latentworks import params
from latentworks.params import recipes
from latentworks.sections import Params
from latentworks.sweep.best import FIRST
from latentworks.system import disk
from latentworks.tracking.pages import COLUMNS

NAMES = [each.name for each in recipes.described(ROOT) if not each.text.startswith(FIRST)]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_goals(name: str) -> None:
    assert goals(ROOT / "recipes" / f"{name}.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_was_measured(name: str) -> None:
    path = ROOT / "recipes" / f"{name}.yaml"
    wanted = {goal for goal in goals(path) if not goal.startswith("parity.")}
    assert {"minutes", "samples.frechet", *wanted} <= set(params.read(path)[recipes.EXPECTED])


def test_the_goal_of_vae_16d_is_less_than_half_the_frechet_distance_of_vae_book() -> None:
    book = params.read(ROOT / "recipes/vae-book.yaml")[recipes.EXPECTED]["samples.frechet"]
    goal = goals(ROOT / "recipes/vae-16d.yaml")["samples.frechet"]
    assert goal.side == "at most"
    assert goal.bound < book / 2


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_explained(name: str) -> None:
    _, _, below = (ROOT / "docs/recipes.md").read_text().partition("<!-- up to here -->")
    assert f"`{name}`" in below


def test_docs_and_readme_show_the_measured_scores() -> None:
    """README shows the recipe that docs/recipes.md recommends first, with its scores."""
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    assert f"{measure_recipes.START}\n\n{measure_recipes.table(ROOT)}\n\n" in page
    found = params.read(ROOT / "recipes/images-64d.yaml")[recipes.EXPECTED]
    said = (
        f"MSE {found['test.mse']:.4f}, SSIM {found['test.ssim']:.2f}, "
        f"Fréchet {found['samples.frechet']:.1f}"
    )
    assert said in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_missed_goals_of_a_recipe_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "goal: {a.x: at most 1, a.y: at least 2, a.z: at most 3}\nexpected: {a.x: 1.5, a.y: 2}\n"
    )
    assert measure_recipes.missed(path) == ["`a.x` is 1.5; goal: at most 1"]


def test_precision_never_stands_without_recall(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "goal: {x.precision: at least 1}\nexpected: {x.precision: 0.9, x.recall: 0.1}\n"
    )
    (line,) = measure_recipes.missed(path)
    assert line == "`x.precision` is 0.9, `x.recall` 0.1; goal: at least 1"
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        lines = page.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if "precision" in line and re.search(r"\d", line):
                assert "recall" in " ".join(lines[number : number + 2]), (page.name, line)
    for columns in (COLUMNS, list(measure_recipes.SHOWN), peers_table.COLUMNS):
        for name, after in pairwise(columns):
            assert ("precision" in name) == ("recall" in after), name


def test_the_table_leaves_out_columns_that_no_recipe_has(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for name, expected in (("a", "test.mse: 0.5"), ("b", "sampling.seconds: 3.5")):
        path = tmp_path / f"recipes/{name}.yaml"
        path.write_text(f"goal: {{test.mse: at most 1}}\nexpected: {{minutes: 2, {expected}}}\n")
    assert measure_recipes.table(tmp_path).splitlines()[:4] == [
        "| recipe | minutes | MSE | sampling seconds |",
        "|---|---|---|---|",
        "| `a` | 2 | 0.5 |  |",
        "| `b` | 2 |  | 3.5 |",
    ]


def test_the_list_of_recipes_has_their_minutes_and_first_lines() -> None:
    listed = [each for each in recipes.described(ROOT) if each.name in NAMES]
    assert {each.name for each in listed} == set(NAMES)
    assert all(each.text.endswith(".") and each.minutes for each in listed)
    minutes = [each.minutes or 0.0 for each in listed]
    assert minutes == sorted(minutes)


def test_every_goal_is_about_a_known_score() -> None:
    found = disk.read_json(ROOT / "reports/metrics.json")
    known = {f"{group}.{name}": 1.0 for group in found for name in found[group]}
    of_classes = ("label_agreement", "label_agreement_real", "classification_accuracy")
    known |= {f"samples.{name}": 1.0 for name in of_classes}
    for name in NAMES:
        for goal in goals(ROOT / "recipes" / f"{name}.yaml"):
            if not goal.startswith("parity."):
                score(goal, known)


def test_a_goal_is_an_upper_or_a_lower_bound() -> None:
    assert Goal.parse("at most 0.25") == Goal("at most", 0.25)
    assert Goal("at most", 0.25).reached(0.25)
    assert not Goal("at most", 0.25).reached(0.26)
    assert Goal("at least", 0.25).reached(0.26)
    assert not Goal("at least", 0.25).reached(0.24)
    with pytest.raises(ValueError, match="A goal is such as"):
        Goal.parse("about 3")


def test_a_score_is_a_metric_or_a_ratio_or_difference_of_two() -> None:
    metrics = {"a.x": 6.0, "a.y": 3.0}
    assert score("a.x", metrics) == 6
    assert score("a.x / a.y", metrics) == 2
    assert score("a.x - a.y", metrics) == 3


def test_every_section_of_a_recipe_is_a_section_of_params() -> None:
    for name in NAMES:
        assert set(recipes.sections(ROOT, name)) <= set(params.read(ROOT / "params.yaml"))


@pytest.mark.parametrize(("number", "kind"), [(0, "conditional"), (1, "adversarial"), (2, "codes")])
def test_the_example_sections_in_the_docs_are_valid(tmp_path: Path, number: int, kind: str) -> None:
    text = (ROOT / "docs/recipes.md").read_text()
    example = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[number]
    path = tmp_path / "params.yaml"
    path.write_text(example)
    committed = (ROOT / "params.yaml").read_text()
    path.write_text(recipes.merge(committed, params.read(path)))
    assert params.load(Params, path, whole=True).model.kind == kind
