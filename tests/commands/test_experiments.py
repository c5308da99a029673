"""DVC's experiments in copies of the checkout use its store, and its images."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from checkouts import Checkout
from latentworks.repository import experiments


@pytest.fixture(scope="module")
def outside(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose images are beside it: dataset.path is relative, and leaves the checkout."""
    checkout = finished.copy(tmp_path_factory.mktemp("outside") / "checkout")
    (checkout.path / "digits.npz").rename(checkout.path.parent / "digits.npz")
    checkout.edit("params.yaml", "path: digits.npz", "path: ../digits.npz")
    checkout.run("latentworks", "repro")
    checkout.commit()
    return checkout


def runs(checkout: Checkout) -> dict[str, Run]:
    """Return the runs of experiments in the store of the checkout, by sample.num_images."""
    client = MlflowClient(checkout.database)
    experiment = client.get_experiment_by_name("latentworks")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`dvc.experiment` != ''")
    return {run.data.params["sample.num_images"]: run for run in found}


def test_a_temporary_experiment_is_a_run_in_the_store_of_the_checkout(outside: Checkout) -> None:
    # As users export it: relative to the checkout, and the copy is another folder.
    relative = {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    setting = ("-S", "sample.num_images=250")
    outside.run("dvc", "exp", "run", "--temp", "--name", "fewer", *setting, **relative)
    run = runs(outside)["250"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["dvc.experiment"] == "fewer"
    assert run.data.tags["mlflow.source.name"] == "checkout"
    assert "test/mse" in run.data.metrics


def test_queued_experiments_run_at_once_and_are_runs_in_the_store(outside: Checkout) -> None:
    for num in ("200", "150"):
        setting = f"sample.num_images={num}"
        outside.run("dvc", "exp", "run", "--queue", "-S", setting)
    outside.run("dvc", "exp", "run", "--run-all", "-j", "2")
    assert {"200", "150"} <= runs(outside).keys()
    assert "Failed" not in outside.run("dvc", "queue", "status").stdout


@pytest.mark.parametrize("copy", ["tmpa", "standalone/tmpa", "tmpa/products/digits"])
def test_the_project_of_a_copy_is_the_checkout_around_it(copy: str, tmp_path: Path) -> None:
    path = tmp_path / ".dvc/tmp/exps" / copy
    path.mkdir(parents=True)
    assert experiments.project(path) == tmp_path
    assert experiments.project(tmp_path) == tmp_path


@pytest.mark.parametrize("path", ["digits.npz", "images/../digits.npz", "/data", "../../../../x"])
def test_no_link_is_made_for_paths_that_need_none(path: str, tmp_path: Path) -> None:
    root = tmp_path / "a/b/c/checkout"
    experiments.link_images(root, Path(path))
    assert not root.exists()


def test_the_link_follows_images_that_were_replaced_and_spares_files(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    own = root / ".dvc/tmp/exps/run"
    own.mkdir(parents=True)
    for path in ("../photos", "../run", "../photos"):
        experiments.link_images(root, Path(path))
    assert (root / ".dvc/tmp/exps/photos").readlink() == tmp_path / "photos"
    assert (root / ".dvc/tmp/exps/standalone/photos").readlink() == tmp_path / "photos"
    assert own.is_dir()
    assert not own.is_symlink()
