"""A result in words, and its model in Python: no registry, no TensorFlow."""

import copy
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from checkouts import ROOT, Checkout, environment
from latentworks.artifacts.images import read_prepared
from latentworks.errors import DataError, InputError
from latentworks.preprocess import to_pixels
from latentworks.results import Model, latents, open_result, pictures, scores
from latentworks.results.summary import Standing, Summary
from latentworks.system import disk

SIDE = 8  # pixels of the digits


@pytest.fixture(scope="module")
def model(finished: Checkout) -> Model:
    return open_result(finished.path)


@pytest.fixture(scope="module")
def images(finished: Checkout) -> np.ndarray:
    data = read_prepared(finished.path / "data/prepared")
    return np.array(data.images[data.rows("test")[:12]])


# --- the model -----------------------------------------------------------------------------------


def test_a_model_samples_encodes_decodes_and_reconstructs(model: Model, images: np.ndarray) -> None:
    samples = model.sample(5, seed=3)
    assert (samples.shape, samples.dtype) == ((5, *model.image_shape), np.uint8)
    assert (samples == model.sample(5, seed=3)).all()
    assert (samples != model.sample(5, seed=4)).any()
    z = model.encode(images)
    assert (z.shape, z.dtype) == ((12, model.latent_dim), np.float32)
    assert (model.decode(z) == model.reconstruct(images)).all()


def test_more_images_than_a_call_of_a_server_takes_are_used_in_parts(
    model: Model, images: np.ndarray
) -> None:
    many = np.tile(images, (900, 1, 1, 1))[:10_001]
    z = model.encode(many)
    assert np.allclose(z, model.encode(images)[np.arange(len(many)) % 12], atol=1e-5)
    assert model.decode(z).shape == model.reconstruct([*many]).shape == many.shape
    large = np.full((60, 1000, 1000), 7, np.uint8)  # more than 50 million pixels
    assert model.encode(large).shape == (60, 2)
    assert model.encode(large[0]).shape == model.encode(images[0]).shape == (1, 2)
    for wrong in (None, 3, [], [[1], [1, 2]]):
        with pytest.raises(InputError, match="inputs are"):
            model.encode(wrong)


def test_ten_thousand_large_samples_are_within_the_limit(model: Model) -> None:
    """Of 1,100 samples, 128x128 and in colour: over 50 million pixels."""
    shape = (128, 128, 3)
    servable = copy.copy(model.servable)
    servable.image_shape = shape
    servable._decode = lambda z, _: np.ones((len(z), *shape), np.float32) * z[:, :1, None, None] % 1
    samples = Model(servable).sample(1_100, seed=1)
    assert samples.shape == (1_100, *shape)
    assert (samples[:5] == Model(servable).sample(1_100, seed=1)[:5]).all()
    latents, _ = model.servable.drawn(1_100, 1)
    assert (samples[:, 0, 0, 0] == to_pixels(latents[:, 0] % 1)).all()


def test_the_folder_of_a_servable_alone_can_be_opened(
    finished: Checkout, model: Model, tmp_path: Path
) -> None:
    shutil.copytree(finished.path / "models/servable", tmp_path / "copy")
    assert (open_result(tmp_path / "copy").sample(3, 0) == model.sample(3, 0)).all()


def test_a_missing_or_changed_servable_is_refused(finished: Checkout, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        open_result(tmp_path / "nothing")
    with pytest.raises(DataError, match="is no checkout"):
        open_result(tmp_path)
    checkout = finished.copy(tmp_path / "checkout")
    servable = checkout.path / "models/servable"
    disk.write_json(servable / "golden.json", [])
    with pytest.raises(
        DataError, match=r"models/servable is not the result that dvc\.lock records"
    ):
        open_result(checkout.path)
    shutil.rmtree(servable)
    with pytest.raises(DataError, match=r"models/servable is missing\. Run `make repro`"):
        open_result(checkout.path)


def test_the_python_example_of_the_docs_runs(
    finished: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs/result.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    named: dict[str, np.ndarray] = {}
    exec(example.replace("path/to/checkout", str(finished.path)), named)
    assert capsys.readouterr().out == f"({SIDE}, {SIDE}, 1) 2 ()\n"
    assert (named["again"] == named["same"]).all()


def test_a_typed_label_is_a_number_unless_a_class_has_this_name(model: Model) -> None:
    assert model.label(None) is None
    assert model.label("7") == 7
    assert model.label("shirt") == "shirt"


LIGHT = """
import sys
import latentworks, latentworks.results
assert not {"numpy", "onnxruntime", "mlflow", "pydantic", "tensorflow"} & set(sys.modules)
model = latentworks.results.open_result(FOLDER)
assert not {"matplotlib", "mlflow", "tensorflow"} & set(sys.modules)
print(model.sample(2, seed=0).shape)
"""


@pytest.mark.cold
def test_the_import_is_light_and_the_model_needs_neither_tensorflow_nor_mlflow(
    finished: Checkout,
) -> None:
    call = [sys.executable, "-c", LIGHT.replace("FOLDER", repr(str(finished.path)))]
    ours = environment(PYTHONPATH=str(ROOT / "src"))
    done = subprocess.run(call, env=ours, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"(2, {SIDE}, {SIDE}, 1)\n", "")


# --- files ---------------------------------------------------------------------------------------


def test_pictures_of_any_size_and_format_are_brought_to_the_shape_of_the_model(
    model: Model, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "red.jpg")
    (tmp_path / "more").mkdir()
    Image.new("L", (SIDE, SIDE), 7).save(tmp_path / "more/grey.png")
    (tmp_path / "more/notes.txt").write_text("no picture")
    given = [tmp_path / "red.jpg", tmp_path / "more"]
    ((names, read),) = pictures.batches(given, model.servable.interface)
    assert names == [str(tmp_path / "red.jpg"), str(tmp_path / "more/grey.png")]
    assert read.shape == (2, *model.image_shape)
    assert (read[1] == 7).all()


def test_pictures_are_read_in_batches(model: Model, tmp_path: Path) -> None:
    Image.new("L", (SIDE, SIDE), 7).save(tmp_path / "000.png")
    for number in range(1, 300):
        os.link(tmp_path / "000.png", tmp_path / f"{number:03}.png")
    interface = model.servable.interface
    sizes = [
        (len(names), *images.shape) for names, images in pictures.batches([tmp_path], interface)
    ]
    assert sizes == [(256, 256, *model.image_shape), (44, 44, *model.image_shape)]
    assert len(pictures.read([tmp_path], interface)) == 300


def test_pictures_of_a_range_of_their_own_are_stretched_once(
    finished: Checkout, tmp_path: Path
) -> None:
    ours = open_result(finished.path).servable
    ours.interface = replace(ours.interface, value_range={"uint8": (0, 128)})
    dark = np.arange(64, dtype=np.uint8).reshape(SIDE, SIDE).clip(0, 60)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    images = pictures.read([tmp_path / "dark.png"], ours.interface)
    assert images.max() == 120
    z = Model(ours).encode(images, prepared=True)
    assert (z == ours.encode_images(images)).all()
    assert (z == Model(ours).encode(dark)).all()


def test_files_that_are_no_pictures_are_refused(model: Model, tmp_path: Path) -> None:
    interface = model.servable.interface
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    for name, fault in (
        ("gone.png", "gone.png: no such file"),
        ("notes.txt", "notes.txt is in a format that is not read. Convert to PNG"),
        ("broken.png", "broken.png is damaged, or no picture. Copy again"),
    ):
        with pytest.raises(InputError, match=fault):
            pictures.read([tmp_path / name], interface)
    (tmp_path / "broken.png").unlink()
    with pytest.raises(DataError, match="the folder has no images"):
        pictures.read([tmp_path], interface)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_the_pixels_of_its_images(tmp_path: Path, channels: int) -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(SIDE, 1).repeat(SIDE, 2)
    pictures.write_grid(tmp_path / "grid.png", images.repeat(channels, 3))
    grid = np.asarray(Image.open(tmp_path / "grid.png")).reshape(18, 28, channels)
    step = SIDE + pictures.GAP
    for number in range(5):
        top, left = number // 3 * step, number % 3 * step
        assert (grid[top : top + SIDE, left : left + SIDE] == number).all()
    assert (grid[step:, 2 * step :] == 255).all()  # no sixth image
    assert (grid[SIDE:step] == 255).all()


def test_reconstructions_are_below_their_originals(tmp_path: Path) -> None:
    originals = np.zeros((12, SIDE, SIDE, 1), np.uint8)
    originals += np.arange(12, dtype=np.uint8)[:, None, None, None]
    pictures.write_pairs(tmp_path / "pairs.png", originals, originals + 100)
    step = SIDE + pictures.GAP
    corners = np.asarray(Image.open(tmp_path / "pairs.png"))[::step, ::step]
    assert corners.tolist() == [
        [*range(10)],
        [*range(100, 110)],
        [10, 11, *[255] * 8],
        [110, 111, *[255] * 8],
    ]


def test_single_files_are_numbered_and_never_mixed_with_others(tmp_path: Path) -> None:
    images = np.zeros((3, SIDE, SIDE, 1), np.uint8)
    pictures.write_each(tmp_path / "new", images)
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["0000.png", "0001.png", "0002.png"]
    with pytest.raises(InputError, match=r"new holds 000\d\.png"):
        pictures.write_each(tmp_path / "new", images)


@pytest.mark.parametrize(("ending", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_a_table_of_latents_has_a_row_for_each_file(
    tmp_path: Path, ending: str, read: object
) -> None:
    path = tmp_path / f"table.{ending}"
    z = np.array([[0.5, -1.25], [2, 3]], np.float32)
    latents.write(path, ["a.png", "b.png"], [z[:1], z[1:]])
    table = read(path)  # type: ignore[operator]
    assert table["file"].tolist() == ["a.png", "b.png"]
    assert (table[["z0", "z1"]].to_numpy() == z).all()


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.csv or \.parquet"):
        latents.check_name(tmp_path / "table.txt")
    with pytest.raises(InputError, match=r"\.png file to write"):
        pictures.check_file(tmp_path / "grid.jpg")
    with pytest.raises(InputError, match=r"\.png file or a folder"):
        pictures.check_target(tmp_path / "grid.jpg")


# --- scores in words -----------------------------------------------------------------------------

EXAMPLE = {
    "test": {"mse": 0.0201},
    "latents": {"active_units": 2},
    "samples": {
        "memorisation": 0.785,
        "features": "shipped",
        "frechet": 56.13,
        "frechet_floor": 0.18,
        "frechet_blur": 55.8,
        "precision": 0.988,
        "recall": 0.0022,
        "precision_real": 0.936,
        "recall_real": 0.935,
    },
}


def test_five_scores_stand_beside_the_values_to_compare_them_with() -> None:
    assert scores.rows(EXAMPLE, 2, 0.0872) == [
        (
            "reconstruction error (mse)",
            "0.0201",
            ["lower is better; the mean image has 0.0872"],
        ),
        (
            "Fréchet distance",
            "56.1",
            [
                "lower is better; real images have 0.18, the floor",
                "the reconstructions of test images have 55.8",
            ],
        ),
        (
            "precision, recall",
            "0.988, 0.0022",
            [
                "shares of samples that look real, and of real images that samples come near",
                "real images have 0.936, 0.935",
            ],
        ),
        ("latents in use", "2 of 2", ["a latent that is not in use has one value for all images"]),
        (
            "memorisation",
            "0.785",
            ["1: samples are as new as test images; 0: copies of training images"],
        ),
    ]


def test_scores_that_a_result_lacks_are_left_out() -> None:
    """Data whose test images equal training images have no memorisation."""
    names = [name for name, _, _ in scores.rows({"test": {"mse": 0.5}}, 2, None)]
    assert names == ["reconstruction error (mse)"]
    in_random = {"samples": {"frechet": 3.0, "features": "random"}}
    ((_, _, meaning),) = scores.rows(in_random, 2, None)
    assert meaning[-1] == "compare it only with results of the same images"


@pytest.mark.parametrize(
    ("mse", "is_poor"), [(0.02, False), (0.05, False), (0.051, True), (float("nan"), True)]
)
def test_reconstructions_near_the_mean_image_are_poor(mse: float, is_poor: bool) -> None:
    assert scores.is_poor(mse, 0.1, 0.5) == is_poor
    assert not scores.is_poor(mse, None, 0.5)


@pytest.mark.parametrize(
    ("standing", "first", "second"),
    [
        (Standing(), "latentworks sample --num 64 samples.png", "latentworks register"),
        (Standing(3), "latentworks sample --num 64 samples.png", "latentworks promote 3"),
        (Standing(3, is_decided=True), "latentworks history", "latentworks recipe"),
        (
            Standing(3, is_champion=True, is_decided=True),
            *("latentworks serve", "latentworks sample --num 64 samples.png"),
        ),
    ],
)
def test_three_commands_fit_the_standing_of_a_result(
    standing: Standing, first: str, second: str
) -> None:
    files = Path("figures"), Path("atlas.html")
    found = Summary("a title", {}, [], None, "", *files, standing, [], []).commands()
    assert [command for command, _ in found[:2]] == [first, second]
    assert len(found) == 3


def test_the_advice_depends_on_the_steps_and_latents() -> None:
    train = {"epochs": 9, "batch_size": 128}
    sections = {"train": train, "model": {"latent_dim": 2}}
    said = scores.advice(sections, 3346)
    assert "at most 243 steps. Raise train.epochs" in said
    assert "raise model.latent_dim from 2 to 32 or more" in said
    sections = {"train": {**train, "epochs": 100}, "model": {"latent_dim": 64}}
    assert scores.advice(sections, 3346) == "take a recipe: `latentworks recipe` lists them"
