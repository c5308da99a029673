"""`latentworks repro` runs alone, keeps previous outputs, and repairs damage left by a kill."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from ruamel.yaml import YAML
from voluptuous import Invalid

from checkouts import HANGS, ROOT, Checkout
from latentworks.repository import dag
from latentworks.runner import repair
from latentworks.system import disk
from latentworks.system.state import STATE
from servers import until
from stage_runs import in_training, long_training, repro, rest, start, states, trains

# --- the run of a killed training ----------------------------------------------------------------


def test_the_mlflow_run_of_an_abandoned_training_is_closed(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = long_training(finished, tmp_path / "checkout")
    run = start(checkout)
    trains(run)
    until(lambda: "RUNNING" in states(checkout))
    os.killpg(run.pid, signal.SIGKILL)
    rest(run)
    run.wait()
    assert states(checkout) == ["FINISHED", "RUNNING"]
    checkout.run("git", "checkout", "--quiet", "params.yaml")  # the user gives up the training
    repro(checkout)
    assert states(checkout) == ["FINISHED", "KILLED"]


def test_a_training_that_is_killed_in_its_second_phase_ends_with_the_same_bytes(
    finished: Checkout, tmp_path: Path
) -> None:
    whole, cut = (finished.copy(tmp_path / name) for name in ("whole", "cut"))
    refine = "{steps: 250, learning_rate: 0.001, energy: 0.5, moments: 0.2, features: 0.2}"
    for checkout in (whole, cut):
        checkout.edit("params.yaml", "  patience: 3", f"  patience: 3\n  refine: {refine}")
    whole.run("dvc", "repro", "train")
    run = start(cut)
    assert run.stdout is not None
    second = (line for line in run.stdout if line.startswith("Epoch 3/10"))  # of 10 rounds
    assert next(second)
    os.killpg(run.pid, signal.SIGKILL)
    run.stdout.close()
    run.wait()
    said = cut.run("dvc", "repro", "train").stdout
    assert re.search(r"the second phase goes on after round \d+ of 10", said)
    assert "Epoch 1/4\n" not in said
    model = "models/autoencoder"
    assert dag.md5_of(cut.path / model) == dag.md5_of(whole.path / model)
    # Another second phase continues from the same first phase.
    cut.edit("params.yaml", "steps: 250", "steps: 25")
    said = cut.run("dvc", "repro", "train").stdout
    assert "the second phase has 25 steps" in said
    assert "Epoch 1/4\n" not in said
    whole.edit("params.yaml", "steps: 250", "steps: 25")
    shutil.rmtree(whole.path / STATE)
    whole.run("dvc", "repro", "train")
    assert dag.md5_of(cut.path / model) == dag.md5_of(whole.path / model)


def test_a_prior_that_is_killed_ends_with_the_same_bytes(
    finished: Checkout, tmp_path: Path
) -> None:
    whole, cut = (finished.copy(tmp_path / name) for name in ("whole", "cut"))
    flow = (
        "{kind: flow, width: 16, num_blocks: 1, label_dropout: 0.2, num_steps: 2, epochs: 40, "
        "batch_size: 64, learning_rate: 0.002, warmup_steps: 2, schedule: cosine, patience: 40, "
        "num_threads: 1}"
    )
    for checkout in (whole, cut):
        checkout.edit("params.yaml", "prior:\n  kind: none", f"prior: {flow}")
    whole.run("dvc", "repro", "prior")
    run = subprocess.Popen(
        ["dvc", "repro", "prior"],
        cwd=cut.path,
        env=cut.environment(PYTHONPATH=str(cut.path / "src")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    trains(run)
    os.killpg(run.pid, signal.SIGKILL)
    rest(run)
    run.wait()
    said = cut.run("dvc", "repro", "prior").stdout
    assert re.search(r"prior: goes on after epoch \d+ of 40", said)
    assert dag.md5_of(cut.path / "models/prior") == dag.md5_of(whole.path / "models/prior")


# --- the previous outputs stay -------------------------------------------------------------------


def test_a_failed_stage_leaves_the_previous_outputs(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    before = {out: dag.md5_of(checkout.path / out) for out in outs(checkout)}
    checkout.edit("params.yaml", "min_images: 100", "min_images: 100000")
    said = repro(checkout, expected=1)
    assert "error" not in said.lower()  # the reason is told once, at the end
    assert re.fullmatch(
        r"Stage prepare failed: Too few .* The previous outputs are back in place\.",
        said.splitlines()[-1],
    )
    assert {out: dag.md5_of(checkout.path / out) for out in outs(checkout)} == before
    checkout.run("git", "checkout", "--quiet", "params.yaml")
    assert "everything is up to date" in repro(checkout)


def outs(checkout: Checkout) -> list[str]:
    stages = dag.stages(checkout.path).values()
    return [out for stage in stages for out in dag.outs_of(stage)]


def test_too_little_memory_is_reported_before_any_stage_starts(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    note = checkout.path / ".latentworks/records/train.json"
    record = disk.read_json(note)
    disk.write_json(note, {**record, "peak_memory_mb": 10**9})  # as if training had used so much
    checkout.edit("params.yaml", "seed: 0", "seed: 1")
    said = repro(checkout, expected=1)
    assert "Too little memory. Expected 1,000,000,000 MB" in said.splitlines()[-1]
    assert (checkout.path / "models/autoencoder/model.keras").is_file()


@pytest.fixture
def own_mounts() -> list[str]:
    """A command prefix that gives the command behind it mounts of its own."""
    call = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--mount"]
    probe = [*call, "mount", "-t", "tmpfs", "none", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("no mounts can be made here")
    return call


def in_mounts(
    checkout: Checkout, own_mounts: list[str], script: str
) -> subprocess.CompletedProcess[str]:
    """Run a shell script with mounts of its own, which the shared warm interpreter does not see."""
    return subprocess.run(
        [*own_mounts, "sh", "-c", script],
        cwd=checkout.path,
        env=checkout.environment(PYTHONPATH=str(checkout.path / "src"), LATENTWORKS_COLD="1"),
        capture_output=True,
        text=True,
        timeout=HANGS,
    )


def test_a_read_only_folder_is_reported_before_any_stage_starts(
    finished: Checkout, tmp_path: Path, own_mounts: list[str]
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "seed: 0", "seed: 1")
    for folder in ("models", ".dvc/cache"):
        read_only = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
        done = in_mounts(checkout, own_mounts, f"{read_only} && exec latentworks repro")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            f"{checkout.path / folder} cannot be written to. Nothing was started. Make it writable."
        )
        assert (checkout.path / "models/autoencoder/model.keras").is_file()


FILL = """
import json, os, subprocess, sys
from pathlib import Path
from latentworks.repository import dag

def run(full):
    environment = {**os.environ, "PYTHONPATH": "src"}
    lines = []
    with subprocess.Popen(["latentworks", "repro"], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            lines.append(line.strip())
            print("|", line, end="")
            if full and line.startswith("Epoch 3/"):
                with open("../fill", "wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(4096))
                    except OSError:
                        pass
    stages = dag.stages(Path()).values()
    outs = [out for stage in stages for out in dag.outs_of(stage)]
    print(json.dumps({
        "code": process.returncode,
        "last": lines[-1],
        "goes on": any(line.startswith("train: goes on after epoch") for line in lines),
        "outs": {out: dag.md5_of(Path(out)) for out in outs if Path(out).exists()},
    }), flush=True)

run(True)
os.remove("../fill")
run(False)
"""


def test_repro_refuses_a_small_disk_and_resumes_after_a_full_one(
    finished: Checkout, tmp_path: Path, own_mounts: list[str]
) -> None:
    """A small disk is refused. A full one is an error in one line; with room, training resumes."""
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "seed: 0", "seed: 1")
    small = "mount -t tmpfs -o size=20m none .dvc/cache"
    done = in_mounts(checkout, own_mounts, f"{small} && exec latentworks repro")
    assert done.returncode == 1
    assert re.search(r"Too little disk space in \S+\. Expected 10", done.stderr.splitlines()[-1])

    # One disk for everything, filled during the training.
    checkout.edit("params.yaml", "epochs: 4", "epochs: 40")
    checkout.edit("params.yaml", "patience: 3", "patience: 40")
    before = {out: dag.md5_of(checkout.path / out) for out in outs(checkout)}
    (tmp_path / "fill.py").write_text(FILL)
    disk = f"mount -t tmpfs -o size=400m none /mnt && cp -a {checkout.path} /mnt/checkout"
    warm = f"{sys.executable} {ROOT / 'tests/warm/start.py'} /mnt/warm $$"  # inside these mounts
    path = "export PATH=/mnt/warm/bin:$PATH && unset LATENTWORKS_COLD"
    script = f"{disk} && cd /mnt/checkout && {warm} && {path} && exec python {tmp_path / 'fill.py'}"
    done = in_mounts(checkout, own_mounts, script)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "no space left on device. Free some space" in said
    first, second = (json.loads(line) for line in done.stdout.splitlines() if line[0] == "{")
    assert first["code"] == 1
    assert "run the same command again. The previous outputs are back in place." in first["last"]
    assert first["outs"] == before
    assert second["code"] == 0
    assert second["goes on"]
    assert second["outs"]["models/autoencoder"] != before["models/autoencoder"]


# --- files that a kill has left damaged ----------------------------------------------------------


def test_a_cut_dvc_lock_is_moved_away_unless_dvc_accepts_it(
    finished: Checkout, tmp_path: Path
) -> None:
    # Two stages have all kinds of lines, and every cut is parsed several times.
    content = b"".join(re.split(rb"(?m)^(?=  \w)", (finished.path / "dvc.lock").read_bytes())[:3])
    assert b"outs:" in content
    lines = content.splitlines(keepends=True)
    cuts = [b"".join(lines[:number]) for number in range(len(lines))]
    cuts += [content[:place] for place in range(1, len(content), 97)]
    moved = 0
    for cut in cuts:
        (tmp_path / "dvc.lock").write_bytes(cut)
        if repair.repair_checkout(tmp_path):
            moved += 1
            assert not (tmp_path / "dvc.lock").exists()
            continue
        try:
            COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe", pure=True).load(cut.decode()))
        except Invalid:
            pytest.fail(f"DVC would refuse what ends with {cut[-200:]!r}")
    assert moved > len(cuts) // 2
    (tmp_path / "dvc.lock").write_bytes(content)
    assert repair.repair_checkout(tmp_path) == []
    assert (tmp_path / "dvc.lock").read_bytes() == content


def test_merge_conflict_marks_in_dvc_lock_are_left_to_the_user(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    marked = "<<<<<<< HEAD\nstages:\n=======\n"
    (checkout.path / "dvc.lock").write_text(marked)
    assert "merge conflict" in repro(checkout, expected=1)
    assert (checkout.path / "dvc.lock").read_text() == marked


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"write": {"/x": {"pid": ',
        "[]",
        '{"write": {"/x": {"pid": 1, "cmd": "dvc repro"}}}',  # another program has this PID
        '{"read": {"/x": [{"pid": 999999999, "cmd": "dvc repro"}]}}',
    ],
)
def test_a_damaged_or_stale_rwlock_is_moved_away(tmp_path: Path, content: str) -> None:
    path = tmp_path / ".dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert len(repair.repair_checkout(tmp_path)) == 1
    assert not path.exists()
    assert (tmp_path / ".latentworks/torn/rwlock").read_text() == content


@pytest.mark.parametrize("mark", [b"  md5: ", b"outs:", None])
def test_repro_works_though_entries_of_dvcs_run_cache_are_cut_off(
    finished: Checkout, tmp_path: Path, mark: bytes | None
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    notes = [*(checkout.path / ".dvc/cache/runs").glob("*/*/*")]
    assert notes
    for note in notes:
        if mark is None:
            note.unlink()  # as DVC removes a damaged entry; the folder stays
        else:
            os.truncate(note, note.read_bytes().index(mark))
    recorded = dag.locked(checkout.path)
    others = {name: stage for name, stage in recorded.items() if name != "sample"}
    with (checkout.path / "dvc.lock").open("w") as file:  # DVC looks for `sample` in its run cache
        YAML(typ="safe", pure=True).dump({"schema": "2.0", "stages": others}, file)
    assert "Running stage 'sample'" in repro(checkout)
    assert dag.locked(checkout.path) == recorded


def test_repro_repairs_a_changed_file_that_dvc_takes_for_unchanged(
    finished: Checkout, tmp_path: Path
) -> None:
    """DVC compares times and sizes alone, which are the same here."""
    checkout = finished.copy(tmp_path / "checkout")
    repro(checkout)
    path = checkout.path / "models/autoencoder/model.keras"
    whole, times = path.read_bytes(), path.stat()
    content = bytearray(whole)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "repaired" in repro(checkout)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("length", [34, 952])
def test_commands_report_a_cut_dvc_lock_in_one_line(
    finished: Checkout, tmp_path: Path, length: int
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    os.truncate(checkout.path / "dvc.lock", length)
    done = checkout.run("latentworks", "sync", expected=1)
    assert "dvc.lock" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = checkout.run("latentworks", "verify", "--result", expected=11)
    assert "dvc.lock was left damaged by a killed process" in done.stdout


@pytest.mark.cold
def test_verify_is_refused_while_a_dvc_command_of_the_user_runs(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = long_training(finished, tmp_path / "checkout")
    dvc = subprocess.Popen(
        ["dvc", "repro"],
        cwd=checkout.path,
        env=checkout.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    in_training(dvc)
    said = checkout.run("latentworks", "verify", "--result", expected=75).stderr
    assert f"Cannot verify: process {dvc.pid}, `" in said
    assert said.rstrip().endswith(
        "dvc repro`, is writing in this checkout. Wait for it, or end it."
    )
    os.killpg(dvc.pid, signal.SIGKILL)
    rest(dvc)
    dvc.wait()


def test_an_rwlock_whose_pid_belongs_to_another_program_is_moved_away(tmp_path: Path) -> None:
    path = tmp_path / ".dvc/tmp/rwlock"
    path.parent.mkdir(parents=True)
    sleeping = ["bash", "-c", "exec -a 'vim /home/me/dvc.yaml' sleep 60"]
    with subprocess.Popen(sleeping) as other:
        note = {"pid": other.pid, "cmd": "/usr/bin/dvc repro"}
        path.write_text(json.dumps({"write": {"/x": note}, "read": {}}))
        assert len(repair.repair_checkout(tmp_path)) == 1
        other.kill()


def test_outs_that_dvc_restores_are_verified_before_the_next_stage(
    finished: Checkout, tmp_path: Path
) -> None:
    """DVC takes a damaged cache object for intact, and a training would use its content."""
    checkout = finished.copy(tmp_path / "checkout")
    root = checkout.path
    expected = (root / "dvc.lock").read_bytes()
    shutil.rmtree(root / "data/samples")
    md5 = dag.locked(root)["sample"]["outs"]
    name = next(out["md5"] for out in md5 if out["path"] == "data/samples").removesuffix(".dir")
    listing = root / ".dvc/cache/files/md5" / name[:2] / f"{name[2:]}.dir"
    images = next(e["md5"] for e in json.loads(listing.read_text()) if "images" in e["relpath"])
    path = root / ".dvc/cache/files/md5" / images[:2] / images[2:]
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    path.chmod(0o444)  # DVC hashes cache objects of any other mode
    said = repro(checkout)
    assert "repaired" in said
    assert dag.is_as_recorded(root, "sample")
    assert (root / "dvc.lock").read_bytes() == expected
