"""`latentworks new --images PATH FOLDER` makes a project, and `latentworks upgrade` renews it."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from checkouts import ROOT, Checkout, small_checkout
from latentworks.project.template import ANSWERS
from latentworks.repository import dag, package

# Files of a clone that a project needs and a small checkout lacks.
OF_CLONES = (
    *("copier.yml", "template", "docker", "requirements", "Makefile", "scripts/ui.py"),
    *(".gitattributes", "pyproject.toml", "README.md", "LICENSE"),
)
NUM_IMAGES = 300


class Own(Checkout):
    """A project of one's own, and the clone whose code its commands run."""

    def __init__(self, path: Path, clone: Checkout) -> None:
        super().__init__(path)
        self.clone = clone

    def environment(self, **changes: str) -> dict[str, str]:
        ours = {"PYTHONPATH": str(self.clone.path / "src")}
        return super().environment(MLFLOW_TRACKING_URI=self.database, **{**ours, **changes})

    def ours(self, *call: str, expected: int = 0) -> str:
        """Run a `latentworks` command, and return its output. A traceback fails the test."""
        done = self.run("latentworks", *call, expected=expected)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    @property
    def status(self) -> list[str]:
        return self.run("git", "status", "--porcelain").stdout.splitlines()


def make(clone: Checkout, folder: str, *options: str, expected: int = 0) -> str:
    """Run `latentworks new` in a clone, with its own code."""
    return Own(clone.path, clone).ours(
        *("new", "--images", "../drawings", "--no-timing", *options, folder), expected=expected
    )


@pytest.fixture(scope="session")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone of this repository, with random images and a project beside it."""
    folder = tmp_path_factory.mktemp("own")
    clone = small_checkout(folder / "clone")
    for name in OF_CLONES:
        source, target = ROOT / name, clone.path / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            shutil.copy(source, target)
    clone.commit()
    clone.run("git", "branch", "first")
    (folder / "drawings").mkdir()
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        image = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
        image.save(folder / f"drawings/{number}.png")
    make(clone, "../project")
    return clone


@pytest.fixture
def clone(cloned: Checkout) -> Checkout:
    """The clone as it was at first. Its projects follow its path, so it is not copied."""
    cloned.run("git", "reset", "--quiet", "--hard", "first")
    return cloned


@pytest.fixture
def own(clone: Checkout, tmp_path: Path) -> Own:
    """A project in which no stage has run."""
    copy = Checkout(clone.path.parent / "project").copy(clone.path.parent / tmp_path.name)
    return Own(copy.path, clone)


# --- the template --------------------------------------------------------------------------------


def test_a_project_has_the_files_of_the_repository(own: Own) -> None:
    """All are there and have the same bytes and modes, but for those named here."""
    files = set(own.run("git", "ls-files").stdout.split())
    assert {f"pipeline/{file.name}" for file in (ROOT / "pipeline").glob("*.py")} <= files
    assert {f"recipes/{file.name}" for file in (ROOT / "recipes").iterdir()} <= files
    assert {f"docker/{file.name}" for file in (ROOT / "docker").iterdir()} - files <= {
        "docker/.env"
    }
    generated = {"dvc.yaml", "Makefile", "docker/Dockerfile", ".github/workflows/ci.yml"}
    own_text = {"README.md", ".ci/run", ".dockerignore", ANSWERS, package.PINS, "params.yaml"}
    for name in files - generated - own_text:
        made, source = own.path / name, ROOT / name
        assert made.read_bytes() == source.read_bytes(), name
        assert os.access(made, os.X_OK) == os.access(source, os.X_OK), name


def test_dvc_yaml_is_that_of_the_repository_with_the_package_for_src(own: Own) -> None:
    made = yaml.safe_load((own.path / "dvc.yaml").read_text())
    repository = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert made["plots"] == repository["plots"]
    for name, stage in repository["stages"].items():
        deps = [dep for dep in stage["deps"] if not dep.startswith("src/")]
        assert sorted(made["stages"][name].pop("deps")) == sorted([*deps, package.PINS])
        del stage["deps"]
        stage["cmd"] = stage["cmd"].removeprefix("PYTHONPATH=src ")
    assert made["stages"] == repository["stages"]


def test_no_file_of_a_project_needs_the_source_code(own: Own) -> None:
    for name in ("Makefile", "docker/Dockerfile", "dvc.yaml", ".dockerignore", ".ci/run"):
        text = (own.path / name).read_text()
        assert not re.search(r"\bsrc\b|\btests\b|pyproject|--editable|/source$", text, re.M), name
        assert "{{" not in text, name
    calls = re.findall(r"pip install .+", (own.path / "docker/Dockerfile").read_text())
    pinned = [call for call in calls if call.endswith(f"/requirements/{package.PINS}")]
    assert len(pinned) == 2
    assert all("--require-hashes" in call for call in calls if call not in pinned)


def test_each_target_of_the_makefile_can_be_made(own: Own) -> None:
    targets = re.findall(r"^make ([a-z]+)", own.run("make", "help").stdout, flags=re.MULTILINE)
    assert {"setup", "repro", "check", "upgrade", "retrain", "schedule", "ui"} <= set(targets)
    plan = own.run("make", "--dry-run", *targets).stdout
    scripts = re.findall(r"python (\S+\.py)", plan)
    assert scripts
    assert all((own.path / script).is_file() for script in scripts)
    assert f"-r {package.PINS}" in plan


def test_the_workflow_pins_the_actions_of_the_repository(own: Own) -> None:
    action = re.compile(r"uses: (.+)$", re.MULTILINE)
    of_repository = action.findall((ROOT / ".github/workflows/ci.yml").read_text())
    of_project = action.findall((own.path / ".github/workflows/ci.yml").read_text())
    assert of_project
    assert set(of_project) <= set(of_repository)


# --- a new project -------------------------------------------------------------------------------


def test_a_new_project_is_committed_and_its_stages_are_planned(own: Own, clone: Checkout) -> None:
    commit = clone.run("git", "rev-parse", "HEAD").stdout.strip()
    assert own.run("git", "log", "--format=%s").stdout.splitlines() == [
        f"A project of latentworks at {commit[:10]}"
    ]
    assert own.status == []
    assert package.pinned(own.path) == commit
    assert yaml.safe_load((own.path / "params.yaml").read_text())["dataset"] == {
        "kind": "image_folder",
        "path": "../drawings",
    }
    assert "params.yaml is valid" in own.ours("validate")
    plan = own.ours("plan")
    assert all(re.search(rf"^{stage} +runs", plan, re.MULTILINE) for stage in dag.stages(ROOT))
    assert '"train" -> "encode"' in own.run("dvc", "dag", "--dot").stdout
    assert own.status == []


def test_a_folder_appears_whole_or_not_at_all(clone: Checkout, own: Own) -> None:
    beside = set(clone.path.parent.iterdir())
    assert "exists, and is no empty folder" in make(clone, "../drawings", expected=1)
    assert "lies in the clone" in make(clone, "inside", expected=1)
    assert "--size is a multiple of 8" in make(clone, "../odd", "--size", "9", expected=1)
    assert "takes a folder, or an address" in make(clone, "../x", "--source", "no", expected=1)
    assert "kind: image_folder" in make(clone, "../dry", "--dry-run")
    assert "is a project itself" in own.ours("new", "--images", "../drawings", "../x", expected=1)
    assert set(clone.path.parent.iterdir()) == beside


def test_a_project_may_follow_an_address(
    clone: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPIER_CACHE_DIR", str(tmp_path / "cache"))
    address = f"file://{tmp_path}/latentworks.git"
    clone.run("git", "clone", "--quiet", "--bare", ".", str(tmp_path / "latentworks.git"))
    make(clone, str(tmp_path / "first"), "--source", address)
    own = Own(tmp_path / "first", clone)
    commit = clone.commit()
    said = make(clone, str(tmp_path / "second"), "--source", address, expected=1)
    assert f"lacks commit {commit[:10]} of this clone, push it there first" in said
    assert "already" in own.ours("upgrade")
    clone.run("git", "push", "--quiet", address, "HEAD:refs/heads/newer")
    assert f"follows latentworks at {commit[:10]}" in own.ours("upgrade", "--to", "newer")
    assert f"latentworks @ git+{address}@{commit}\n" in (own.path / package.PINS).read_text()


def test_edits_of_the_clone_that_are_not_committed_are_named(clone: Checkout) -> None:
    clone.edit("prefect.yaml", "name: latentworks", "name: edited")
    said = make(clone, "../edited")
    assert "note: not committed, so not in the project: prefect.yaml" in said
    assert "edited" not in (clone.path.parent / "edited/prefect.yaml").read_text()


def test_a_stage_runs_only_with_the_package_that_is_pinned(own: Own) -> None:
    assert "Running stage" in own.run("dvc", "repro", "fetch").stdout
    assert json.loads((own.path / "data/raw/source.json").read_text())
    commit = package.pinned(own.path)
    assert commit is not None
    own.edit(package.PINS, commit, "0" * 40)
    done = own.run("dvc", "repro", "fetch", expected=255)
    assert f"pins commit 0000000000 of latentworks, and commit {commit[:10]} is running" in (
        done.stderr
    )
    assert "requirements.txt" in own.ours("plan")
    assert "and not of commit 0000000000" in own.ours("doctor", expected=1)


def test_the_package_that_make_setup_installs_is_the_pinned_one(own: Own, tmp_path: Path) -> None:
    call = ("uv", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    into = ("--python", sys.executable, "--target", str(tmp_path / "site"))
    own.run(*call, *into, "-r", package.PINS)
    done = own.run("dvc", "repro", "fetch", PYTHONPATH=str(tmp_path / "site"))
    assert "Running stage" in done.stdout
    commit = package.pinned(own.path)
    assert commit is not None
    own.edit(package.PINS, commit, "0" * 40)
    own.run("dvc", "repro", "fetch", expected=255, PYTHONPATH=str(tmp_path / "site"))


def test_a_project_trains_verifies_and_retrains(own: Own) -> None:
    own.edit("params.yaml", "epochs: 60", "epochs: 1")
    own.edit("params.yaml", "steps: 250", "steps: 25")
    own.commit()
    assert "MLflow has this result" in own.ours("repro")
    assert own.ours("plan") == "everything is up to date\n"
    assert "latentworks register" in own.ours("show")
    assert "all intact" in own.ours("verify")
    own.commit()
    retrained = own.run("python", "-m", "pipeline", "retrain")  # registers it, and asks the gate
    assert retrained.stdout.startswith("Refused: mse is not within its limit")  # images of noise
    assert own.status == []


# --- upgrades ------------------------------------------------------------------------------------


@pytest.fixture
def newer(clone: Checkout) -> Checkout:
    """The clone after a commit that changes files of the template, and adds and removes one."""
    clone.edit("prefect.yaml", 'cron: "0 3 * * *"', 'cron: "30 3 * * *"')
    clone.edit("dvc.yaml", "title: Loss after each epoch", "title: Loss")
    (clone.path / "recipes/seed.yaml").rename(clone.path / "recipes/renamed.yaml")
    clone.edit("params.yaml", "seed: 0", "seed: 1")
    clone.commit()
    return clone


def test_an_upgrade_brings_the_new_files_and_keeps_edits(own: Own, newer: Checkout) -> None:
    own.edit("prefect.yaml", "grace_period_seconds: 600", "grace_period_seconds: 900")
    own.edit("params.yaml", "  batch_size: 32", "  batch_size: 16")
    (own.path / "recipes/mine.yaml").write_text("seed: 3\n")
    shutil.rmtree(own.path / "docker")
    own.commit()
    before = {name: (own.path / name).read_bytes() for name in ("params.yaml", "recipes/mine.yaml")}
    commit = newer.run("git", "rev-parse", "HEAD").stdout.strip()
    assert f"now follows latentworks at {commit[:10]}" in own.ours("upgrade")
    assert sorted(own.status) == [
        " D recipes/seed.yaml",
        f" M {ANSWERS}",
        " M dvc.yaml",
        " M prefect.yaml",
        f" M {package.PINS}",
        "?? recipes/renamed.yaml",
    ]
    text = (own.path / "prefect.yaml").read_text()
    assert 'cron: "30 3 * * *"' in text
    assert "grace_period_seconds: 900" in text
    assert {name: (own.path / name).read_bytes() for name in before} == before
    assert package.pinned(own.path) == commit
    own.commit()
    assert "already" in own.ours("upgrade")
    assert own.status == []


def test_a_clash_of_edits_is_shown_in_the_file(own: Own, newer: Checkout) -> None:
    own.edit("prefect.yaml", 'cron: "0 3 * * *"', 'cron: "15 4 * * *"')
    own.commit()
    said = own.ours("upgrade", expected=1)
    assert said.splitlines() == [
        "conflict in prefect.yaml: choose lines between <<<<<<< and >>>>>>>, then `git add`"
    ]
    marked = (own.path / "prefect.yaml").read_text()
    assert re.search(r"<<<<<<<.*\n.*15 4.*\n=======\n.*30 3.*\n>>>>>>>", marked)
    assert "title: Loss\n" in (own.path / "dvc.yaml").read_text()
    assert own.run("git", "commit", "--message", "x", expected=None).returncode  # git refuses


def test_files_that_are_not_committed_stop_an_upgrade(own: Own, newer: Checkout) -> None:
    own.edit("prefect.yaml", "name: latentworks", "name: mine")
    before = own.status
    said = own.ours("upgrade", expected=1)
    assert "Cannot upgrade: edits are not committed, in prefect.yaml. Commit them" in said
    assert own.status == before


def test_a_killed_upgrade_is_undone_by_the_cure_that_is_named(own: Own, newer: Checkout) -> None:
    """The files that a killed upgrade leaves: some are renewed, some are not, and one is new."""
    (own.path / ".latentworks/upgrade.json").write_text("{}")
    own.edit("dvc.yaml", "title: Loss after each epoch", "title: Loss")
    (own.path / "recipes/renamed.yaml").write_text("half of")
    said = own.ours("upgrade", expected=1)
    assert "An upgrade was interrupted here" in said
    (cure,) = re.findall("`(git reset .+)`", said)
    own.run("bash", "-c", cure)
    assert "now follows" in own.ours("upgrade")
    assert not (own.path / ".latentworks/upgrade.json").exists()


def test_what_cannot_be_upgraded_is_refused_in_a_line(own: Own, clone: Checkout) -> None:
    said = Own(clone.path, clone).ours("upgrade", expected=1)
    assert "was not made by `latentworks new --images PATH FOLDER`" in said
    assert "has no 'v9'. Expected a branch" in own.ours("upgrade", "--to", "v9", expected=1)
    own.edit(ANSWERS, str(clone.path), "/nowhere")
    own.commit()
    said = own.ours("upgrade", expected=1)
    assert "correct its address in .copier-answers.yml and in requirements.txt" in said
    assert len(said.splitlines()) == 1
