"""The arguments, the state and the tables of a sweep. Trials themselves: tests/commands."""

import re
from pathlib import Path

import numpy as np
import pytest

from checkouts import ROOT, Checkout
from latentworks import params
from latentworks.errors import LatentworksError, ParamsError
from latentworks.params import recipes
from latentworks.sweep import axes, best, search, table
from latentworks.sweep.axes import Choices, Range
from latentworks.sweep.records import Folder, Record
from latentworks.sweep.trials import Plan

BASE = (ROOT / "params.yaml").read_text(encoding="utf-8")


def plan(*arguments: str, num_trials: int | None = None) -> Plan:
    given = axes.parse(arguments, with_ranges=num_trials is not None)
    return Plan(ROOT, BASE, given, num_trials, "mse")


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("model.latent_dim=8,16,64", Choices("model.latent_dim", (8, 16, 64))),
        ("train.learning_rate=0.001,2e-3", Choices("train.learning_rate", (0.001, 0.002))),
        ("model.filters=[8, 16],[32]", Choices("model.filters", ([8, 16], [32]))),
        ("model.loss=mean_squared_error", Choices("model.loss", ("mean_squared_error",))),
        ("seed=1,1,2", Choices("seed", (1, 2))),
        ("dataset.path=../a,../b", Choices("dataset.path", ("../a", "../b"))),
        ("dataset.path=../a", Choices("dataset.path", ("../a",))),
        ("train.epochs=4..9", Range("train.epochs", 4, 9)),
        ("train.learning_rate=0.0005..5e-3", Range("train.learning_rate", 0.0005, 0.005)),
    ],
)
def test_an_argument_has_values_or_a_range(argument: str, expected: axes.Axis) -> None:
    assert axes.parse([argument], with_ranges=True) == [expected]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["train.epochs"], "such as model.latent_dim=8,16. Received: 'train.epochs'"),
        (["train.epochs="], "such as model.latent_dim=8,16"),
        (["train.epochs=[4"], "with commas between them"),
        (["train.epochs=4]["], "with commas between them"),
        (["train.epochs=9..4"], "the lower one first"),
        (["train.epochs=4..4"], "the lower one first"),
        (["seed=1", "seed=2"], "seed is given twice"),
    ],
)
def test_an_argument_that_cannot_be_read_is_one_line(arguments: list[str], fault: str) -> None:
    with pytest.raises(ParamsError, match=re.escape(fault)) as raised:
        axes.parse(arguments, with_ranges=True)
    assert "\n" not in str(raised.value)


def test_a_grid_takes_no_ranges() -> None:
    with pytest.raises(ParamsError, match=r"List values, such as train\.epochs=4,9, or add"):
        axes.parse(["train.epochs=4..9"], with_ranges=False)


def test_a_range_of_a_decade_is_logarithmic() -> None:
    assert Range("x", 0.0005, 0.005).is_logarithmic
    assert not Range("x", 0.001, 0.005).is_logarithmic
    assert not Range("x", 0, 1).is_logarithmic


def test_a_grid_has_all_combinations_and_the_last_param_changes_fastest() -> None:
    found = plan("model.latent_dim=8,16", "seed=0,1")
    assert found.total == 4
    assert [tuple(values.values()) for values in axes.grid(found.axes)] == [
        (8, 0),
        (8, 1),
        (16, 0),
        (16, 1),
    ]


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("train.learning_rat=0.1,0.2", "train.learning_rat is not a known key. Did you mean learn"),
        ("trian.epochs=1,2", "trian is not a section of params.yaml. Did you mean train?"),
        ("sed=1,2", "sed is not a known key. Did you mean seed?"),
        ("train.epochs=1..2..3", "train.epochs should be a valid integer. Received: '1..2..3'."),
        ("train.epochs=4,0", "train.epochs should be greater than or equal to 1. Received: 0."),
    ],
)
def test_a_value_that_params_yaml_does_not_take_is_one_line(argument: str, line: str) -> None:
    for num_trials in (None, 5):
        with pytest.raises(ParamsError, match=re.escape(line)) as raised:
            plan(argument, num_trials=num_trials).check()
        assert "\n" not in str(raised.value)


def test_the_ends_of_a_range_are_checked() -> None:
    with pytest.raises(ParamsError, match="Received: 0"):
        plan("seed=1,2", "train.epochs=0..9", num_trials=5).check()


# --- state ---------------------------------------------------------------------------------------


def test_records_are_kept_on_disk_and_a_damaged_one_runs_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path, plan("seed=0,1").identity("commit"))
    record = Record(1, {"model.filters": [8, 16]}, {"mse": 0.1}, "", "a", "b")
    folder.write(record)
    assert folder.read(1) == record
    assert folder.read(2) is None
    next(folder.path.glob("0001.json")).write_text("{")
    assert folder.read(1) is None


def test_a_sweep_is_known_by_its_arguments_params_and_commit() -> None:
    keys = [
        Folder(ROOT, each).key
        for each in (
            plan("seed=0,1").identity("a"),
            plan("seed=0,1").identity("b"),
            plan("seed=0,2").identity("a"),
            plan("seed=0,1", "train.epochs=1,2").identity("a"),
            plan("train.epochs=1,2", "seed=0,1").identity("a"),
            plan("seed=0,1", num_trials=5).identity("a"),
            Plan(ROOT, BASE.replace("seed: 0", "seed: 7"), plan("seed=0,1").axes, None, "mse"
                 ).identity("a"),
        )
    ]  # fmt: skip
    assert len({*keys}) == len(keys)
    more = plan("seed=0,1", num_trials=9).identity("a")  # trials are added to those there are
    assert Folder(ROOT, more).key == keys[5]


# --- tables and the recipe -----------------------------------------------------------------------


def scores(mse: float) -> dict[str, float]:
    return {"mse": mse, "ssim": mse, "sliced_wasserstein": 0.5, "loss": 0.25}


RECORDS = [
    Record(1, {"seed": 0}, scores(0.3)),
    Record(2, {"seed": 1}, fault="it diverged"),
    Record(3, {"seed": 2}, scores(0.1)),
]


def test_trials_are_sorted_by_the_better_side_of_a_score() -> None:
    assert [record.number for record in table.ordered(RECORDS, "mse")] == [3, 1, 2]
    assert [record.number for record in table.ordered(RECORDS, "ssim")] == [1, 3, 2]


def test_the_table_has_all_trials_their_values_and_scores(tmp_path: Path) -> None:
    lines = table.text(table.ordered(RECORDS, "mse")).splitlines()
    assert lines[0].split() == ["trial", "seed", "mse", "ssim", "sliced_wasserstein", "loss"]
    assert lines[1].split() == ["3", "2", "0.1", "0.1", "0.5", "0.25"]
    assert lines[3].split() == ["2", "1", *["failed"] * 4]
    table.write_csv(tmp_path / "trials.csv", RECORDS)
    assert (tmp_path / "trials.csv").read_text().splitlines()[2] == "2,1,,,,"


def test_the_picture_has_a_row_for_each_finished_trial(tmp_path: Path) -> None:
    images = {number: np.zeros((11, 8, 8, 1), np.uint8) for number in (0, 1, 3)}
    sizes = []
    for records in (RECORDS, RECORDS[:1]):
        table.write_picture(tmp_path / "trials.png", records, images, "mse")
        sizes.append(int.from_bytes((tmp_path / "trials.png").read_bytes()[20:24]))  # the height
    assert sizes[0] > sizes[1]


def test_the_best_trial_is_a_recipe_that_can_be_written(
    untouched: Checkout, tmp_path: Path
) -> None:
    root = untouched.copy(tmp_path / "checkout").path
    base = (root / "params.yaml").read_text(encoding="utf-8").replace("seed: 0", "seed: 3")
    path = best.path_of(root, "mine")
    values = {"model.latent_dim": 16, "model.filters": [4, 8]}
    best.write(root, path, base, values, "2 trials of it: mse 0.1")
    assert set(recipes.sections(root, "mine")) == {"seed", "model"}
    found = {each.name: each.text for each in recipes.described(root)}
    assert found["mine"] == "The best of 2 trials of it: mse 0.1."
    recipes.write(root, "mine", (root / "params.yaml").read_text(encoding="utf-8"))
    written = params.read(root / "params.yaml")
    assert (written["seed"], written["model"]["filters"]) == (3, [4, 8])
    assert best.path_of(root, "mine") == path  # a sweep may replace it


def test_a_sweep_replaces_no_recipe_of_others(tmp_path: Path) -> None:
    with pytest.raises(LatentworksError, match=r"exists, and is not of a sweep\. Choose another"):
        best.path_of(ROOT, "seed")
    with pytest.raises(LatentworksError, match="is a name such as sweep, or a path"):
        best.path_of(ROOT, "a b")
    assert best.path_of(ROOT, str(tmp_path / "own.yaml")) == tmp_path / "own.yaml"


# --- Optuna --------------------------------------------------------------------------------------


def test_a_search_is_the_same_after_a_kill_and_learns_from_its_trials() -> None:
    pytest.importorskip("optuna")
    given = axes.parse(
        ["train.learning_rate=0.0005..0.005", "model.latent_dim=2..9", "model.filters=[8],[8, 16]"],
        with_ranges=True,
    )
    records: list[Record] = []
    for number in range(1, 31):
        values = search.next_values(given, records, "mse", seed=0)
        assert values == search.next_values(given, records, "mse", seed=0)
        assert 0.0005 <= values["train.learning_rate"] <= 0.005
        assert values["model.latent_dim"] in range(2, 10)
        error = abs(values["model.latent_dim"] - 8) + len(values["model.filters"])
        done = Record(number, values, scores(error), fault="")
        records.append(Record(number, values, fault="it diverged") if number == 5 else done)
    first, last = records[:10], records[20:]
    means = [np.mean([each.scores.get("mse", 9) for each in part]) for part in (first, last)]
    assert means[1] < means[0]


def test_without_optuna_one_line_names_the_cure() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        with pytest.raises(LatentworksError, match=r"Optuna, which is not installed\. Run"):
            search.require_optuna()
    else:
        search.require_optuna()
