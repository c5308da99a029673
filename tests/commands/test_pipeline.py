"""Real DVC runs all stages together on real digits."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from checkouts import Checkout
from families import OF_KIND
from latentworks.artifacts.curves import read_curves
from latentworks.artifacts.features import read_features
from latentworks.artifacts.images import read_prepared
from latentworks.artifacts.samples import read_samples
from latentworks.params import recipes
from latentworks.system import disk

STAGES = [
    *("fetch", "prepare", "features", "train", "encode"),
    *("prior", "sample", "evaluate", "export"),
]
PICTURES = {
    "curves",
    "data",
    "interpolations",
    "latent_grid",
    "latent_scatter",
    "nearest_neighbours",
    "reconstructions",
    "samples",
    "traversals",
}
MODEL = "models/autoencoder/model.keras"
MANY = 80  # epochs of a tenth of a second each


def stages_run(output: str) -> list[str]:
    return re.findall(r"^Running stage '(\w+)'", output, flags=re.MULTILINE)


def changed_stages(checkout: Checkout) -> set[str]:
    return set(json.loads(checkout.run("dvc", "status", "--json").stdout))


def test_every_stage_writes_the_outs_that_the_next_stage_reads(finished: Checkout) -> None:
    data = read_prepared(finished.path / "data/prepared")
    latents = pd.read_parquet(finished.path / "data/latents.parquet")
    assert list(latents) == ["id", "split", "label", "z0", "z1"]
    assert latents["id"].tolist() == data.index["id"].tolist()
    assert latents["split"].tolist() == data.index["split"].tolist()
    samples = read_samples(finished.path / "data/samples")
    assert samples.images.shape == (300, 8, 8, 1)
    assert samples.images.dtype == np.uint8
    assert samples.latents.shape == (300, 2)
    curves = read_curves(finished.path / "reports/curves.csv")
    assert [epoch["epoch"] for epoch in curves] == [1, 2, 3, 4]
    assert {file.stem for file in (finished.path / "reports/figures").iterdir()} == PICTURES
    assert "<title>Latent atlas" in (finished.path / "reports/atlas.html").read_text()


def test_metrics_are_in_groups_and_have_plausible_values(finished: Checkout) -> None:
    metrics = disk.read_json(finished.path / "reports/metrics.json")
    assert {name: set(group) for name, group in metrics.items()} == {
        "test": {"bce", "excess_bce", "mse", "mse_mean_image", "psnr", "ssim"},
        "latents": {"knn_accuracy", "linear_accuracy", "active_units", "trustworthiness"},
        "samples": {
            *("sliced_wasserstein", "sliced_wasserstein_floor", "memorisation"),
            *("features", "frechet", "frechet_floor", "frechet_blur", "frechet_sampler", "kid"),
            *("precision", "recall", "density", "coverage", "class_balance"),
            *("precision_real", "recall_real", "density_real", "coverage_real"),
            *("precision_reconstructed", "recall_reconstructed", "density_reconstructed"),
            *("coverage_reconstructed", "frechet_floor_std"),
            *("label_agreement_real", "label_agreement_reconstructed"),
        },
    }
    assert metrics["samples"]["features"] == "trained"
    curves = read_curves(finished.path / "reports/curves.csv")
    # val_loss is of the validation images, and in float32: near to the test loss, not equal.
    assert metrics["test"]["bce"] == pytest.approx(curves[-1]["val_loss"], rel=0.05)
    assert metrics["test"]["bce"] < np.log(2)  # the score of a grey image
    assert metrics["latents"]["knn_accuracy"] > 0.15  # ten classes: 0.1 is chance
    assert metrics["samples"]["frechet"] > metrics["samples"]["frechet_floor"]  # the model is poor
    network = read_features(finished.path / "models/features")
    assert network.kind == "trained"  # the images are smaller than those of the shipped network


def test_a_second_repro_runs_no_stage(finished: Checkout) -> None:
    output = finished.run("dvc", "repro").stdout
    assert stages_run(output) == []
    assert re.findall(r"Stage '(\w+)' didn't change, skipping", output) == STAGES


def test_an_edited_module_changes_only_the_stages_that_use_it(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    after_prepare = {"train", "encode", "sample", "evaluate", "export"}
    for file, stages in {
        "src/latentworks/samplers/gaussian.py": {"sample", "export"},
        "src/latentworks/metrics/samples.py": {"evaluate"},
        "src/latentworks/preprocess.py": {"prepare", "sample", "evaluate", "export"},
        "src/latentworks/serving/servable.py": {"export"},
        "src/latentworks/engine/training.py": {"train", "prior"},
        "src/latentworks/priors/flow.py": {"prior"},
        "src/latentworks/evaluation/features/training.py": {"features", "evaluate"},
        "src/latentworks/evaluation/features/classifier.py": {"features", "evaluate"},
        "src/latentworks/models/autoencoder.py": after_prepare,
        "src/latentworks/tracking/runs.py": set(),
        "recipes/seed.yaml": set(),
    }.items():
        text = (checkout.path / file).read_text()
        (checkout.path / file).write_text(f"{text}# an edit\n")
        assert changed_stages(checkout) == stages, file
        (checkout.path / file).write_text(text)


def test_another_sampler_runs_three_stages_and_has_its_own_mlflow_run(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    checkout.run("latentworks", "sync", MLFLOW_TRACKING_URI=store)
    checkout.edit("params.yaml", "gaussian_mixture", "uniform_box")
    checkout.edit("params.yaml", "    num_components: 5", "#")
    output = checkout.run("dvc", "repro", MLFLOW_TRACKING_URI=store).stdout
    assert stages_run(output) == ["sample", "evaluate", "export"]
    checkout.run("latentworks", "sync", MLFLOW_TRACKING_URI=store)
    later, earlier = runs(store)
    assert later.data.tags["model.sha256"] == earlier.data.tags["model.sha256"]
    assert later.data.tags["sampler.sha256"] != earlier.data.tags["sampler.sha256"]
    assert later.data.params["sample.sampler.kind"] == "uniform_box"
    assert earlier.data.params["sample.sampler.kind"] == "gaussian_mixture"
    assert set(later.data.metrics) == set(earlier.data.metrics)


def test_stages_of_a_conditional_model_pass_the_labels_on(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    path = checkout.path / "params.yaml"
    network = OF_KIND["conditional"].model_dump(mode="json")
    sampler = {"kind": "class_gaussian_mixture", "num_components": 2}
    sections = {"model": network, "sample": {"num_images": 300, "sampler": sampler}}
    path.write_text(recipes.merge(path.read_text(), sections))
    output = checkout.run("dvc", "repro").stdout
    assert stages_run(output) == ["train", "encode", "prior", "sample", "evaluate", "export"]
    samples = read_samples(checkout.path / "data/samples")
    assert samples.labels is not None
    assert set(samples.labels) == set(range(10))
    scores = disk.read_json(checkout.path / "reports/metrics.json")["samples"]
    of_classes = {"label_agreement", "classification_accuracy"}
    former = disk.read_json(finished.path / "reports/metrics.json")["samples"]
    assert set(scores) == {*former, *of_classes}
    assert all(0 < scores[name] <= 1 for name in of_classes)
    figures = {file.stem for file in (checkout.path / "reports/figures").iterdir()}
    assert figures == PICTURES | {"class_samples"}


def test_forced_training_gives_the_same_model(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    before = disk.file_digest(checkout.path / MODEL)
    for _ in range(2):
        (checkout.path / MODEL).unlink()
        output = checkout.run("dvc", "repro", "--force", "--single-item", "train").stdout
        assert "Epoch 4/4" in output  # the model was trained, not taken from a cache
        assert disk.file_digest(checkout.path / MODEL) == before
    assert len(runs(checkout.database)) == 1


def runs(store: str) -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("latentworks")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_a_killed_training_resumes_to_the_same_bytes_in_the_same_run(
    finished: Checkout, tmp_path: Path
) -> None:
    """SIGKILL ends a training twice; then the same command runs to the end."""
    killed = finished.copy(tmp_path / "killed")
    killed.edit("params.yaml", "epochs: 4", f"epochs: {MANY}")
    killed.edit("params.yaml", "patience: 3", f"patience: {MANY}")
    whole = killed.copy(tmp_path / "whole")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    reached = kill_in_epoch(killed, 3, store)
    reached = kill_in_epoch(killed, reached + 5, store)
    assert not (killed.path / MODEL).exists()
    (before,) = runs(store)
    assert "model.sha256" not in before.data.tags

    call = ("dvc", "repro", "--single-item", "train")
    often = {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.2"}  # the training takes a few seconds
    output = killed.run(*call, MLFLOW_TRACKING_URI=store, **often).stdout
    (goes_on,) = re.findall(rf"train: goes on after epoch (\d+) of {MANY}", output)
    # The training may have finished the epoch before the signal arrived.
    assert reached - 1 <= int(goes_on) <= reached + 1
    assert f"Epoch {reached - 1}/{MANY}" not in output
    whole.run(*call)
    assert disk.file_digest(killed.path / MODEL) == disk.file_digest(whole.path / MODEL)
    assert locked_train(killed) == locked_train(whole)

    (run,) = runs(store)
    assert run.info.run_id == before.info.run_id
    assert run.info.status == "FINISHED"
    history = mlflow.MlflowClient(store).get_metric_history(run.info.run_id, "train/loss")
    curves = read_curves(killed.path / "models/autoencoder/curves.csv")
    # Points that a kill left unsent are sent at the end, so the points are not in order of time.
    assert sorted((point.step, point.value) for point in history) == [
        (int(epoch["epoch"]), epoch["loss"]) for epoch in curves
    ]
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0


def kill_in_epoch(checkout: Checkout, epoch: int, store: str) -> int:
    """Kill DVC and the stage at once in an epoch, or a later epoch if MLflow has no run yet."""
    process = subprocess.Popen(
        ["dvc", "repro", "--single-item", "train"],
        cwd=checkout.path,
        env=checkout.environment(
            PYTHONUNBUFFERED="1",
            MLFLOW_TRACKING_URI=store,
            MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL="0.5",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    seen = []
    reached = 0
    for line in process.stdout:
        seen.append(line)
        if begun := re.match(rf"Epoch (\d+)/{MANY}", line):
            reached = int(begun[1])
            if reached >= epoch and has_runs(store):
                os.killpg(process.pid, signal.SIGKILL)
                break
    else:
        pytest.fail(f"epoch {epoch} was never reached:\n{''.join(seen)}")
    process.stdout.read()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return reached


def has_runs(store: str) -> bool:
    path = Path(store.removeprefix("sqlite:///"))
    return path.exists() and bool(runs(store))


@pytest.mark.cold
def test_a_stage_ends_when_its_dvc_is_killed(finished: Checkout, tmp_path: Path) -> None:
    """SIGKILL ends DVC alone: its stage must not write beside the stage of the next DVC."""
    if sys.platform != "linux":
        pytest.skip("only Linux can end a child with its parent")
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "epochs: 4", "epochs: 30000")
    with subprocess.Popen(
        ["dvc", "repro", "--single-item", "train"],
        cwd=checkout.path,
        env=checkout.environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        text=True,
    ) as dvc:
        assert dvc.stdout is not None
        assert any(line.startswith("Epoch 2/") for line in dvc.stdout)
        children = psutil.Process(dvc.pid).children(recursive=True)
        assert children
        dvc.kill()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive


def test_another_number_of_samples_is_another_result(finished: Checkout, tmp_path: Path) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    checkout.run("latentworks", "sync", MLFLOW_TRACKING_URI=store)
    checkout.edit("params.yaml", "num_images: 300", "num_images: 200")
    checkout.run("dvc", "repro", "--single-item", "sample", MLFLOW_TRACKING_URI=store)
    later, earlier = runs(store)
    assert later.data.tags["model.sha256"] == earlier.data.tags["model.sha256"]
    assert later.data.tags["sampler.sha256"] == earlier.data.tags["sampler.sha256"]
    assert later.data.params["sample.num_images"] == "200"
    assert earlier.data.params["sample.num_images"] == "300"


def locked_train(checkout: Checkout) -> str:
    lock = (checkout.path / "dvc.lock").read_text()
    return lock[lock.index("  train:") :]


def test_dvc_repro_reports_a_mistake_in_params_in_one_line(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "latent_dim:", "latent_dmi:")
    done = checkout.run("dvc", "repro", expected=255)
    assert "error: params.yaml: model.latent_dmi is not a known key. Did you mean latent_dim?" in (
        done.stderr.splitlines()
    )
    assert "Traceback" not in done.stderr


def test_source_images_inside_an_out_are_refused_and_kept(
    untouched: Checkout, tmp_path: Path
) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    mine = checkout.path / "data/raw/mine/photo.png"
    mine.parent.mkdir(parents=True)
    Image.new("L", (8, 8)).save(mine)
    checkout.edit("params.yaml", "kind: npz", "kind: image_folder")
    checkout.edit("params.yaml", "digits.npz", "data/raw/mine")
    done = checkout.run("latentworks", "validate", expected=2)
    assert "dataset.path lies in data/raw, which stage fetch writes" in done.stderr
    done = checkout.run("dvc", "repro", expected=255)
    assert "error: " in done.stderr
    assert mine.is_file()


def test_images_that_dvc_replaced_by_links_are_read(untouched: Checkout, tmp_path: Path) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    rng = np.random.default_rng(0)
    for number in range(120):
        place = checkout.path / "photos" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place)
    (checkout.path / "photos/linked").symlink_to("a")
    checkout.run("dvc", "config", "cache.type", "symlink")
    checkout.run("dvc", "add", "--quiet", "photos")
    assert place.is_symlink()
    checkout.edit("params.yaml", "kind: npz", "kind: image_folder")
    checkout.edit("params.yaml", "digits.npz", "photos")
    done = checkout.run("dvc", "repro", "prepare")
    assert "prepare: 3 classes: a, b, linked\n" in done.stdout
    profile = disk.read_json(checkout.path / "data/prepared/profile.json")
    assert (profile["num_images"], profile["duplicates"], profile["rejects"]) == (120, 60, {})


def test_stages_run_on_colour_images_without_labels(untouched: Checkout, tmp_path: Path) -> None:
    """An image folder, three channels, a size that the strides do not divide, and no labels."""
    checkout = untouched.copy(tmp_path / "checkout")
    folder = checkout.path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(150):
        pixels = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((20, 14), Image.Resampling.BICUBIC).save(
            folder / f"{number:03}.png"
        )
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    checkout.edit("params.yaml", "kind: npz", "kind: image_folder")
    checkout.edit("params.yaml", "digits.npz", "photos")
    checkout.edit("params.yaml", "image_size: 8", "image_size: 18")
    checkout.edit("params.yaml", "channels: 1", "channels: 3")
    checkout.edit("params.yaml", "latent_dim: 2", "latent_dim: 3")
    checkout.run("dvc", "repro")
    metrics = disk.read_json(checkout.path / "reports/metrics.json")
    assert set(metrics["latents"]) == {"active_units", "trustworthiness"}
    assert read_features(checkout.path / "models/features").kind == "random"
    assert metrics["samples"]["frechet"] > 0
    assert "class_balance" not in metrics["samples"]
    profile = disk.read_json(checkout.path / "data/prepared/profile.json")
    assert profile["num_images"] == 150
    assert sum(reject["images"] for reject in profile["rejects"].values()) == 1
    samples = read_samples(checkout.path / "data/samples")
    assert samples.images.shape == (300, 18, 18, 3)
    assert list(pd.read_parquet(checkout.path / "data/latents.parquet")) == [
        "id",
        "split",
        "z0",
        "z1",
        "z2",
    ]

    assert changed_stages(checkout) == set()
    Image.new("RGB", (20, 14), "teal").save(folder / "new.png")
    assert changed_stages(checkout) == {"prepare"}


def test_dvc_diff_compares_params_metrics_and_plots_of_an_experiment(
    experiment: Checkout, tmp_path: Path
) -> None:
    checkout = experiment.copy(tmp_path / "checkout")
    params = json.loads(checkout.run("dvc", "params", "diff", "--json").stdout)
    assert params["params.yaml"]["model.latent_dim"] == {"old": 2, "new": 16, "diff": 14}
    metrics = json.loads(checkout.run("dvc", "metrics", "diff", "--json").stdout)
    change = metrics["reports/metrics.json"]["test.bce"]
    assert change["new"] < change["old"]  # 16 latents hold more of an 8x8 digit than 2
    scores = disk.read_json(checkout.path / "reports/metrics.json")
    assert "trustworthiness" not in scores["latents"]  # latents of 16 dimensions are no map
    checkout.run("dvc", "plots", "diff", "--out", "plots")
    page = (checkout.path / "plots/index.html").read_text()
    curves = read_curves(checkout.path / "reports/curves.csv")
    assert str(curves[-1]["val_loss"]) in page
    assert "latent_grid.png" in page
