"""`latentworks plan` shows the stages that DVC would run. DVC restores earlier runs of its own."""

import re
import shutil
from pathlib import Path

import pytest

from checkouts import ROOT, Checkout
from latentworks.repository import dag, dvc
from latentworks.runner import repair
from latentworks.runner.reproduce import reproduce_stage


def planned(checkout: Checkout) -> dict[str, list[str]]:
    """Return the lines of `latentworks plan` for each stage."""
    stages: dict[str, list[str]] = {}
    name = ""
    for line in checkout.run("latentworks", "plan").stdout.partition("\n\n")[0].splitlines()[1:]:
        name = line.split()[0] if line[0] != " " else name
        stages.setdefault(name, []).append(re.sub(r" {2,}", " | ", line.strip()))
    return stages


def test_plan_of_a_finished_checkout_has_no_stages(finished: Checkout) -> None:
    assert finished.run("latentworks", "plan").stdout == "everything is up to date\n"


def test_plan_shows_changed_params_and_the_stages_that_follow(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "epochs: 4", "epochs: 12")
    checkout.edit("params.yaml", "  patience: 3", "  patience: 7")
    stages = planned(checkout)
    assert list(stages) == ["train", "encode", "prior", "sample", "evaluate", "export"]
    assert re.fullmatch(
        r"train \| runs \| \d+ s \| [\d.]+ MB \| train.epochs 4 → 12", stages["train"][0]
    )
    assert stages["train"][1:] == ["train.patience 3 → 7"]
    assert stages["encode"][0].endswith("after train")
    assert stages["sample"][0].split(" | ")[1] == "may run"
    assert stages["sample"][0].endswith("after train, encode, prior")


@pytest.mark.cold  # the encoding is chosen when Python starts
def test_a_terminal_without_arrows_shows_the_plan(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "epochs: 4", "epochs: 12")
    shown = checkout.run("latentworks", "plan", PYTHONIOENCODING="latin-1").stdout
    assert "train.epochs 4 ? 12" in shown


def test_plan_shows_another_sampler_changed_code_and_a_missing_out(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "kind: gaussian_mixture", "kind: uniform_box")
    checkout.edit("params.yaml", "    num_components: 5", "#")
    with (checkout.path / "src/latentworks/metrics/samples.py").open("a") as file:
        file.write("# an edit\n")
    shutil.rmtree(checkout.path / "models/servable")
    stages = planned(checkout)
    assert list(stages) == ["sample", "evaluate", "export"]
    assert [line.split(" | ")[-1] for line in stages["sample"]] == [
        "sample.sampler.kind gaussian_mixture → uniform_box",
        "sample.sampler.num_components 5 → not set",
    ]
    assert re.search(r"src/latentworks/metrics [0-9a-f]{7} → [0-9a-f]{7}$", stages["evaluate"][0])
    assert stages["export"][0].endswith("models/servable is missing")


def test_plan_shows_changed_images_outside_the_project(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    images = tmp_path / "images.npz"
    (checkout.path / "digits.npz").rename(images)
    checkout.edit("params.yaml", "digits.npz", "../images.npz")
    checkout.run("dvc", "repro", "prepare")
    with images.open("ab") as file:
        file.write(b"more")
    (reason,) = (line.split(" | ")[-1] for line in planned(checkout)["prepare"])
    assert re.fullmatch(r"\.\./images\.npz [0-9a-f]{7} → [0-9a-f]{7}", reason)
    with images.open("ab") as file:
        file.truncate(30_000_000)  # too large to be hashed for a plan
    (reason,) = (line.split(" | ")[-1] for line in planned(checkout)["prepare"])
    assert re.fullmatch(r"\.\./images\.npz 1 file of 0\.\d MB → 1 file of 30\.0 MB", reason)


def test_plan_shows_the_extent_of_own_images_and_no_sizes_of_others(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(bytes(400_000))
    checkout.edit("params.yaml", "kind: npz ", "kind: image_folder ")
    checkout.edit("params.yaml", "digits.npz", "../photos")
    stages = planned(checkout)
    own = "your own images, 3 files of 1.2 MB: nothing to download"
    assert re.match(
        r"fetch \| runs \| \d+ s \| 0\.0 MB \| dataset\.kind npz → ", stages["fetch"][0]
    )
    assert stages["fetch"][-1] == own
    assert all(lines[0].split(" | ")[3] == "-" for lines in [*stages.values()][1:])
    shown = f"{folder} is new: 3 files of 1.2 MB"
    assert any(shown in line for line in stages["prepare"])


def test_plan_shows_stages_that_never_ran_and_refuses_wrong_params(
    untouched: Checkout, tmp_path: Path
) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    stages = planned(checkout)
    assert list(stages) == [
        "fetch",
        "prepare",
        "features",
        "train",
        "encode",
        "prior",
        "sample",
        "evaluate",
        "export",
    ]
    assert {lines[0].split(" | ")[-1] for lines in stages.values()} == {"never ran"}
    assert "these stages never ran here" in checkout.run("latentworks", "plan").stdout
    checkout.edit("params.yaml", "epochs: 4", "epohcs: 4")
    done = checkout.run("latentworks", "plan", expected=2)
    assert "train.epohcs is not a known key. Did you mean epochs?" in done.stderr


# --- results of other machines -------------------------------------------------------------------

LOST = "0123456789abcdef0123456789abcdef.dir"  # the MD5 of outs that are nowhere


def of_another_machine(finished: Checkout, path: Path) -> Checkout:
    """A checkout whose dvc.lock has other outs of `train` than this machine makes, and no outs."""
    checkout = finished.copy(path)
    made = dag.locked_md5(checkout.path, Path("models/autoencoder"))
    assert made is not None
    before, entry, after = re.split(r"^(?=  (?:train|encode):$)", text_of(checkout), flags=re.M)
    (checkout.path / "dvc.lock").write_text(before + entry.replace(made, LOST) + after)
    shutil.rmtree(checkout.path / "models/autoencoder")
    return checkout


def text_of(checkout: Checkout) -> str:
    return (checkout.path / "dvc.lock").read_text()


def test_a_run_of_this_machine_is_restored_if_the_recorded_outs_are_nowhere(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = of_another_machine(finished, tmp_path / "checkout")
    lines: list[str] = []
    assert reproduce_stage(checkout.path, "train", ["prepare"], lines.append) == "restored"
    assert text_of(checkout) == text_of(finished)
    assert dag.is_as_recorded(checkout.path, "train")


def test_the_record_of_lost_outs_stays_if_the_stage_fails(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = of_another_machine(finished, tmp_path / "checkout")
    checkout.edit("params.yaml", "warmup: 0.1 ", "warmup_steps: 5000 ")
    before = text_of(checkout)
    with pytest.raises(dvc.StageError, match="leaves no step after the warm-up"):
        reproduce_stage(checkout.path, "train", ["prepare"], print)
    assert text_of(checkout) == before


def test_the_record_of_lost_outs_is_back_after_a_kill(finished: Checkout, tmp_path: Path) -> None:
    checkout = of_another_machine(finished, tmp_path / "checkout")
    before = text_of(checkout)
    # A process that is killed while DVC runs the stage.
    program = (
        "import os, pathlib, sys; from latentworks.runner import lost_outs\n"
        "with lost_outs.forgotten(pathlib.Path.cwd(), 'train'): os._exit(9)"
    )
    checkout.run("python", "-c", program, expected=9, PYTHONPATH=str(ROOT / "src"))
    assert dag.locked(checkout.path).keys() == dag.locked(finished.path).keys() - {"train"}
    for _ in range(2):
        repair.repair_checkout(checkout.path)
        assert dag.locked(checkout.path) == dag.stages_in(before)
