"""A sweep trains in a worktree, survives a kill, and ends with a table, a picture and a recipe."""

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from checkouts import Checkout
from latentworks.errors import LatentworksError
from latentworks.params import recipes
from latentworks.repository.dvc import StageError
from latentworks.sweep import axes
from latentworks.sweep.local import Local
from latentworks.sweep.records import Folder
from latentworks.sweep.trials import Plan, conclude, run

SWEEP = ("latentworks", "sweep", "sample.num_images=300,200", "--by", "sliced_wasserstein")


def runs(checkout: Checkout) -> tuple[Run, dict[str, Run]]:
    """Return the run of the only sweep in the store of a checkout, and its children by images."""
    client = MlflowClient(checkout.database)
    experiment = client.get_experiment_by_name("latentworks")
    assert experiment is not None
    ids = [experiment.experiment_id]
    (parent,) = client.search_runs(ids, "tags.`sweep.key` != ''")
    children = client.search_runs(ids, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return parent, {child.data.params["sample.num_images"]: child for child in children}


def test_a_killed_sweep_goes_on_and_ends_with_a_table_a_picture_and_a_recipe(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    before = checkout.run("git", "status", "--porcelain").stdout
    with subprocess.Popen(
        SWEEP, cwd=checkout.path, env=checkout.environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("trial 2 of 2: sample"):
                process.send_signal(signal.SIGKILL)
                break
    first = runs(checkout)
    assert (first[0].info.status, first[1].keys()) == ("RUNNING", {"300"})

    done = checkout.run(*SWEEP).stdout
    assert done.startswith("1 of 2 trials are finished, and do not run again\ntrial 2 of 2: ")
    rows = [line.split() for line in done.splitlines() if line[:1] in "12" and line[1:2] == " "]
    assert sorted(row[:2] for row in rows[1:]) == [["1", "300"], ["2", "200"]]
    assert "`latentworks recipe sweep` writes its params into params.yaml." in done

    parent, children = runs(checkout)
    assert parent.info.run_id == first[0].info.run_id
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"sample.num_images": "300, 200"}
    assert children.keys() == {"300", "200"}
    best = min(
        children, key=lambda num: children[num].data.metrics["validation/sliced_wasserstein"]
    )
    note = parent.data.tags["mlflow.note.content"]
    assert all(f"/runs/{child.info.run_id}?" in note for child in children.values())
    client = MlflowClient(checkout.database)
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert names >= {"trials.csv", "trials.png"}

    after = checkout.run("git", "status", "--porcelain").stdout
    assert after.replace("?? recipes/sweep.yaml\n", "") == before
    checkout.run("latentworks", "recipe", "sweep")
    assert f"num_images: {best} " in (checkout.path / "params.yaml").read_text()


@pytest.fixture
def plan(finished: Checkout, tmp_path: Path) -> Plan:
    """A sweep with three trials, in a checkout with a result."""
    root = finished.copy(tmp_path / "checkout").path
    base = (root / "params.yaml").read_text()
    given = axes.parse(["train.learning_rate=0.1,0.2,0.3"], with_ranges=False)
    return Plan(root, base, given, None, "mse")


def test_a_trial_that_fails_stops_no_other_and_is_tried_again(plan: Plan) -> None:
    """The executor answers with the checkout's own result, or fails, as one of a cluster could."""
    folder, lines = Folder(plan.root, plan.identity("commit")), list[str]()
    tried: list[str] = []
    failing = {"learning_rate: 0.2 "}

    def execute(text: str) -> Path:
        tried.append(text)
        if any(part in text for part in failing):
            raise StageError("Stage train failed: the loss is nan. Lower the rate.")
        return plan.root

    records = run(plan, folder, execute, lines.append)
    assert [record.is_finished for record in records] == [True, False, True]
    assert "trial 2 of 3: failed: Stage train failed: the loss is nan. Lower the rate." in lines
    assert 0 < records[0].scores["ssim"] < 1
    failing.clear()
    records = run(plan, folder, execute, lines.append)
    assert all(record.is_finished for record in records)
    assert len(tried) == 4  # the failed one alone ran again


def test_a_search_goes_on_with_more_trials(plan: Plan) -> None:
    pytest.importorskip("optuna")
    given = axes.parse(["train.learning_rate=0.01..0.1"], with_ranges=True)
    rates: list[str] = []

    def execute(text: str) -> Path:
        rates.append(str(recipes.sections_of(text)["train"]["learning_rate"]))
        return plan.root

    for num_trials in (2, 3):
        more = replace(plan, axes=given, num_trials=num_trials)
        folder = Folder(plan.root, more.identity("commit"))
        records = run(more, folder, execute, print)
    assert [str(*record.values.values()) for record in records] == rates
    assert len({*rates}) == 3


def test_a_sweep_that_is_interrupted_has_a_killed_run(plan: Plan) -> None:
    def stops() -> Iterator[Path]:
        yield plan.root
        raise KeyboardInterrupt

    answers, folder = stops(), Folder(plan.root, plan.identity("commit"))
    with pytest.raises(KeyboardInterrupt):
        run(plan, folder, lambda text: next(answers), print)
    parent, _ = runs(Checkout(plan.root))
    assert parent.info.status == "KILLED"
    assert [folder.read(number) is not None for number in (1, 2, 3)] == [True, True, False]


def test_a_second_sweep_in_a_checkout_ends_at_once(untouched: Checkout, tmp_path: Path) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    with Local(checkout.path, print).worktree.held("sweep"):
        done = checkout.run(*SWEEP, expected=75)
    assert done.stderr.startswith("Cannot sweep: process ")


def test_images_without_a_validation_split_are_refused_before_the_training(
    untouched: Checkout, tmp_path: Path
) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    done = checkout.run(*SWEEP, "prepare.val_fraction=0.0", expected=3)
    assert done.stderr.startswith("Cannot compare trials: there are no validation images. Raise ")
    assert "Running stage 'train'" not in done.stdout


def test_a_sweep_of_trials_that_all_fail_ends_with_an_error(plan: Plan) -> None:
    def fail(text: str) -> Path:
        raise StageError("Stage train failed: the loss is nan.")

    folder = Folder(plan.root, plan.identity("commit"))
    records = run(plan, folder, fail, print)
    recipe = plan.root / "recipes/sweep.yaml"
    with pytest.raises(LatentworksError, match=r"All 3 trials failed\. The last one: Stage train"):
        conclude(plan, folder, records, recipe, print)
    assert not recipe.exists()
