"""Stages one by one, in the order of DVC, as a flow runs them."""

import shutil
from pathlib import Path

import pytest

from conftest import Checkout
from latentworks.repository import dag, dvc


def test_order_is_that_of_dvc(finished: Checkout) -> None:
    order = [*dvc.needs(finished.path)]
    assert set(order) == set(dag.stages(finished.path))
    assert order.index("prepare") < order.index("train") < order.index("encode")
    assert order.index("sample") < order.index("evaluate")


def test_outcomes_and_failures(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    lines: list[str] = []
    assert dvc.repro(checkout.path, "sample", lines.append) == "unchanged"
    shutil.rmtree(checkout.path / "data/samples")
    assert dvc.repro(checkout.path, "sample", lines.append) == "restored"
    checkout.edit("params.yaml", "num_components: 5", "num_components: 0")
    with pytest.raises(dvc.StageError, match="Stage sample failed: dvc exited with 255"):
        dvc.repro(checkout.path, "sample", lines.append)
    assert any("sample.sampler.num_components should be greater than" in line for line in lines)
