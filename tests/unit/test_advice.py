"""Advice about params that do not fit the prepared images."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from checkouts import ROOT
from latentworks import params
from latentworks.advice import advice
from latentworks.params.recipes import overridden
from latentworks.system import disk

PROFILE: dict[str, Any] = {
    "image_shape": [32, 32, 1],
    "brightness": {"mean": 56.0, "std": 85.0},
    "splits": {
        "train": {"images": 5000, "classes": {"cat": 4900, "dog": 100, "owl": 0}},
        "val": {"images": 100, "classes": {"cat": 80, "dog": 20}},
        "test": {"images": 500, "classes": {"cat": 400, "dog": 100}},
    },
}
SAMPLER = {"kind": "class_gaussian_mixture", "num_components": [150, 200]}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # params, part of the profile, advice
    "warm-up": (
        {"train.warmup": None, "train.warmup_steps": 200, "train.epochs": 3},
        {},
        "The warm-up needs 200 steps, and the training has 120: it is slower than "
        "train.learning_rate for long. Replace train.warmup_steps by `warmup: 0.05`, or raise "
        "train.epochs.",
    ),
    "steps": (
        {"train.warmup": None, "train.warmup_steps": 20},
        {},
        "train.warmup_steps counts steps, so it fits one number of images. Replace it by "
        "`warmup: 0.056`, a share of all steps.",
    ),
    "share": (
        {"train.warmup": 0.5},
        {},
        "The warm-up needs 180 steps, and the training has 360: it is slower than "
        "train.learning_rate for long. Replace train.warmup by `warmup: 0.05`, or raise "
        "train.epochs.",
    ),
    "batch": (
        {"train.batch_size": 8000},
        {},
        "train.batch_size is 8000, and there are 5000 training images: an epoch is one step. Lower "
        "train.batch_size, such as to 312.",
    ),
    "validation": (
        {"prepare.val_fraction": 0.001},
        {"splits": {**PROFILE["splits"], "val": {"images": 12}}},
        "There are 12 validation images: their loss is too noisy to stop the training by it. Raise "
        "prepare.val_fraction to 0.01, or set it to 0.",
    ),
    "own validation": (
        {},
        {"splits": {**PROFILE["splits"], "val": {"images": 12}}},
        "There are 12 validation images: their loss is too noisy to stop the training by it. Add "
        "validation images, or move them to the training images.",
    ),
    "latents": (
        {"model.latent_dim": 1024},
        {},
        "model.latent_dim is 1024, and an image has 1024 numbers: nothing is compressed. Lower "
        "model.latent_dim, such as to 64.",
    ),
    "constant": (
        {},
        {"brightness": {"mean": 2.0, "std": 0.4}},
        "The images are nearly constant: their pixels are 2.0 ± 0.4 of 255. Look at "
        "reports/figures/data.png, and at prepare.background and prepare.channels.",
    ),
    "classes": (
        {"sample.sampler": SAMPLER},
        {},
        "The sampler fits 150 components to each class. Fewer training images are in: dog. Stage "
        "sample will fail. Lower sample.sampler.num_components, or add images.",
    ),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    write_profile(tmp_path, {})
    return tmp_path


def write_profile(root: Path, changes: dict[str, Any]) -> None:
    (root / "data/prepared").mkdir(parents=True, exist_ok=True)
    disk.write_json(root / "data/prepared/profile.json", {**PROFILE, **changes})
    sections = params.read(root / "params.yaml")
    made_from = {name: sections[name] for name in ("dataset", "prepare")}
    entry = {"cmd": "…", "params": {"params.yaml": made_from}}
    YAML().dump({"schema": "2.0", "stages": {"prepare": entry}}, root / "dvc.lock")


def set_params(root: Path, changes: dict[str, Any]) -> None:
    path = root / "params.yaml"
    path.write_text(overridden(path.read_text(), changes))


def test_params_that_fit_need_no_advice(checkout: Path) -> None:
    assert advice(checkout) == []


@pytest.mark.parametrize("case", CASES)
def test_advice_names_the_param_and_its_cure(checkout: Path, case: str) -> None:
    changes, profile, expected = CASES[case]
    set_params(checkout, changes)
    write_profile(checkout, profile)
    assert advice(checkout) == [expected]


def test_there_is_no_advice_about_images_that_other_params_prepared(checkout: Path) -> None:
    set_params(checkout, {"train.warmup": 0.5})
    assert len(advice(checkout)) == 1
    set_params(checkout, {"dataset.path": "photos"})
    assert advice(checkout) == []


def test_without_prepared_images_or_with_faults_there_is_no_advice(checkout: Path) -> None:
    set_params(checkout, {"train.warmup": 0.5})
    assert len(advice(checkout)) == 1
    (checkout / "data/prepared/profile.json").write_text("{")
    assert advice(checkout) == []
    write_profile(checkout, {})
    set_params(checkout, {"train.warmup": "much"})
    assert advice(checkout) == []
