"""The quick set of `make faults`: kills, cut files and damaged cache objects at random moments."""

from pathlib import Path

import pytest

from conftest import FULL, Checkout
from faults import Fault, Harness, table

pytestmark = pytest.mark.cold

NUMBER = 20 if FULL else 6
LONGEST = 5.0  # seconds to a fault; the long set gives each stage more time


def test_a_disturbed_run_of_the_stages_ends_with_the_same_result(
    untouched: Checkout, finished: Checkout, tmp_path: Path
) -> None:
    told: list[Fault] = []
    harness = Harness(
        tmp_path, untouched, finished, seed=0, longest=LONGEST, faults=(NUMBER, NUMBER)
    )
    harness.run(NUMBER, told.append)
    wrong = [fault for fault in harness.faults if not (fault.recovered and fault.identical)]
    assert len(told) == len(harness.faults) == NUMBER
    assert not wrong, f"{wrong}\n{table(harness.faults)}"
