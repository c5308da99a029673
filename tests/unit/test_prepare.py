"""The stage `prepare` runs on real digits and real files, as a user would run it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from latentworks.artifacts.images import Prepared, read_prepared
from latentworks.datasets.split import content_id
from latentworks.errors import DataError, InputError
from latentworks.preprocess import to_uint8
from latentworks.server import encoding
from latentworks.serving import inputs
from latentworks.stages.prepare import main
from latentworks.system.disk import file_digest

DIGITS = load_digits()
IMAGES = np.round(DIGITS.images * 255 / 16).astype(np.uint8)  # [1797, 8, 8]
LABELS = DIGITS.target
RAW, PREPARED = Path("raw"), Path("prepared")


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_params(kind: str, path: Path | str, **changes: Any) -> None:
    """Write params.yaml and the outs of `fetch` for a user's own images."""
    prepare = {
        "image_size": 16,
        "channels": 1,
        "fit": "pad",
        "background": 0,
        "val_fraction": 0.1,
        "test_fraction": 0.2,
        "min_images": 2,
    }
    sections = {"dataset": {"kind": kind, "path": str(path)}, "prepare": prepare | changes}
    Path("params.yaml").write_text(json.dumps(sections))  # JSON is YAML
    RAW.mkdir(exist_ok=True)
    (RAW / "source.json").write_text(json.dumps({"kind": kind, "files": {}}))


def prepare_npz(arrays: dict[str, np.ndarray], **changes: Any) -> Prepared:
    np.savez("images.npz", **arrays)  # type: ignore[arg-type]
    write_params("npz", "images.npz", **changes)
    main(RAW, PREPARED)
    return read_prepared(PREPARED)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: file_digest(file) for file in sorted(folder.iterdir())}


# --- outs ----------------------------------------------------------------------------------------


def test_prepare_writes_images_index_and_profile_of_the_digits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepared = prepare_npz({"x": IMAGES, "y": LABELS}, val_fraction=0.1, test_fraction=0.2)
    index, profile = prepared.index, prepared.profile

    assert prepared.images.dtype == np.uint8
    assert prepared.images.shape == (1797, 16, 16, 1)
    np.testing.assert_array_equal(prepared.images[5, 4:12, 4:12, 0], IMAGES[5])
    assert list(index) == ["id", "split", "label", "name", "height", "width"]
    assert index["id"].tolist() == [content_id(image) for image in prepared.images]
    assert index["label"].tolist() == LABELS.tolist()
    assert index["label"].dtype == "Int64"
    assert index["name"][5] == "x[5]"

    assert profile["num_images"] == 1797
    assert profile["image_shape"] == [16, 16, 1]
    assert profile["sizes"] == [{"height": 8, "width": 8, "images": 1797}]
    assert profile["duplicates"] == 0
    assert profile["rejects"] == {}
    for split, part in profile["splits"].items():
        rows = prepared.rows(split)
        assert part["images"] == len(rows) == sum(part["classes"].values())
        assert part["classes"]["3"] == np.count_nonzero(prepared.labels(rows) == 3)
    # Each count is binomial, with a standard deviation below 17 of 1797: four of these are 0.04.
    assert profile["splits"]["test"]["images"] / 1797 == pytest.approx(0.2, abs=0.04)
    assert profile["splits"]["val"]["images"] / 1797 == pytest.approx(0.08, abs=0.04)

    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert said.out.startswith("prepare: 1797 images (")
    assert said.err == ""


def test_the_brightness_in_the_profile_is_exact() -> None:
    prepared = prepare_npz({"x": IMAGES})
    brightness = prepared.profile["brightness"]
    assert brightness["mean"] == pytest.approx(prepared.images.mean(), rel=1e-12)
    assert brightness["std"] == pytest.approx(prepared.images.std(), rel=1e-9)
    assert brightness["histogram"] == np.histogram(prepared.images, 16, (0, 256))[0].tolist()


def test_prepare_accepts_images_without_labels() -> None:
    prepared = prepare_npz({"x": IMAGES})
    assert prepared.class_names == []
    assert prepared.labels(prepared.rows("train")) is None
    assert set(prepared.profile["splits"]["train"]) == {"images"}


def test_the_sources_test_split_is_kept_and_val_comes_from_train() -> None:
    prepared = prepare_npz({"x_train": IMAGES[:1500], "x_test": IMAGES[1500:]}, val_fraction=0.2)
    assert prepared.rows("test").tolist() == list(range(1500, 1797))
    # The count is binomial, with a standard deviation of 16 of 1500: four of these are 0.04.
    assert len(prepared.rows("val")) / 1500 == pytest.approx(0.2, abs=0.04)


def test_splits_that_the_source_lacks_come_from_its_train() -> None:
    parts = {"x_train": IMAGES[:1500], "x_val": IMAGES[1500:]}
    prepared = prepare_npz(parts, val_fraction=0.5, test_fraction=0.2)
    assert prepared.rows("val").tolist() == list(range(1500, 1797))
    # The count is binomial, with a standard deviation of 16 of 1500: four of these are 0.04.
    assert len(prepared.rows("test")) / 1500 == pytest.approx(0.2, abs=0.04)


def test_val_fraction_0_gives_no_val_images() -> None:
    prepared = prepare_npz({"x": IMAGES}, val_fraction=0)
    assert len(prepared.rows("val")) == 0


# --- the range of values -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "ranges", "line"),
    [
        (IMAGES > 127, {"bool": [0, 1]}, ""),
        ((IMAGES > 127).astype(np.uint8), {"uint8": [0, 1]}, "uint8 from 0 to 1 is read as 0 to 1"),
        (
            IMAGES.astype(">u2") * 16,
            {"uint16": [0, 4095]},
            "uint16 from 0 to 4080 is read as 0 to 4095",
        ),
        (
            IMAGES.astype(np.int16) * 16 - 1020,
            {"int16": [-1024, 3071]},
            "int16 from -1020 to 3060 is read as -1024 to 3071",
        ),
        ((IMAGES / 255).astype(np.float32), {"float32": [0, 1]}, "float32 from 0 to 1 is read as"),
        (IMAGES / 127.5 - 1, {"float64": [-1, 1]}, "float64 from -1 to 1 is read as -1 to 1"),
    ],
    ids=["bool", "masks", "12 bits", "CT", "0 to 1", "-1 to 1"],
)
def test_images_of_a_call_are_prepared_as_the_training_images(
    x: np.ndarray, ranges: dict[str, list[int]], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In `prepare` and in a servable, with the range that profile.json records."""
    prepared = prepare_npz({"x": x}, fit="resize")
    profile = prepared.profile
    assert profile["value_range"] == ranges
    assert profile["brightness"]["mean"] > 40  # of masks and digits; read in full, 0.3 to 5
    assert line in capsys.readouterr().out
    shape, how = (16, 16, 1), (profile["fit"], profile["background"], profile["value_range"])
    rows = prepared.index["name"].str.extract(r"\[(\d+)\]", expand=False).astype(int)
    sent = inputs.to_images(x[rows], shape, profile["value_range"])
    np.testing.assert_array_equal(inputs.prepare(sent, shape, *how), prepared.images)
    again = inputs.to_images(prepared.images, shape, profile["value_range"], prepared=True)
    np.testing.assert_array_equal(again, prepared.images)


SHAPE = (2, 2, 1)  # of images, in the tests of single values


def read_by(ranges: dict[str, Any], values: Any, *, prepared: bool = False) -> list[int]:
    """Four values of an image of a call, as the model gets them."""
    is_array = isinstance(values, np.ndarray)
    sent = values if is_array else np.array(values).reshape(1, *SHAPE).tolist()
    read = inputs.to_images(sent, SHAPE, ranges, prepared)
    how = ("pad", 0, {} if prepared else ranges)
    pixels: list[int] = inputs.prepare(read, SHAPE, *how).ravel().tolist()
    return pixels


def typed(dtype: str, *values: float) -> np.ndarray:
    return np.array(values, dtype).reshape(1, *SHAPE)


@pytest.mark.parametrize(
    ("declared", "image", "expected"),
    [
        ((0, 128), typed("uint8", 0, 64, 128, 200), [0, 128, 255, 255]),
        ((0, 128), typed("uint8", 0, 16, 32, 60), [0, 32, 64, 120]),
        ((0, 1000), typed("uint16", 0, 100, 1000, 4000), [0, 26, 255, 255]),
        ((0, 1), typed("float32", -0.5, 0, 1, 1.5), [0, 0, 255, 255]),
        ((0, 2), typed("float64", -0.5, 0, 2, 1e30), [0, 0, 255, 255]),
        ((-100, 300), typed("int16", -2048, -100, 300, 3000), [0, 0, 255, 255]),
    ],
)
def test_values_beyond_a_declared_range_are_clipped_in_training_and_in_a_call(
    declared: tuple[float, float], image: np.ndarray, expected: list[int]
) -> None:
    ranges = {image.dtype.name: declared}
    assert to_uint8(image[0].astype(np.float32), {"float32": declared}).ravel().tolist() == expected
    assert read_by(ranges, image) == expected
    if image.dtype.kind == "f":
        for bad in (np.nan, np.inf, -np.inf):
            image[0, 0, 0] = bad
            with pytest.raises(InputError, match="Images have NaN or infinity"):
                inputs.to_images(image, SHAPE, ranges)


@pytest.mark.parametrize(
    ("ranges", "values", "expected"),
    [
        ({}, [0, 1, 128, 255], [0, 1, 128, 255]),
        ({"int64": (0, 1)}, [0, 1, 1, 0], [0, 255, 255, 0]),
        ({"bool": (0, 1)}, [0, 1, 1, 0], [0, 255, 255, 0]),
        ({"float32": (0, 1)}, [0, 1, 1, 0], [0, 255, 255, 0]),  # JavaScript writes 1.0 as 1
        ({"float32": (0, 1)}, [0, 0.2, 1, 1.5], [0, 51, 255, 255]),
        ({"float64": (-1, 1)}, [-1, 1, -3, 1], [0, 255, 0, 255]),
        ({"int16": (-1000, 400)}, [-1000, 400, -2048, 1e6], [0, 255, 0, 255]),
        ({"int16": (-1000, 400)}, [-1000.0, 400.0, -299.0, 400.0], [0, 255, 128, 255]),
        ({"uint16": (0, 4095)}, [0, 4095, 257, 60000], [0, 255, 16, 255]),
        ({"uint8": (0, 128)}, [0, 64, 128, 200], [0, 128, 255, 255]),
        ({"uint8": (0, 100), "uint16": (0, 100)}, [0, 20, 100, 200], [0, 51, 255, 255]),
        ({"uint8": (0, 1), "uint16": (0, 4095)}, [0, 1, 1, 255], [0, 255, 255, 255]),
    ],
)
def test_numbers_of_json_are_read_by_the_range_of_the_training_images(
    ranges: dict[str, Any], values: list[float], expected: list[int]
) -> None:
    assert read_by(ranges, values) == expected
    image = np.array(values).reshape(1, *SHAPE)  # of int64 or float64
    assert read_by(ranges, image) == expected


@pytest.mark.parametrize("dtype", ["int64", "float32", "bool", "int16"])
def test_numbers_of_json_that_may_be_8_bits_are_refused_with_a_cure(dtype: str) -> None:
    """They are read as the model returned them with the param that the message names."""
    ranges, grey = {dtype: (0, 1)}, [0, 100, 200, 255]
    message = r"from 0 to 1, as .* Received: 0 to 255, .* add the param prepared, true\. Send other"
    with pytest.raises(InputError, match=message):
        read_by(ranges, grey)
    assert read_by(ranges, grey, prepared=True) == grey
    assert read_by(ranges, typed("uint8", *grey)) == grey
    assert read_by(ranges, np.clip(typed("int64", *grey), 0, 1)) == [0, 255, 255, 255]


def test_fractions_are_refused_if_the_training_images_had_whole_numbers() -> None:
    with pytest.raises(InputError, match=r"from -1024 to 3071, .*: whole numbers"):
        read_by({"int16": (-1024, 3071)}, [0.1, 0.2, 0.3, 0.4])


def test_12_bit_pngs_are_bright_in_training_and_in_a_request() -> None:
    folder = Path("mine")
    folder.mkdir()
    for row in range(40):
        Image.fromarray(IMAGES[row].astype(np.uint16) * 16).save(folder / f"{row:04d}.png")
    write_params("image_folder", folder)
    main(RAW, PREPARED)
    prepared = read_prepared(PREPARED)
    assert prepared.profile["value_range"] == {"uint16": [0, 4095]}
    assert np.abs(prepared.images[7, 4:12, 4:12, 0].astype(int) - IMAGES[7]).max() <= 1
    call = encoding.read((folder / "0007.png").read_bytes(), {}, lambda _: None)
    assert isinstance(call.inputs, list)
    ours = inputs.prepare(call.inputs, (16, 16, 1), "pad", 0, prepared.profile["value_range"])
    np.testing.assert_array_equal(ours[0], prepared.images[7])


def test_a_declared_range_is_used_and_the_full_range_leaves_no_trace_in_the_profile() -> None:
    """The bytes are those of params.yaml files from before the key."""
    dark = prepare_npz({"x": IMAGES // 2}, value_range=[0, 127])
    assert dark.profile["value_range"] == {"uint8": [0, 127]}
    assert dark.images.max() == 255
    prepare_npz({"x": IMAGES})
    before = digests(PREPARED)
    for setting in ("auto", "full", [0, 255]):
        assert "value_range" not in prepare_npz({"x": IMAGES}, value_range=setting).profile
        assert digests(PREPARED) == before


def test_dark_images_stay_dark_and_the_log_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare_npz({"x": IMAGES // 3}).images.max() == 85
    assert capsys.readouterr().out.splitlines()[0] == (
        "prepare: uint8 from 0 to 85 is read as 0 to 255; if 85 is white, set prepare.value_range "
        "to [0, 85]"
    )


# --- stability -----------------------------------------------------------------------------------


def test_equal_inputs_give_equal_bytes() -> None:
    prepare_npz({"x": IMAGES, "y": LABELS})
    first = digests(PREPARED)
    main(RAW, PREPARED)
    assert digests(PREPARED) == first
    assert sorted(first) == ["images.npy", "index.parquet", "profile.json"]


def test_an_image_keeps_its_split_when_the_dataset_grows() -> None:
    def splits(images: np.ndarray) -> dict[str, str]:
        index = prepare_npz({"x": images}).index
        return dict(zip(index["id"], index["split"], strict=True))

    few = splits(IMAGES[:500])
    many = splits(IMAGES[::-1])
    assert few.items() <= many.items()


def test_prepare_drops_duplicates_and_keeps_the_copy_in_test() -> None:
    train = np.concatenate([IMAGES[:100], IMAGES[:30]])
    test = np.concatenate([IMAGES[90:200], IMAGES[150:160]])  # 10 copies of train, 10 of test
    labels = {"y_train": LABELS[:130] * 0, "y_test": LABELS[:120] * 0 + 1}
    prepared = prepare_npz({"x_train": train, "x_test": test, **labels})

    assert prepared.profile["duplicates"] == 30 + 10 + 10
    assert prepared.index["id"].is_unique
    assert len(prepared.images) == 200
    assert prepared.rows("test").tolist() == list(range(90, 200))
    assert prepared.index["label"][[89, 90]].tolist() == [0, 1]
    assert prepared.index["name"][90] == "x_test[0]"


def test_the_fingerprint_changes_with_splits_and_labels() -> None:
    arrays = {"x": IMAGES[:300], "y": LABELS[:300]}
    same = [prepare_npz(arrays).profile["fingerprint"] for _ in range(2)]
    other_split = prepare_npz(arrays, test_fraction=0.3).profile["fingerprint"]
    other_label = prepare_npz({**arrays, "y": LABELS[:300] * 0}).profile["fingerprint"]
    assert len({*same, other_split, other_label}) == 3


# --- a folder of files ---------------------------------------------------------------------------


def write_digits(folder: Path, number: int) -> None:
    for row in range(number):
        path = folder / f"class {LABELS[row]}" / f"{row:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[row]).save(path)


def test_prepare_reads_good_files_of_a_folder_and_lists_bad_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path("mine")
    write_digits(folder, 200)
    (folder / "class 0" / "empty.png").touch()
    (folder / "class 0" / "notes.psd").write_text("not an image")
    whole = (folder / "class 0" / "0000.png").read_bytes()
    (folder / "class 0" / "copy.png").write_bytes(whole)
    for number in range(25):
        (folder / f"cut{number:02d}.png").write_bytes(whole[: len(whole) - 40])
    write_params("image_folder", folder, background=255)
    main(RAW, PREPARED)

    prepared = read_prepared(PREPARED)
    assert len(prepared.images) == 200
    assert prepared.class_names == [f"class {digit}" for digit in range(10)]
    assert prepared.index["name"].is_monotonic_increasing
    row = prepared.index["name"].tolist().index(f"class {LABELS[7]}/0007.png")
    np.testing.assert_array_equal(prepared.images[row, 4:12, 4:12, 0], IMAGES[7])
    assert np.unique(prepared.images[row, :4]).tolist() == [255]
    rejects = prepared.profile["rejects"]
    assert rejects["empty"] == {"images": 1, "examples": ["class 0/empty.png"]}
    assert rejects["unsupported_format"] == {"images": 1, "examples": ["class 0/notes.psd"]}
    assert rejects["truncated"]["images"] == 25
    assert rejects["truncated"]["examples"] == [f"cut{number:02d}.png" for number in range(20)]
    assert prepared.profile["duplicates"] == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"prepare: 10 classes: {', '.join(f'class {digit}' for digit in range(10))}"
    assert said[1:4] == [
        "prepare: 1 image is an empty file: class 0/empty.png",
        "prepare: 25 images are truncated, such as cut00.png",
        "prepare: 1 image is in a format that is not read: class 0/notes.psd",
    ]
    assert said[4].endswith("; left out 1 duplicates and 27 rejects")


def test_the_splits_of_a_folder_are_kept_and_those_that_it_lacks_come_from_train(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for row in range(300):
        folder = Path("mine", "train" if row < 200 else "val" if row < 250 else "test")
        path = folder / f"{row:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[row]).save(path)
    copy = Path("mine/train/0249.png")  # of the last image of val
    copy.write_bytes(Path("mine/val/0249.png").read_bytes())
    write_params("image_folder", "mine", val_fraction=0.4, test_fraction=0.4)
    main(RAW, PREPARED)
    rows = {name: len(read_prepared(PREPARED).rows(name)) for name in ("train", "val", "test")}
    assert rows == {"train": 200, "val": 50, "test": 50}
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "prepare: train/, val/ and test/ are taken as splits"

    copy.unlink()
    os.rename("mine/test", "mine/.test")
    main(RAW, PREPARED)
    rows = {name: len(read_prepared(PREPARED).rows(name)) for name in ("train", "val", "test")}
    assert rows["val"] == 50
    # The count is binomial, with a standard deviation of 7 of 200: four of these are 28.
    assert rows["test"] == pytest.approx(80, abs=28)


def test_a_file_with_several_pages_is_named() -> None:
    write_digits(Path("mine"), 20)
    first, *others = map(Image.fromarray, IMAGES[20:23])
    first.save("mine/scan.tif", save_all=True, append_images=others)
    write_params("image_folder", "mine")
    finished = run_stage()
    assert (
        "prepare: 1 image has more frames or pages than the first, which is taken: scan.tif\n"
    ) in finished.stdout
    names = read_prepared(PREPARED).index["name"].tolist()
    np.testing.assert_array_equal(
        read_prepared(PREPARED).images[names.index("scan.tif"), 4:12, 4:12, 0], IMAGES[20]
    )


# --- failures ------------------------------------------------------------------------------------


def test_too_few_images_are_an_error() -> None:
    write_digits(Path("mine"), 5)
    Path("mine/empty.png").touch()
    write_params("image_folder", "mine", min_images=100)
    with pytest.raises(DataError, match=r"at least 100 \(prepare.min_images\)") as error:
        main(RAW, PREPARED)
    assert "Received: 5 (" in str(error.value)
    assert str(error.value).endswith("1 image is an empty file: empty.png. Copy again.")
    assert not PREPARED.exists()


def test_too_many_rejects_are_an_error_that_names_the_cures() -> None:
    write_digits(Path("mine"), 60)
    for number in range(10):
        Path(f"mine/{number}.jpg").write_text("<!doctype html><title>403</title>")
    for number, start in enumerate(["", "PK\3\4", "version https://git-lfs.github.com/spec/v1"]):
        Path(f"mine/x{number}.jpg").write_text(start)
    write_params("image_folder", "mine", max_rejects=0.17)
    with pytest.raises(DataError, match=r"at most 17.00% \(prepare.max_rejects\)") as error:
        main(RAW, PREPARED)
    message = str(error.value)
    assert (
        "Received: 17.81%. 10 images are web pages in place of pictures, such as 0.jpg. " in message
    )
    assert message.endswith("The log names all 4 reasons. Or raise the limit.")
    assert "\n" not in message
    assert not PREPARED.exists()

    write_params("image_folder", "mine", max_rejects=0.18)
    main(RAW, PREPARED)
    assert len(read_prepared(PREPARED).images) == 60


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_train_or_test_split_is_an_error(split: str) -> None:
    images = {"x_train": IMAGES[:50], "x_test": IMAGES[50:60]}
    if split == "train":
        images["x_test"] = IMAGES[:60]  # every train image has a duplicate in test
        expected = "0 train"
    else:
        images = {"x": np.unique(IMAGES[:2], axis=0)}  # the hash puts neither image into test
        expected = "0 test"
    with pytest.raises(DataError, match="some in train and some in test") as error:
        prepare_npz(images, test_fraction=0.01)
    assert expected in str(error.value)


def test_a_failed_prepare_leaves_the_previous_outputs_unchanged() -> None:
    prepare_npz({"x": IMAGES})
    before = digests(PREPARED)
    content = bytearray(Path("images.npz").read_bytes())
    content[len(content) // 2] ^= 1
    Path("images.npz").write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32"):
        main(RAW, PREPARED)
    assert digests(PREPARED) == before
    assert sorted(path.name for path in Path().iterdir()) == [
        ".latentworks",  # timings of the stage
        "images.npz",
        "params.yaml",
        "prepared",
        "raw",
    ]


def test_prepare_refuses_raw_data_of_another_kind() -> None:
    write_params("idx", "mine")
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("idx", "npz"))
    with pytest.raises(DataError, match=r"raw: not fetched for dataset.kind npz\. Run `dvc repro"):
        main(RAW, PREPARED)


def run_stage(report: str = "") -> subprocess.CompletedProcess[str]:
    code = f"""
import sys
from latentworks.stages.__main__ import main
main("prepare", *sys.argv[1:])
{report}
"""
    return subprocess.run(
        [sys.executable, "-c", code, str(RAW), str(PREPARED)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_users_mistake_ends_in_one_line_and_exit_code_3() -> None:
    write_params("npz", "missing.npz")
    finished = run_stage()
    assert finished.returncode == 3
    assert finished.stderr.count("\n") == 1
    assert "missing.npz: no such file" in finished.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from Linux")
def test_peak_memory_of_prepare_does_not_grow_with_the_data() -> None:
    def peak_megabytes(num_images: int) -> float:
        x = np.random.default_rng(0).integers(0, 256, (num_images, 64, 64, 3), dtype=np.uint8)
        np.savez("images.npz", x=x)
        write_params("npz", "images.npz", image_size=64, channels=3)
        finished = run_stage("print(open('/proc/self/status').read())")
        peak = re.search(r"VmHWM:\s+(\d+) kB", finished.stdout)
        assert peak is not None, finished.stderr
        return int(peak[1]) / 1024

    # The images take 197 MB. Only the index and the pages just written to the file may grow.
    assert peak_megabytes(16_000) - peak_megabytes(100) < 50
