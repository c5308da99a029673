"""`latentworks doctor` finds what would stop a command, within its deadline."""

import shutil
import socket
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkouts import ROOT, Checkout, Project
from latentworks import doctor
from latentworks.system import locks
from latentworks.tracking.uri import URI
from servers import closed_port


@pytest.fixture
def checkout(finished: Checkout, tmp_path: Path) -> Checkout:
    return finished.copy(tmp_path / "checkout")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_doctor_and_make_ask_for_the_python_of_pyproject() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (a, b), (c, d) = doctor.supported()
    assert pyproject["project"]["requires-python"] == f">={a}.{b},<{c}.{d}"
    condition = f"({a}, {b}) <= sys.version_info < ({c}, {d})"
    assert condition in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_a_finished_checkout_has_no_fault(finished: Checkout, tmp_path: Path) -> None:
    project = Project.copied(finished, tmp_path / "project")
    (project.path / "requirements").mkdir()
    shutil.copy(ROOT / "requirements/latentworks.txt", project.path / "requirements")
    said = project.ours("doctor")
    assert said.endswith("Nothing here stops a command.\n")
    lines = said.splitlines()[1 : len(doctor.CHECKS) + 1]
    assert all(line.startswith(("ok ", "note ")) for line in lines), said
    for name in doctor.CHECKS:
        assert any(line[4:].strip().startswith(name) for line in lines), name


def test_faults_are_found_with_their_cures(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv(URI, address)
    checkout.run("dvc", "remote", "add", "--quiet", "--default", "store", "/missing/folder/store")
    checkout.edit("params.yaml", "epochs: 4", "epohcs: 4")
    found = doctor.examine(checkout.path)
    assert {name for name, finding in found.items() if finding.state == "fault"} == {
        *("params", "DVC remote", "MLflow"),
        "code",  # this process runs the code of another checkout
    }
    assert "Did you mean epochs?" in found["params"].text
    assert found["DVC remote"].text == "store at /missing/folder/store is missing"
    assert "dvc remote modify store url" in found["DVC remote"].cure
    assert found["MLflow"].text.startswith(f"{address} does not answer: ")
    assert "Correct this first: code, params, DVC remote, MLflow." in doctor.table(found)


def test_a_command_with_a_fault_exits_with_1(finished: Checkout, tmp_path: Path) -> None:
    project = Project.copied(finished, tmp_path / "project")
    (project.path / "mlflow.db").write_bytes(b"no database" * 100)
    said = project.ours("doctor", expected=1)
    assert "mlflow.db cannot be read: file is not a database. Run `latentworks verify`" in said


def test_a_silent_server_does_not_hold_the_command(
    checkout: Checkout, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI, silent)
    began = time.monotonic()
    found = doctor.examine(checkout.path)
    assert time.monotonic() - began < doctor.SECONDS + 5  # other tests take turns on the cores
    assert found["MLflow"].state == "fault"


def test_checks_that_are_late_are_faults(checkout: Checkout) -> None:
    found = doctor.examine(checkout.path, seconds=0)
    assert found["DVC remote"] == doctor.Finding(
        "fault", "no answer within 0 seconds", "Try again later"
    )


def test_a_held_lock_is_a_note(checkout: Checkout) -> None:
    with locks.exclusive(locks.of(checkout.path), "run the stages"):
        found = doctor.examine(checkout.path)["lock"]
    assert found.state == "note"
    assert "to run the stages" in found.text


@pytest.mark.parametrize(
    ("pins", "state", "text"),
    [
        ("numpy==0.1 ; sys_platform == 'a'\nnumpy==0.2 ; sys_platform == 'b'\n", "note", "numpy "),
        ("no-such-package==1 \\\n", "fault", "missing: no-such-package"),
        ("no-such-package==1 ; sys_platform == 'win32' \\\n", "ok", "1 pinned"),
    ],
)
def test_installed_packages_are_compared_with_the_lock(
    tmp_path: Path, pins: str, state: str, text: str
) -> None:
    (tmp_path / "requirements").mkdir()
    (tmp_path / doctor.LOCKED).write_text(pins)
    found = doctor.CHECKS["packages"](tmp_path)
    assert found.state == state
    assert text in found.text
