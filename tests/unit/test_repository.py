"""Stages run one by one in DVC's order, as in a flow."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from checkouts import ROOT, Checkout, environment
from latentworks.repository import dag, dvc
from servers import until


def test_stages_are_listed_in_dvc_order(finished: Checkout) -> None:
    order = [*dvc.needs(finished.path)]
    assert set(order) == set(dag.stages(finished.path))
    assert order.index("prepare") < order.index("train") < order.index("encode")
    assert order.index("sample") < order.index("evaluate")


def test_repro_returns_the_outcome_of_a_stage_or_raises_its_failure(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    lines: list[str] = []
    assert dvc.repro(checkout.path, "sample", lines.append) == "unchanged"
    shutil.rmtree(checkout.path / "data/samples")
    assert dvc.repro(checkout.path, "sample", lines.append) == "restored"
    checkout.edit("params.yaml", "num_components: 5", "num_components: 0")
    fault = r"^Stage sample failed: params.yaml: sample\.sampler\.num_components should be greater"
    with pytest.raises(dvc.StageError, match=fault):
        dvc.repro(checkout.path, "sample", lines.append)
    assert not any("num_components" in line or "ERROR" in line for line in lines)


def test_make_setup_keeps_dvcs_site_cache_in_the_clone(tmp_path: Path) -> None:
    """Plain `dvc` would make a folder for all users of the machine. A moved clone is corrected."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(
        ROOT / ".dvc",
        tmp_path / ".dvc",
        ignore=shutil.ignore_patterns("cache", "tmp", "site_cache"),
    )
    local = tmp_path / ".dvc/config.local"
    local.write_text("[core]\n    site_cache_dir = /elsewhere\n    remote = ours\n")
    for _ in range(2):
        call = ["make", "--old-file", ".venv/.ready", "setup"]  # installs nothing
        subprocess.run(call, cwd=tmp_path, env=environment(), check=True)
        text = f"[core]\n    site_cache_dir = {tmp_path}/.dvc/site_cache\n    remote = ours\n"
        assert local.read_text() == text


def test_a_clone_has_no_crlf_although_git_is_set_to_write_it(tmp_path: Path) -> None:
    """Other bytes in the files that DVC hashes would make every stage run again."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    shutil.copytree(ROOT / "src", origin / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitattributes", "params.yaml", "dvc.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, origin)
    checkout = Checkout(origin)
    checkout.run("git", "init", "--quiet")
    checkout.commit()
    checkout.run("git", "-c", "core.autocrlf=true", "clone", "--quiet", ".", str(clone))
    sources = sorted((clone / "src").rglob("*.py"))
    assert sources
    for file in (clone / "params.yaml", clone / "dvc.yaml", clone / "dvc.lock", *sources):
        assert b"\r" not in file.read_bytes(), file


def test_setup_gives_uv_the_mirror_and_the_certificates_of_pip(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements").mkdir()
    for name in ("requirements/uv.txt", "requirements/latentworks.txt", "pyproject.toml"):
        (tmp_path / name).write_text("# nothing to install\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("uv", "dvc"):
        (programs / name).write_text(
            f'#!/bin/sh\necho "{name} $UV_DEFAULT_INDEX $SSL_CERT_FILE" >> {tmp_path}/called\n'
        )
        (programs / name).chmod(0o755)
    theirs = ("PIP", "UV", "SSL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    environment = {
        **kept,
        "PATH": f"{programs}{os.pathsep}{kept['PATH']}",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CERT": "/certificates.pem",
    }
    call = ["make", "--silent", "setup", f"PYTHON={sys.executable}"]
    subprocess.run(call, cwd=tmp_path, env=environment, check=True)
    first, *_ = (tmp_path / "called").read_text().splitlines()
    assert first == "uv http://127.0.0.1:9/simple /certificates.pem"


def test_make_ui_starts_mlflow_without_pickle(tmp_path: Path) -> None:
    """It needs a server of its own, which gets its settings from `make ui`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/ui.py", tmp_path / "scripts")
    call = ["make", "--silent", "--old-file", "setup", "ui"]
    ui = subprocess.Popen(
        call, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, start_new_session=True
    )

    def server() -> psutil.Process | None:
        children = psutil.Process(ui.pid).children(recursive=True)
        return next((each for each in children if "server" in each.cmdline()), None)

    try:
        assert ui.stdout is not None
        assert ui.stdout.readline().startswith(b"Open http://127.0.0.1:50")
        assert until(server).environ()["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    finally:
        os.killpg(ui.pid, signal.SIGKILL)
        ui.communicate()
