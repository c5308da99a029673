"""The commands of README.md, run as written. Servers and trainings of minutes have other tests."""

import re
import subprocess

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from checkouts import BIN, NAME, ROOT, Checkout, Project
from servers import closed_port

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
]
ELSEWHERE = {  # the command without its comment: the test that runs it
    "make repro RECIPE=images-64d": "unit/test_params.py::test_a_recipe_can_be_applied_twice",
    "make prefect": "processes/test_deployments.py::test_a_worker_runs_the_flows",
    "make schedule": "processes/test_deployments.py::"
    "test_schedule_serves_prefect_yaml_and_cancels_colliding_flow_runs",
    "make automations": "processes/test_deployments.py::"
    "test_automations_retrain_notify_and_end_dead_flow_runs",
    "latentworks repro": "processes/test_seconds.py::"
    "test_a_second_start_names_the_lock_holder_whose_kill_frees_the_lock",
    "make test": "commands/test_readme_commands.py::"
    "test_each_command_is_run_here_or_by_another_test",
}


RUN = ("make repro", "latentworks register", "latentworks new", "latentworks history", "sed", "cp")


def commands(*starts: str) -> list[str]:
    """The commands of the blocks that begin with one of these, without those of other tests."""
    found = [block for block in BLOCKS if block[0].startswith(starts)]
    return [line for block in found for line in block if line not in ELSEWHERE]


def sh(checkout: Checkout, lines: list[str], expected: int = 0) -> str:
    """Run commands in one bash, which ends at the first that fails; return all that they say."""
    script = "\n".join(["set -euo pipefail", "exec 2>&1", *lines])
    return checkout.run("bash", "-c", script, expected=expected).stdout


@pytest.fixture(scope="module")
def clone(good: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with a result, and with the Makefile and its environment, so it installs none."""
    project = Project.copied(good, tmp_path_factory.mktemp("readme") / "clone").named(NAME)
    for name in ("Makefile", "pyproject.toml", "requirements", "docker"):
        call = ["cp", "--recursive", str(ROOT / name), str(project.path)]
        subprocess.run(call, check=True)
    environment = project.path / ".venv"
    environment.mkdir()
    for path in BIN.parent.iterdir():
        if path.name != ".ready":
            (environment / path.name).symlink_to(path)
    (environment / ".ready").touch()
    project.commit()
    return project


def test_each_command_is_run_here_or_by_another_test() -> None:
    named = {line.partition("#")[0].strip() for block in BLOCKS for line in block}
    assert named == {*commands(*RUN), *ELSEWHERE}
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")


def test_repro_of_a_finished_result_shows_it(clone: Project) -> None:
    assert "everything is up to date" in sh(clone, commands("make repro"))


def test_a_result_is_registered_promoted_and_served(clone: Project) -> None:
    port = closed_port()  # 8000 may be in use
    lines = [
        line.replace("localhost:8000", f"localhost:{port}")
        for line in commands("latentworks register")
    ]
    start = lines.index("latentworks serve &")
    lines[start] = f"latentworks serve --port {port} &"
    lines.insert(
        start + 1, f"until curl -sf localhost:{port}/ready; do kill -0 $!; sleep 0.1; done"
    )
    said = sh(clone, [*lines, "kill $!", "wait $! || true"])
    assert f"{NAME} version 1 is champion" in said
    with Image.open(clone.path / "samples.png") as samples:
        assert samples.width > 8


def test_new_writes_params_for_a_folder_of_images(clone: Project) -> None:
    (clone.path.parent / "emoji").mkdir()
    for number, image in enumerate(load_digits().images[:200]):
        picture = Image.fromarray((image * 15).astype("uint8"))
        picture.save(clone.path.parent / f"emoji/{number}.png")
    said = sh(clone, commands("latentworks new")[:1])  # the training would take minutes
    assert "200 PNG images" in said
    assert "kind: image_folder" in (clone.path / "params.yaml").read_text()
    clone.run("git", "checkout", "params.yaml")


def test_validate_names_a_mistyped_key(clone: Project) -> None:
    said = sh(clone, commands("sed"), expected=2)
    (block,) = re.findall(r"^\$ sed .*\n((?:params\.yaml: .*\n)+)", TEXT, flags=re.MULTILINE)
    assert said == block
    clone.run("git", "checkout", "params.yaml")


def test_decisions_are_listed_compared_and_undone(pair: Project) -> None:
    said = sh(pair, commands("latentworks history"))
    assert f"{pair.name}: champion is version 2" in said
    assert f"{pair.name} version 1 is champion again, instead of version 2" in said


def test_each_password_of_the_containers_is_made_up(clone: Project) -> None:
    sh(clone, commands("cp"))
    lines = (clone.path / "docker/.env").read_text().splitlines()
    passwords = [line.partition("=")[2] for line in lines if "PASSWORD=" in line]
    assert len(passwords) == len({*passwords}) > 3
    assert all(len(password) == 48 for password in passwords)
