"""`latentworks new` looks at images, and chooses params that fit them."""

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from checkouts import ROOT, Checkout
from latentworks import params
from latentworks.datasets.config import BUILT_IN, DatasetConfig
from latentworks.errors import DataError, LatentworksError, ParamsError
from latentworks.params import recipes
from latentworks.project import fitting
from latentworks.project.choices import comments_on, expected_splits, params_for
from latentworks.project.kinds import kind_at
from latentworks.project.profile import Profile, look
from latentworks.project.report import notes, report
from latentworks.sections import Params

COMMITTED = (ROOT / "params.yaml").read_text(encoding="utf-8")
SECTIONS = recipes.sections_of(COMMITTED)

FASHION = Profile(
    kind="idx",
    path="fashion",
    name="Fashion MNIST",
    splits={"train": 60_000, "test": 10_000},
    classes={"shirt": 30_000, "bag": 30_000},
    side=28,
    are_equal=True,
    are_square=True,
    has_colour=False,
    is_transparent=False,
    background=0,
    brightness={"mean": 73.0, "std": 90.0},
)


def profile(**changes: Any) -> Profile:
    return Profile(**{**vars(FASHION), **changes})


EMOJI = profile(
    kind="image_folder",
    path="../emoji",
    name="emoji",
    splits={None: 3786},
    classes={"flags": 258, "component": 5},
    side=64,
    has_colour=True,
    is_transparent=True,
    background=255,
)
PHOTOS = profile(splits={None: 700}, classes={}, side=1200, are_equal=False, has_colour=True)
CASES: dict[str, tuple[Profile, dict[str, Any], dict[str, Any]]] = {
    # profile, options, params
    "Fashion-MNIST": (
        FASHION,
        {},
        {
            "dataset": {"kind": "idx", "path": "fashion"},
            "prepare.image_size": 32,
            "prepare.channels": 1,
            "prepare.fit": "pad",
            "prepare.background": 0,
            "prepare.val_fraction": 0.02,
            "model.latent_dim": 64,
            "model.architecture": "fast",
            "model.filters": [64, 128, 256],
            "model.loss": "mean_squared_error",
            "train.batch_size": 128,
            "train.learning_rate": 0.002,
            "train.epochs": 10,
            "train.refine.learning_rate": 0.0007,
            "sample.sampler": {"kind": "class_gaussian_mixture", "num_components": [5, 10, 20]},
            "sample.num_images": 10_000,
            "promotion.model_name": "fashion-mnist-64d",
        },
    ),
    "emoji": (
        EMOJI,
        {},
        {
            "prepare.image_size": 64,
            "prepare.channels": 3,
            "prepare.fit": "resize",
            "prepare.background": 255,
            "model.latent_dim": 128,
            "model.filters": [64, 128, 256, 256],
            "train.batch_size": 32,
            "train.learning_rate": 0.0015,
            "train.epochs": 38,
            "train.refine.learning_rate": 0.0003,
            "sample.sampler": {"kind": "gaussian_mixture", "num_components": [10, 20, 50]},
            "promotion.model_name": "emoji-128d",
        },
    ),
    "few large photographs": (
        PHOTOS,
        {},
        {
            "prepare.image_size": 64,
            "prepare.fit": "resize",
            "prepare.val_fraction": 0.11,
            "train.epochs": 60,
            "sample.sampler": {"kind": "gaussian_mixture", "num_components": [10, 20]},
            "sample.num_images": 7000,
        },
    ),
    "a size of one's own": (
        PHOTOS,
        {"size": 96},
        {"prepare.image_size": 96, "model.filters": [64, 128, 256, 256]},
    ),
    "a map": (FASHION, {"is_map": True}, {"model.latent_dim": 2, "train.refine": None}),
    "tiny images": (
        profile(side=8),
        {},
        {"prepare.image_size": 8, "prepare.fit": "resize", "model.latent_dim": 4},
    ),
    "images of 20 pixels are not enlarged to 32": (
        profile(side=20),
        {},
        {"prepare.image_size": 16},
    ),
    "images of 40 pixels are not enlarged to 64": (
        profile(side=40),
        {},
        {"prepare.image_size": 32},
    ),
    "images of 48 pixels are": (profile(side=48), {}, {"prepare.image_size": 64}),
    "unequal images are not padded": (profile(are_equal=False), {}, {"prepare.fit": "resize"}),
    "larger grey images": (profile(side=64), {}, {"model.latent_dim": 128}),
    "photographs of one shape": (
        profile(side=1200, are_square=False, aspect=0.75, has_colour=True),
        {},
        {"prepare.image_size": [48, 64], "prepare.fit": "resize"},
    ),
    "photographs of nearly the shape that strides divide": (
        profile(side=1200, are_square=False, aspect=16 / 9, has_colour=True),
        {},
        {"prepare.image_size": [64, 32], "prepare.fit": "crop", "model.latent_dim": 128},
    ),
    "photographs of several shapes": (
        profile(side=1200, are_equal=False, are_square=False, aspect=None),
        {},
        {"prepare.image_size": 64, "prepare.fit": "resize"},
    ),
    "small images that are higher than wide": (
        profile(side=28, are_square=False, aspect=20 / 28),
        {},
        {"prepare.image_size": [24, 32], "prepare.fit": "pad", "model.latent_dim": 48},
    ),
    "a longer side of one's own": (
        profile(side=1200, are_square=False, aspect=0.75),
        {"size": 96},
        {"prepare.image_size": [64, 96], "prepare.fit": "crop"},
    ),
    "two sides of one's own": (
        profile(side=1200, are_square=False, aspect=0.75),
        {"size": (64, 64)},
        {"prepare.image_size": 64, "prepare.fit": "resize"},
    ),
    "a split of its own": (
        profile(splits={"train": 400, "val": 90, "test": 90}),
        {},
        {"prepare.val_fraction": 0.02},
    ),
    "very few images": (profile(splits={None: 100}), {}, {"prepare.val_fraction": 0.2}),
    "small classes": (
        profile(splits={None: 600}, classes={"a": 300, "b": 300}),
        {},
        {"sample.sampler": {"kind": "class_gaussian_mixture", "num_components": [5, 10]}},
    ),
    "a name without letters of a model's name": (
        profile(name="фото"),
        {},
        {"promotion.model_name": "images-64d"},
    ),
    "a range of its own": (
        profile(value_range=(0.0, 37.5)),
        {},
        {"prepare.value_range": [0.0, 37.5]},
    ),
}


def param(sections: params.RawSections, name: str) -> Any:
    found: Any = sections
    for part in name.split("."):
        found = found.get(part)
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_params_fit_the_images(case: str) -> None:
    given, options, expected = CASES[case]
    chosen = params_for(given, SECTIONS, **options)
    assert {name: param(chosen, name) for name in expected} == expected


@pytest.mark.parametrize("case", CASES)
def test_the_params_are_valid_and_need_no_advice(case: str) -> None:
    """The notes are those of few images and small classes alone: advice finds no fault."""
    given, options, _ = CASES[case]
    chosen = params_for(given, SECTIONS, **options)
    params.parse(Params, {**SECTIONS, **chosen}, "params.yaml")
    said = notes(given, chosen)
    assert not [note for note in said if "few" not in note]


@pytest.mark.parametrize("number", [135, 150, 200, 1000, 3786, 100_000])
def test_validation_has_fifty_images_where_the_images_suffice(number: int) -> None:
    given = profile(splits={None: number})
    chosen = params_for(given, SECTIONS)
    assert expected_splits(given, chosen["prepare"])["val"] >= 50


def test_params_that_images_do_not_decide_stay() -> None:
    own = {**SECTIONS, "train": {**SECTIONS["train"], "num_threads": 8}}
    own["prepare"] = {**own["prepare"], "min_images": 7}
    chosen = params_for(EMOJI, own)
    assert chosen["train"]["num_threads"] == 8
    assert chosen["prepare"]["min_images"] == 7
    assert chosen["promotion"]["margins"] == SECTIONS["promotion"]["margins"]
    assert chosen.keys() == SECTIONS.keys() - {"seed", "drift"}


@pytest.mark.parametrize("case", CASES)
def test_no_comment_is_about_other_values(case: str) -> None:
    given, options, _ = CASES[case]
    chosen = params_for(given, SECTIONS, **options)
    text = recipes.merge(COMMITTED, chosen, comments_on(chosen))
    assert recipes.sections_of(text) == {**SECTIONS, **chosen}
    for untrue in ("28 is padded", "about a minute", "or mean_squared", "or emoji", "16 to 64"):
        assert untrue in COMMITTED
        assert untrue not in text
    sampler = chosen["sample"]["sampler"]["kind"]
    (line,) = [line for line in text.splitlines() if line.startswith("  sampler:")]
    assert sampler not in line.replace("class_gaussian", "class").split(", ")
    assert "\n\n  " not in text  # blank lines are between sections alone


# --- looking at images ---------------------------------------------------------------------------


def write_pngs(folder: Path, images: np.ndarray) -> Path:
    """Write images [N, h, w] or [N, h, w, c], uint8 or uint16, to folders of two classes."""
    for row, image in enumerate(images):
        file = folder / "ab"[row % 2] / f"{row:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return folder


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def seen(path: Path) -> Profile:
    return look(path, "images")


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    found = seen(write_pngs(tmp_path / "Own Pictures", noise(30, 12, 20, 3)))
    assert (found.kind, found.path, found.name) == ("image_folder", "images", "Own Pictures")
    assert (found.side, found.are_equal, found.are_square) == (20, True, False)
    assert (found.has_colour, found.is_transparent) == (True, False)
    assert (found.splits, found.classes) == ({None: 30}, {"a": 15, "b": 15})
    assert (found.formats, found.value_range) == (("PNG",), "auto")
    assert found.notes == ("2 classes: a, b",)


def test_images_are_looked_at_evenly(tmp_path: Path) -> None:
    images = noise(600, 8, 8)
    np.save(tmp_path / "x.npy", images)
    found = seen(tmp_path / "x.npy")
    assert (found.num_images, found.num_looked_at) == (600, 200)
    assert found.brightness["mean"] == pytest.approx(images[::3].mean())


def test_grey_pictures_in_rgb_files_are_grey(tmp_path: Path) -> None:
    grey = np.repeat(noise(10, 16, 16, 1), 3, axis=3)
    assert not seen(write_pngs(tmp_path / "grey", grey)).has_colour
    grey[7, 3, 5, 0] ^= 128
    assert seen(write_pngs(tmp_path / "tinted", grey)).has_colour


def test_hidden_colours_of_transparent_pixels_do_not_count(tmp_path: Path) -> None:
    images = np.zeros((10, 16, 16, 4), np.uint8)
    images[..., 0] = 255  # red, and transparent
    images[:, 4:12, 4:12] = 20, 20, 20, 255
    found = seen(write_pngs(tmp_path, images))
    assert (found.has_colour, found.is_transparent) == (False, True)


@pytest.mark.parametrize(("tone", "background"), [(20, 255), (150, 255), (250, 0)])
def test_light_drawings_on_nothing_get_a_black_background(
    tmp_path: Path, tone: int, background: int
) -> None:
    images = np.zeros((10, 16, 16, 4), np.uint8)
    images[:, 4:12, 4:12] = tone, tone, tone, 255
    assert seen(write_pngs(tmp_path, images)).background == background


@pytest.mark.parametrize(("tone", "background"), [(20, 0), (250, 255)])
def test_opaque_images_get_the_background_of_their_edges(
    tmp_path: Path, tone: int, background: int
) -> None:
    images = np.full((10, 16, 16), 255 - tone, np.uint8)
    images[:, [0, -1]] = images[:, :, [0, -1]] = tone
    assert seen(write_pngs(tmp_path, images)).background == background


def test_images_of_several_sizes_have_their_median(tmp_path: Path) -> None:
    for row, side in enumerate((10, 20, 300)):
        write_pngs(tmp_path / str(row), noise(3, side, side))
    found = seen(tmp_path)
    assert (found.side, found.smallest, found.largest, found.are_equal) == (20, 10, 300, False)


@pytest.mark.parametrize(
    ("shapes", "aspect"),
    [
        ([(30, 40)] * 10, 0.75),
        ([(30, 40)] * 18 + [(60, 82), (40, 30)], 0.75),  # one of twenty is upright
        ([(30, 40)] * 6 + [(40, 30)] * 4, None),
        ([(64, 32)] * 3, 2.0),
    ],
)
def test_images_of_about_one_shape_have_an_aspect(
    tmp_path: Path, shapes: list[tuple[int, int]], aspect: float | None
) -> None:
    for row, shape in enumerate(shapes):
        write_pngs(tmp_path / str(row), noise(1, *shape))
    assert seen(tmp_path).aspect == aspect


def test_values_without_a_usual_range_get_a_declared_one(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.linspace(-37, 900_000, 640).reshape(10, 8, 8))
    found = seen(tmp_path / "x.npy")
    assert found.value_range == (-37, 900_000)
    assert "have no usual range" in found.notes[0]
    np.save(tmp_path / "x.npy", np.linspace(0, 1, 640).reshape(10, 8, 8))
    assert seen(tmp_path / "x.npy").value_range == "auto"


def test_own_splits_are_counted_and_classes_are_those_of_training(tmp_path: Path) -> None:
    arrays = {"x_train": noise(40, 8, 8), "y_train": np.arange(40) % 4}
    np.savez(tmp_path / "a.npz", **arrays, x_test=noise(9, 8, 8), y_test=np.zeros(9, int))  # type: ignore[arg-type]
    found = seen(tmp_path)  # a folder with a single file of arrays
    assert (found.kind, found.path, found.name) == ("npz", "images/a.npz", "a")
    assert found.splits == {"train": 40, "test": 9}
    assert found.classes == {str(label): 10 for label in range(4)}


def test_rejects_are_named_and_a_folder_of_rejects_is_refused(tmp_path: Path) -> None:
    write_pngs(tmp_path / "some", noise(10, 8, 8))
    (tmp_path / "some/a/b.png").write_bytes(b"no picture")
    found = seen(tmp_path / "some")
    assert "1 image is damaged, or no picture: a/b.png" in found.notes
    assert (found.num_rejected, found.num_looked_at) == (1, 11)
    (tmp_path / "none").mkdir()
    (tmp_path / "none/a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of 1 images can be used: 1 image is damaged"):
        seen(tmp_path / "none")


def test_the_report_has_a_line_for_each_finding() -> None:
    chosen = params_for(EMOJI, SECTIONS)
    said = "\n".join(report(EMOJI, chosen))
    for name in ("dataset.kind image_folder", "prepare.image_size 64, resize", "model 128 latents"):
        assert name in said
    assert "2 classes of 5 to 258" in said
    assert "about 68 val" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"splits": {None: 90}}, "There are 90 images, and stage prepare needs 100."),
        ({"splits": {None: 900}}, "900 images are few"),
        ({"classes": {"cat": 99, "dog": 20_000}}, "cat has fewer than 100 images"),
        ({"num_looked_at": 200, "num_rejected": 11}, "11 of 200 images looked at cannot be used"),
        ({"brightness": {"mean": 3.0, "std": 0.5}}, "The images are nearly constant"),
    ],
)
def test_images_that_give_no_good_model_get_a_note(changes: dict[str, Any], said: str) -> None:
    given = profile(**changes)
    (note, *_) = notes(given, params_for(given, SECTIONS))
    assert note.startswith(said)


# --- kinds ---------------------------------------------------------------------------------------


def a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"data": [1, 2]}))


def an_archive(path: Path) -> None:
    (path.parent / "note").write_text("a")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.parent / "note", "note")
    (path.parent / "note").unlink()


def a_table(path: Path) -> None:
    pq.write_table(pa.table({"image": [b"a"]}), path)


def a_picture(path: Path) -> None:
    Image.fromarray(noise(8, 8)).save(path, "PNG")


def a_text(path: Path) -> None:
    path.write_text("1,2\n")


def an_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, noise(2, 8, 8))


Writer = Callable[[Path], None]
FOLDERS: dict[str, dict[str, Writer]] = {  # kind -> files
    "image_folder": {"cat/a.png": a_picture, "labels.csv": a_text, "readme.md": a_text},
    "idx": {"train-images-idx3-ubyte.gz": an_archive, "train-labels-idx1-ubyte": a_text},
    "parquet": {"train.parquet": a_table, "test.parquet": a_table, "info.json": a_text},
    "tar": {"0.tar": a_text, "1.tar": a_text},
    "csv": {"train.csv": a_text, "test.csv": a_text},
    "npz": {"images.npy": an_array},
    "hdf5": {"images.h5": a_text},
}


def fill(folder: Path, files: dict[str, Writer]) -> Path:
    for name, write in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name)
    return folder


def test_the_folders_have_all_kinds() -> None:
    members = get_args(get_args(DatasetConfig)[0])
    own = {get_args(each.model_fields["kind"].annotation)[0] for each in {*members} - {*BUILT_IN}}
    assert own == FOLDERS.keys()


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_is_of_the_kind_of_its_files(tmp_path: Path, kind: str) -> None:
    found, path = kind_at(fill(tmp_path, FOLDERS[kind]))
    assert found == kind
    assert path == (tmp_path / next(iter(FOLDERS[kind])) if kind in ("npz", "hdf5") else tmp_path)


def test_few_other_files_beside_pictures_do_not_count(tmp_path: Path) -> None:
    pictures: dict[str, Writer] = {f"{row}.png": a_picture for row in range(19)}
    assert kind_at(fill(tmp_path, {**pictures, "vectors.npy": an_array}))[0] == "image_folder"
    with pytest.raises(DataError, match="several kinds"):
        kind_at(fill(tmp_path, {"more.npy": an_array}))


def test_pictures_without_endings_are_known_by_their_content(tmp_path: Path) -> None:
    assert kind_at(fill(tmp_path, {"a": a_picture, "b": a_picture}))[0] == "image_folder"


@pytest.mark.parametrize(
    ("name", "write", "kind"),
    [
        ("a.npy", an_array, "npz"),
        ("a", an_array, "npz"),
        ("a", a_table, "parquet"),
        ("a.csv", a_text, "csv"),
    ],
)
def test_a_file_is_of_the_kind_of_its_content(
    tmp_path: Path, name: str, write: Writer, kind: str
) -> None:
    assert kind_at(fill(tmp_path, {name: write}) / name)[0] == kind


@pytest.mark.parametrize(
    ("files", "name", "said"),
    [
        ({}, "nowhere", "no such file or folder. Give the path of your images."),
        ({"readme.md": a_text}, "", "the folder has no images. Expected PNG"),
        (
            {"data_batch_1": a_pickle},
            "",
            "no images, but the pickle data_batch_1. Pickles can run code",
        ),
        ({"a.pkl": a_pickle}, "a.pkl", "no images, but a pickle. Pickles can run code"),
        (
            {"photos.tar.gz": an_archive},
            "",
            "no images, but the archive photos.tar.gz. Unpack",
        ),
        ({"photos.tar.gz": an_archive}, "photos.tar.gz", "no images, but an archive. Unpack it"),
        ({"a.png": a_picture}, "a.png", "a single file of its kind. Give the folder"),
        ({"a.txt": a_text}, "a.txt", "not a file of images."),
        (
            {"a.png": a_picture, "b.parquet": a_table},
            "",
            "holds images of several kinds: pictures (a.png), Parquet files (b.parquet). Give the "
            "path of one.",
        ),
        ({"a.npy": an_array, "b.npy": an_array}, "", "holds 2 files with arrays: a.npy and b.npy."),
    ],
)
def test_a_path_without_images_of_one_kind_is_refused(
    tmp_path: Path, files: dict[str, Writer], name: str, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        kind_at(fill(tmp_path, files) / name)
    assert f"{tmp_path / name}: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- params.yaml ---------------------------------------------------------------------------------


@pytest.fixture
def checkout(untouched: Checkout, tmp_path: Path) -> Checkout:
    checkout = untouched.copy(tmp_path / "checkout")
    write_pngs(tmp_path / "drawings", noise(120, 8, 8))
    return checkout


def test_the_command_writes_params_that_validate(checkout: Checkout) -> None:
    done = checkout.run("latentworks", "new", "--images", "../drawings")
    assert "120 PNG images" in done.stdout
    assert "The training takes about 1 minute on this machine." in done.stdout
    now = params.load(Params, checkout.path / "params.yaml", whole=True)
    assert (now.dataset.kind, now.dataset.path) == ("image_folder", "../drawings")
    assert now.promotion.model_name == "drawings-4d"
    assert "params.yaml is valid" in checkout.run("latentworks", "validate").stdout


def test_a_dry_run_prints_params_and_writes_nothing(checkout: Checkout) -> None:
    file = checkout.path / "params.yaml"
    before = file.read_text()
    call = ("latentworks", "new", "--images", "../drawings", "--dry-run", "--no-timing")
    done = checkout.run(*call)
    assert recipes.sections_of(done.stdout)["dataset"]["path"] == "../drawings"
    assert "120 PNG images" in done.stderr
    assert "machine" not in done.stdout + done.stderr
    assert file.read_text() == before
    assert not (checkout.path / fitting.WRITTEN).exists()


def test_what_was_written_may_be_replaced_and_edits_may_not(
    checkout: Checkout, tmp_path: Path
) -> None:
    images, file = tmp_path / "drawings", checkout.path / "params.yaml"
    fitting.write(checkout.path, fitting.fit(checkout.path, images).text)
    first = file.read_text()
    fitting.write(checkout.path, fitting.fit(checkout.path, images, size=16).text)
    assert params.read(file)["prepare"]["image_size"] == 16
    fitting.write(checkout.path, fitting.fit(checkout.path, images).text)
    assert file.read_text() == first
    checkout.edit("params.yaml", "seed: 0", "seed: 7")
    fitting.write(checkout.path, fitting.fit(checkout.path, images).text)
    assert params.read(file)["seed"] == 7
    checkout.edit("params.yaml", "  batch_size: 32", "  batch_size: 16")
    with pytest.raises(ParamsError, match="uncommitted edits in train, which `latentworks new"):
        fitting.fit(checkout.path, images)


def test_images_among_outs_and_odd_sizes_are_refused(checkout: Checkout, tmp_path: Path) -> None:
    write_pngs(checkout.path / "data/prepared", noise(9, 8, 8))
    with pytest.raises(ParamsError, match=r"dataset\.path lies in data/prepared, which stage"):
        fitting.fit(checkout.path, checkout.path / "data/prepared")
    with pytest.raises(LatentworksError, match=r"multiple of 16.* Received: 100\. Take 96\."):
        fitting.fit(checkout.path, tmp_path / "drawings", size=100)
    with pytest.raises(LatentworksError, match=r"multiple of 16.*: 48x100\. Take 48x96\."):
        fitting.fit(checkout.path, tmp_path / "drawings", size=(48, 100))


def test_a_size_is_one_number_or_height_x_width() -> None:
    assert fitting.size_of("96") == 96
    assert fitting.size_of("48x64") == (48, 64)
    for text in ("", "4", "2000", "48x", "x48", "48x64x3", "48 x 64", "48x4", "-8", "8.0", "a"):
        with pytest.raises(LatentworksError, match=r"--size is a number of pixels from 8 to 1024"):
            fitting.size_of(text)
