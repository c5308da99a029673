"""The worktree follows the user's checkout, and changes none of its files."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.rwlock import SCHEMA
from mlflow import MlflowClient

from checkouts import Checkout, Project
from latentworks.errors import LatentworksError, Refused
from latentworks.repository import git
from latentworks.runner.worktree import Worktree
from latentworks.runner.worktree_images import link_images


class Source(Checkout):
    """The checkout that the user works in, source of the worktree."""

    def ignore(self, name: str) -> None:
        with (self.path / ".gitignore").open("a") as file:
            file.write(f"\n/{name}\n")

    def point_at(self, path: str) -> None:
        """Write dataset.path, and commit the change."""
        text = (self.path / "params.yaml").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("  path: "))
        self.edit("params.yaml", line, f"  path: {path}")
        self.commit()

    def files(self) -> dict[str, bytes]:
        """Return the files in and beside the project, with those of git except its objects."""
        home = self.path.parent
        files = {file.relative_to(home).as_posix(): file for file in home.rglob("*")}
        tools = (".latentworks", ".git/objects", ".dvc/cache", ".dvc/tmp", "__pycache__", "store/")
        kept = {name for name in files if not any(tool in name for tool in tools)}
        return {name: files[name].read_bytes() for name in kept if files[name].is_file()}


@pytest.fixture
def source(untouched: Checkout, tmp_path: Path) -> Source:
    return Source(untouched.copy(tmp_path / "home/project").path)


@pytest.fixture
def worktree(source: Source) -> Worktree:
    return Worktree(source.path, "tests")


def lock(command: str) -> str:
    """Return the text of a dvc.lock with one stage."""
    out = "{path: models/autoencoder, hash: md5, md5: 0123456789abcdef.dir, size: 1}"
    return f"schema: '2.0'\nstages:\n  train:\n    cmd: {command}\n    outs: [{out}]\n"


def photos(source: Source) -> Path:
    """Write images of the user beside the project, and return their folder."""
    folder = source.path.parent / "photos"
    (folder / "cats").mkdir(parents=True)
    for name in ("digits.npz", "cats/a.png"):
        (folder / name).write_bytes(name.encode())
    return folder


# --- the worktree follows the source, and leaves it alone ----------------------------------------


def test_the_worktree_follows_the_source_and_keeps_its_own_dvc_lock(
    source: Source, worktree: Worktree
) -> None:
    (source.path / "dvc.lock").write_text(lock("the source's"))
    source.commit()
    worktree.check_out("HEAD")
    ours = lock("ours")
    worktree.write("dvc.lock", ours)
    source.edit("src/latentworks/metrics/samples.py", '"""', '"""Edited. ')
    source.run("git", "rm", "--quiet", "recipes/seed.yaml")
    second = source.commit()
    before = source.files()
    assert worktree.check_out("HEAD") == second
    assert (worktree.path / "dvc.lock").read_text() == ours
    assert "Edited." in (worktree.path / "src/latentworks/metrics/samples.py").read_text()
    assert not (worktree.path / "recipes/seed.yaml").exists()
    assert source.files() == before


@pytest.mark.parametrize("damage", ["no repository", "empty repository", "empty HEAD"])
def test_a_damaged_worktree_is_made_anew_and_the_source_is_unchanged(
    source: Source, worktree: Worktree, damage: str
) -> None:
    first = source.commit()
    source.edit("dvc.yaml", "#", "##")
    source.commit()
    worktree.check_out("HEAD")
    git = worktree.path / ".git"
    if damage == "empty HEAD":
        (git / "HEAD").write_bytes(b"")
    else:
        shutil.rmtree(git)
        if damage == "empty repository":
            git.mkdir()
    source.edit("params.yaml", "seed: 0", "seed: 5")  # an edit that git could overwrite
    before = source.files()
    assert worktree.check_out(first) == first
    assert source.files() == before
    assert (worktree.path / "dvc.yaml").read_text().count("##") == 0


@pytest.mark.parametrize("content", ["", "schema: '2.0'\nstages:\n  train:\n    cmd: python -m la"])
def test_a_damaged_dvc_lock_of_the_worktree_is_replaced(
    source: Source, worktree: Worktree, content: str
) -> None:
    whole = "schema: '2.0'\nstages: {}\n"
    (source.path / "dvc.lock").write_text(whole)
    source.commit()
    worktree.check_out("HEAD")
    (worktree.path / "dvc.lock").write_text(content)
    worktree.check_out("HEAD")
    assert (worktree.path / "dvc.lock").read_text() == whole


def test_the_next_commit_replaces_a_broken_dvc_yaml(source: Source, worktree: Worktree) -> None:
    (source.path / "dvc.lock").write_text("schema: '2.0'\nstages: {train: {cmd: it}}\n")
    source.commit()
    worktree.check_out("HEAD")
    whole = (source.path / "dvc.yaml").read_text()
    (source.path / "dvc.yaml").write_text(f"<<<<<<< HEAD\n{whole}")
    source.commit()
    worktree.check_out("HEAD")
    (source.path / "dvc.yaml").write_text(whole)
    source.commit()
    worktree.check_out("HEAD")
    assert (worktree.path / "dvc.yaml").read_text() == whole


def test_check_out_removes_an_empty_rwlock_and_keeps_one_with_a_holder(
    worktree: Worktree, tmp_path: Path
) -> None:
    worktree.check_out("HEAD")
    rwlock = worktree.path / ".dvc/tmp/rwlock"
    rwlock.parent.mkdir(parents=True, exist_ok=True)
    dvc = tmp_path / "dvc"  # a program of this name that waits
    dvc.write_text("import time\ntime.sleep(60)\n")
    with subprocess.Popen([sys.executable, str(dvc), "repro"]) as process:
        entry = {"pid": process.pid, "cmd": f"{dvc} repro"}
        noted = {"write": {"/a": entry}, "read": {"/b": [entry]}}
        assert SCHEMA(noted) == noted  # DVC accepts the file
        rwlock.write_text(json.dumps(noted))
        worktree.check_out("HEAD")
        kept = rwlock.exists()
        process.kill()
    assert kept
    worktree.check_out("HEAD")
    assert not rwlock.exists()  # the lock holder has ended
    rwlock.write_text("")
    worktree.check_out("HEAD")
    assert not rwlock.exists()


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("../photos", "../photos/digits.npz"),
        ("../photos", "../photos/cats"),
        ("../photos/cats", "../photos"),
        ("../photos/digits.npz", "../photos/cats/a.png"),
    ],
)
def test_images_outside_the_project_are_linked_and_never_changed(
    source: Source, worktree: Worktree, first: str, second: str
) -> None:
    photos(source)
    for path in (first, second, second, first):
        source.point_at(path)
        before = source.files()
        worktree.check_out("HEAD")
        link_images(worktree)
        assert (worktree.path / path).resolve() == (source.path / path).resolve()
        assert source.files() == before


def test_images_in_the_project_that_git_ignores_are_linked(
    source: Source, worktree: Worktree
) -> None:
    (source.path / "images").mkdir()
    (source.path / "images/a.png").write_bytes(b"a")
    source.ignore("images")
    source.point_at("images")
    worktree.check_out("HEAD")
    link_images(worktree)
    assert (worktree.path / "images").resolve() == source.path / "images"


def test_images_in_git_are_checked_out_and_untracked_ones_refused(
    source: Source, worktree: Worktree
) -> None:
    (source.path / "images").mkdir()
    (source.path / "images/a.png").write_bytes(b"a")
    source.point_at("images")
    worktree.check_out("HEAD")
    link_images(worktree)
    assert not (worktree.path / "images").is_symlink()
    assert (worktree.path / "images/a.png").read_bytes() == b"a"
    (source.path / "images/b.png").write_bytes(b"b")
    with pytest.raises(LatentworksError, match=r"others are not, such as images/b\.png\. Expected"):
        link_images(worktree)


def test_images_in_dvc_are_pulled_until_the_user_removes_them_from_dvc(
    source: Source, worktree: Worktree
) -> None:
    (source.path / "images/train").mkdir(parents=True)
    (source.path / "images/train/a.png").write_bytes(b"a")
    source.run("dvc", "remote", "add", "--quiet", "--default", "store", "../store")
    source.run("dvc", "add", "--quiet", "images")
    source.run("dvc", "push", "--quiet")
    source.point_at("images/train")
    (source.path / "images/train/a.png").unlink()
    (source.path / "images/train/a.png").write_bytes(b"edited since")
    shutil.rmtree(source.path / ".dvc/cache")
    worktree.check_out("HEAD")
    link_images(worktree)
    assert (worktree.path / "images/train/a.png").read_bytes() == b"a"
    # From now on the images belong to the user alone.
    source.run("dvc", "remove", "images.dvc")
    source.ignore("images")
    source.commit()
    worktree.check_out("HEAD")
    link_images(worktree)
    assert (worktree.path / "images/train/a.png").read_bytes() == b"edited since"


def test_a_file_removed_from_dvc_is_read_from_the_users_checkout(
    source: Source, worktree: Worktree
) -> None:
    (source.path / "images.npz").write_bytes(b"kept by DVC")
    source.run("dvc", "add", "--quiet", "images.npz")
    source.point_at("images.npz")
    worktree.check_out("HEAD")
    link_images(worktree)
    source.run("dvc", "remove", "images.npz.dvc")
    source.ignore("images.npz")
    source.commit()
    (source.path / "images.npz").unlink()
    (source.path / "images.npz").write_bytes(b"edited since")
    worktree.check_out("HEAD")
    link_images(worktree)
    assert (worktree.path / "images.npz").read_bytes() == b"edited since"


def test_missing_images_are_an_error_that_names_their_path(
    source: Source, worktree: Worktree
) -> None:
    source.point_at("../nowhere")
    worktree.check_out("HEAD")
    with pytest.raises(LatentworksError, match="nowhere: no such file or folder"):
        link_images(worktree)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["plain", 'ab#cd,ef "x', "it's, a # one"])
def test_dvc_in_the_worktree_has_the_settings_of_the_source(
    source: Source, worktree: Worktree, password: str
) -> None:
    add = ("dvc", "remote", "add", "--quiet", "--default", "store", "https://example.org/a,b")
    source.run(*add)
    source.run("dvc", "remote", "modify", "--quiet", "--local", "store", "password", password)
    source.commit()
    worktree.check_out("HEAD")
    assert worktree.remote == "store"
    assert (worktree.path / ".dvc/config.local").stat().st_mode & 0o077 == 0
    asked = worktree.dvc("config", "remote.store.password").strip()
    assert asked == password
    assert worktree.dvc("config", "remote.store.url").strip() == "https://example.org/a,b"
    assert worktree.dvc("cache", "dir").strip() == str(source.path / ".dvc/cache")


def sign(source: Source) -> None:
    source.run("git", "config", "commit.gpgSign", "true")
    source.run("git", "config", "gpg.program", "false")


def refuse_by_hook(source: Source) -> None:
    hooks = source.path.parent / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "pre-commit", "pre-push"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    source.run("git", "config", "core.hooksPath", str(hooks))


@pytest.mark.parametrize("hinder", [sign, refuse_by_hook])
def test_a_branch_is_pushed_despite_signing_and_failing_hooks(
    source: Source,
    worktree: Worktree,
    hinder: Callable[[Source], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = source.commit()
    hinder(source)
    # As global settings of the user, which hold in every repository.
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(source.path / ".git/config"))
    worktree.check_out("HEAD")
    worktree.write("params.yaml", "seed: 5\n")
    assert worktree.push_branch("retrain/autoencoder-1", "autoencoder version 1")
    shown = source.run("git", "show", "retrain/autoencoder-1:params.yaml").stdout
    assert shown == "seed: 5\n"
    assert source.run("git", "rev-parse", "retrain/autoencoder-1^").stdout.strip() == commit
    worktree.check_out("HEAD")
    assert git.differences(worktree.path) == []


def test_the_branch_checked_out_in_the_source_is_not_replaced(
    source: Source, worktree: Worktree
) -> None:
    source.run("git", "checkout", "--quiet", "-b", "retrain/autoencoder-1")
    before = source.commit()
    worktree.check_out("HEAD")
    assert not worktree.push_branch("retrain/autoencoder-1", "autoencoder version 1")
    assert source.run("git", "rev-parse", "HEAD").stdout.strip() == before


def test_a_worktree_command_reports_its_lines_or_raises_its_error(worktree: Worktree) -> None:
    worktree.check_out("HEAD")
    lines: list[str] = []
    assert worktree.command(lines.append, "validate") == {}
    assert lines == ["params.yaml is valid"]
    worktree.write("params.yaml", json.dumps({"seed": 0}))
    with pytest.raises(LatentworksError, match="is missing") as raised:
        worktree.command(lines.append, "validate")
    assert raised.value.exit_code == 2


# --- a source that is not git's top, or is a shallow clone ---------------------------------------


@pytest.fixture
def folder(untouched: Checkout, tmp_path: Path) -> Source:
    """A product in a sub-folder of a monorepo, with photos in git in another one."""
    source = Source(untouched.copy(tmp_path / "home/products/digits").path)
    (source.path / ".git").rename(tmp_path / "home/.git")
    photos(source)
    source.commit()
    return source


def test_the_worktree_of_a_sub_folder_is_in_the_same_sub_folder(folder: Source) -> None:
    worktree = Worktree(folder.path, "tests")
    first = folder.commit()
    folder.edit("params.yaml", "seed: 0", "seed: 1")
    folder.edit("src/latentworks/metrics/samples.py", '"""', '"""Edited. ')
    folder.edit("../photos/digits.npz", "digits", "edited")  # another product's edit
    (folder.path / "src/new one.py").touch()
    assert git.differences(folder.path) == ["src/latentworks/metrics/samples.py", "src/new one.py"]
    before = folder.files()
    assert worktree.check_out("HEAD") == first
    assert git.code(worktree.path) == git.Code(first, False)
    assert (git.committed(folder.path, "params.yaml") or "").count("seed: 0") == 1
    assert worktree.repository.top.joinpath(".git").is_dir()
    assert worktree.path == worktree.repository.top / "products/digits"
    assert worktree.dvc("root").strip() == "."
    assert "train" in worktree.dvc("status", "--json")
    assert worktree.command(print, "validate") == {}
    assert folder.files() == before
    second = folder.commit()
    assert worktree.check_out("HEAD") == second
    assert (worktree.path / "params.yaml").read_text().count("seed: 1") == 1
    assert (worktree.path / "src/new one.py").is_file()


def test_the_branch_of_a_sub_folder_has_its_files_in_the_sub_folder(folder: Source) -> None:
    worktree = Worktree(folder.path, "tests")
    worktree.check_out("HEAD")
    worktree.write("params.yaml", "seed: 5\n")
    worktree.write("dvc.lock", lock("ours"))
    worktree.write("reports/metrics.json", "{}\n")
    assert worktree.push_branch("retrain/autoencoder-1", "autoencoder version 1")
    changed = folder.run("git", "diff", "--name-only", "HEAD", "retrain/autoencoder-1").stdout
    names = ("dvc.lock", "params.yaml", "reports/metrics.json")
    assert changed.split() == [f"products/digits/{name}" for name in names]


def test_images_in_another_sub_folder_are_those_in_git(folder: Source) -> None:
    worktree = Worktree(folder.path, "tests")
    folder.point_at("../photos")
    worktree.check_out("HEAD")
    link_images(worktree)
    images = worktree.path / "../photos"
    assert not images.is_symlink()
    assert (images / "cats/a.png").read_bytes() == b"cats/a.png"
    (folder.path.parent / "photos/b.png").write_bytes(b"b")
    with pytest.raises(LatentworksError, match=r"others are not, such as \.\./photos/b\.png"):
        link_images(worktree)


def test_commands_run_in_a_sub_folder_of_a_monorepo(
    finished: Checkout, server: str, tmp_path: Path
) -> None:
    product = Project(finished.copy(tmp_path / "home/products/digits").path, server)
    product.named(tmp_path.name)
    (product.path / ".git").rename(tmp_path / "home/.git")
    commit = Source(product.path).commit()
    (product.path.parent / "letters").mkdir()
    (product.path.parent / "letters/dvc.yaml").write_text("stages: {}\n")  # another's, uncommitted
    assert product.ours("plan") == "everything is up to date\n"
    assert "everything is up to date" in product.ours("repro")
    assert f"{product.name} version 1 is registered" in product.ours("register")
    version = MlflowClient(server).get_model_version(product.name, "1")
    assert version.tags["git.commit"] == commit


def test_the_worktree_follows_a_source_that_moves_into_a_monorepo(source: Source) -> None:
    Worktree(source.path, "tests").check_out("HEAD")
    (source.path / ".git").rename(source.path.parent / ".git")
    commit = source.commit()
    worktree = Worktree(source.path, "tests")
    assert worktree.check_out("HEAD") == commit
    assert git.differences(worktree.path) == []
    assert not (worktree.path / ".git").exists()


def test_a_shallow_clone_is_checked_out_and_lacks_older_commits(
    folder: Source, tmp_path: Path
) -> None:
    first = folder.run("git", "rev-parse", "HEAD").stdout.strip()
    folder.edit("params.yaml", "seed: 0", "seed: 1")
    second = folder.commit()
    top, clone = folder.path.parents[1], tmp_path / "clone"
    folder.run("git", "clone", "--quiet", "--depth=1", f"file://{top}", str(clone))
    shallow = Source(clone / folder.path.relative_to(top))
    worktree = Worktree(shallow.path, "tests")
    assert worktree.check_out("HEAD") == second
    worktree.write("params.yaml", "seed: 5\n")
    assert worktree.push_branch("retrain/autoencoder-1", "autoencoder version 1")
    assert shallow.run("git", "rev-parse", "retrain/autoencoder-1^").stdout.strip() == second
    with pytest.raises(LatentworksError) as raised:
        worktree.check_out(first)  # as `rebuild` does with the commit of a version
    assert str(raised.value) == (
        f"{shallow.path} has no commit {first!r}. Expected a branch, a tag or a commit. "
        "The clone is shallow, and lacks older commits: run `git fetch --unshallow`."
    )
    shallow.run("git", "fetch", "--quiet", "--unshallow")
    assert worktree.check_out(first) == first


# --- git's own reasons ---------------------------------------------------------------------------


def foreign(checkout: Checkout) -> dict[str, str]:
    return {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}  # as if another user owned the files


def no_git(checkout: Checkout) -> dict[str, str]:
    programs = checkout.path.parent / "programs"
    programs.mkdir()
    for program in ("python", "dvc", "latentworks"):
        (programs / program).symlink_to(shutil.which(program) or program)
    return {"PATH": str(programs)}


def no_repository(checkout: Checkout) -> dict[str, str]:
    shutil.rmtree(checkout.path / ".git")
    return {}


REFUSALS = [
    (foreign, "detected dubious ownership in repository at '{path}'. If you trust this repository, "
     "run `git config --global --add safe.directory {path}`."),
    (no_git, "git is not installed, or not on the PATH. Install git."),
    (no_repository, "{path} is not in a git repository. Use a clone of the project, or run "
     "`git init` and commit the files."),
]  # fmt: skip


@pytest.mark.parametrize(("refuse", "reason"), REFUSALS)
def test_a_command_shows_the_reason_of_git_in_one_line(
    source: Source, refuse: Callable[[Checkout], dict[str, str]], reason: str
) -> None:
    before = (source.path / "params.yaml").read_bytes()
    changes = {"PYTHONPATH": f"{source.path}/src", **refuse(source)}
    commands = {
        "python -m pipeline retrain": 1,
        "latentworks recipe seed": 1,
        "latentworks register": Refused.exit_code,
    }
    for command, code in commands.items():
        done = source.run(*command.split(), expected=code, **changes)
        (line,) = done.stderr.splitlines()
        assert line.endswith(reason.format(path=source.path))
    assert (source.path / "params.yaml").read_bytes() == before


@pytest.mark.skipif(os.getuid() != 0, reason="gives the repository to another user")
def test_a_foreign_repository_is_used_after_the_cure_of_git(
    source: Source, worktree: Worktree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = source.commit()
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    source.run("chown", "--recursive", "12345", str(source.path))
    with pytest.raises(LatentworksError, match="detected dubious ownership") as raised:
        worktree.check_out("HEAD")
    assert git.code(source.path) == git.Code("", True)  # a stage runs nevertheless
    cure = str(raised.value).split("`")[1]
    source.run(*cure.split())
    assert worktree.check_out("HEAD") == commit
    assert worktree.push_branch("retrain/autoencoder-1", "autoencoder version 1")
