"""The Prefect flow over the same stages, on a real Prefect server of its own."""

import shutil
from pathlib import Path

import pytest

from conftest import ROOT, Checkout
from latentworks import repository


def test_order_is_that_of_dvc(finished: Checkout) -> None:
    order = repository.order(finished.path)
    assert set(order) == set(repository.stages(finished.path))
    assert order.index("prepare") < order.index("train") < order.index("encode")
    assert order.index("sample") < order.index("evaluate")


def test_outcomes_and_failures(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    lines: list[str] = []
    assert repository.reproduce(checkout.path, "sample", lines.append) == "unchanged"
    shutil.rmtree(checkout.path / "data/samples")
    assert repository.reproduce(checkout.path, "sample", lines.append) == "restored"
    checkout.edit("params.yaml", "num_components: 5", "num_components: 0")
    with pytest.raises(repository.StageError, match="stage sample failed: dvc exited with 255"):
        repository.reproduce(checkout.path, "sample", lines.append)
    assert any("sample.sampler.num_components should be greater than" in line for line in lines)


def test_flow_runs_every_stage_as_a_task(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    shutil.copytree(ROOT / "pipeline", checkout.path / "pipeline")
    done = checkout.run("python", "-m", "pipeline.reproduce")
    said = done.stdout + done.stderr
    for stage in repository.stages(checkout.path):
        assert f"Task run '{stage}' - Finished in state Unchanged" in said
    assert "Finished in state Completed()" in said
