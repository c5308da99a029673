"""Image sources read real files, and name the fault of a damaged file."""

import gzip
import io
import os
import pickle
import re
import select
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from sklearn.datasets import load_digits

from latentworks.datasets import fashion_mnist, idx, image_folder, npz
from latentworks.datasets.decoding import CHUNK_ITEMS, CHUNKS_PER_WORKER, decoded
from latentworks.datasets.labels import MAX_CLASSES
from latentworks.datasets.source import MAX_PIXELS, Item, Reject, Source, Split
from latentworks.datasets.value_range import value_ranges
from latentworks.errors import DataError
from latentworks.preprocess import to_uint8

DIGITS = load_digits()
IMAGES = np.round(DIGITS.images * 255 / 16).astype(np.uint8)  # [1797, 8, 8]
LABELS = DIGITS.target.astype(np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, **arrays: np.ndarray) -> Path:
    """Write each array to its IDX file: `train_images=…` to train-images-idx3-ubyte, and so on."""
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        stem = name.replace("_", "-")
        (folder / f"{stem}-idx{array.ndim}-ubyte").write_bytes(idx_bytes(array))
    return folder


def gzip_all(folder: Path) -> Path:
    for file in list(folder.iterdir()):
        Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    return folder


def save_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def everything(source: Source) -> list[tuple[np.ndarray, int | None, Split | None]]:
    items = [(item.read(), item.label, item.split) for item in source.items]
    assert len(items) == source.num_items
    return items


# --- arrays --------------------------------------------------------------------------------------


def as_idx(folder: Path, num_train: int) -> Source:
    return idx.load(
        write_idx(
            folder / "idx",
            train_images=IMAGES[:num_train],
            train_labels=LABELS[:num_train],
            t10k_images=IMAGES[num_train:],
            t10k_labels=LABELS[num_train:],
        )
    )


def as_gzipped_idx(folder: Path, num_train: int) -> Source:
    as_idx(folder, num_train)
    return idx.load(gzip_all(folder / "idx"))


def as_npz(folder: Path, num_train: int) -> Source:
    return npz.load(
        save_npz(
            folder / "digits.npz",
            x_train=IMAGES[:num_train],
            y_train=LABELS[:num_train],
            x_test=IMAGES[num_train:, ..., None],  # may be [N, h, w, c] or [N, h, w]
            y_test=LABELS[num_train:, None].astype(np.int64),  # may be [N, 1] or [N]
        )
    )


@pytest.mark.parametrize("load", [as_idx, as_gzipped_idx, as_npz])
def test_array_sources_keep_order_labels_and_splits(
    load: Callable[[Path, int], Source], tmp_path: Path
) -> None:
    source = load(tmp_path, 1500)
    assert source.class_names == tuple("0123456789")
    for row, (image, label, split) in enumerate(everything(source)):
        np.testing.assert_array_equal(image, IMAGES[row][..., None])
        assert label == LABELS[row]
        assert split == ("train" if row < 1500 else "test")


@pytest.mark.parametrize("load", [as_idx, as_npz])
def test_item_names_are_unique_and_items_can_be_pickled(
    load: Callable[[Path, int], Source], tmp_path: Path
) -> None:
    items = list(load(tmp_path, 1500).items)
    assert len({item.name for item in items}) == len(items)
    travelled = pickle.dumps(items[7])
    assert len(travelled) < 1000  # the pickle holds one image, not the whole array
    np.testing.assert_array_equal(pickle.loads(travelled).read(), IMAGES[7][..., None])


def test_a_source_of_images_alone_has_no_labels_and_no_splits(tmp_path: Path) -> None:
    only_train = idx.load(write_idx(tmp_path / "idx", train_images=IMAGES))
    only_x = npz.load(save_npz(tmp_path / "x.npz", x=IMAGES))
    for source in (only_train, only_x):
        assert source.class_names == ()
        assert {(label, split) for _, label, split in everything(source)} == {(None, None)}


def test_an_idx_file_with_four_axes_holds_colour_images(tmp_path: Path) -> None:
    colour = np.stack([IMAGES, IMAGES // 2, IMAGES // 3], axis=-1)
    source = idx.load(write_idx(tmp_path / "idx", train_images=colour))
    np.testing.assert_array_equal(everything(source)[5][0], colour[5])


def test_idx_files_may_have_the_names_of_emnist(tmp_path: Path) -> None:
    write_idx(tmp_path, train_images=IMAGES[:9], train_labels=LABELS[:9], test_images=IMAGES[9:12])
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / f"emnist-letters-{file.name}")
    source = idx.load(gzip_all(tmp_path))
    assert [split for _, _, split in everything(source)] == 9 * ["train"] + 3 * ["test"]
    assert named(source)[:9] == [str(label) for label in LABELS[:9]]
    other = "emnist-digits-train-images-idx3-ubyte.gz"
    (tmp_path / other).write_bytes((tmp_path / other.replace("digits", "letters")).read_bytes())
    with pytest.raises(DataError, match="files of several data sets: emnist-digits-train-images"):
        idx.load(tmp_path)


def test_npz_with_big_endian_16_bit_images_is_read(tmp_path: Path) -> None:
    deep = IMAGES.astype(">u2") * 257
    image = everything(npz.load(save_npz(tmp_path / "deep.npz", x=deep)))[3][0]
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[..., 0], deep[3])


def test_a_compressed_npz_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "digits.npz", x_train=IMAGES, y_train=LABELS)
    assert len(everything(npz.load(tmp_path / "digits.npz"))) == len(IMAGES)


def test_an_idx_file_larger_than_a_block_is_read(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (70, 300, 300), dtype=np.uint8)  # 6.3 MB
    folder = gzip_all(write_idx(tmp_path / "idx", train_images=large, train_labels=np.arange(70)))
    images = everything(idx.load(folder))
    np.testing.assert_array_equal(np.stack([image for image, *_ in images])[..., 0], large)
    assert [label for _, label, _ in images] == list(range(70))


def damaged_idx(folder: Path, name: str, change: Callable[[bytes], bytes], end: str) -> Path:
    write_idx(folder, train_images=IMAGES[:20], train_labels=LABELS[:20])
    file = folder / name
    content = change(file.read_bytes())
    file.unlink()
    Path(f"{file}{end}").write_bytes(gzip.compress(content) if end else content)
    return folder


IMAGE_FILE, LABEL_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGE_FILE, lambda old: b"", "Expected magic 0x00000803 or 0x00000804. Received: 0x."),
        (IMAGE_FILE, lambda old: b"\0\0\x0d" + old[3:], "Received: 0x00000d03"),
        (IMAGE_FILE, lambda old: old[:10], "truncated. Expected a header of 16 bytes"),
        (IMAGE_FILE, lambda old: old[:-1], r"truncated. Expected 1280 .* Received: 1279"),
        (IMAGE_FILE, lambda old: old + b"!", r"too long. Expected 1280 .* Received: 1281"),
        (IMAGE_FILE, lambda old: idx_bytes(IMAGES[:0]), r"expected images .* shape: \(0, 8, 8\)"),
        (LABEL_FILE, lambda old: old[:-1], "truncated. Expected 20 bytes"),
        (LABEL_FILE, lambda old: idx_bytes(LABELS[:19]), "of the 20 images .* Received: 19"),
        (LABEL_FILE, lambda old: idx_bytes(IMAGES[:20]), "Expected magic 0x00000801"),
    ],
)
def test_a_damaged_idx_file_is_named_with_its_fault(
    name: str, change: Callable[[bytes], bytes], message: str, end: str, tmp_path: Path
) -> None:
    folder = damaged_idx(tmp_path / "idx", name, change, end)
    with pytest.raises(DataError, match=message) as error:
        everything(idx.load(folder))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_intact_gzip_is_named(tmp_path: Path) -> None:
    folder = gzip_all(write_idx(tmp_path / "idx", train_images=IMAGES))
    file = folder / f"{IMAGE_FILE}.gz"
    whole = file.read_bytes()
    for content in (whole[:2000], whole[:-4] + b"oops", b"not gzip at all, but long enough"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"{IMAGE_FILE}.gz: "):
            everything(idx.load(folder))


def test_a_gzip_bomb_is_decompressed_only_to_its_declared_size(tmp_path: Path) -> None:
    folder = tmp_path / "idx"
    folder.mkdir()
    with gzip.open(folder / f"{IMAGE_FILE}.gz", "wb") as file:
        file.write(idx_bytes(IMAGES[:1]) + bytes(64 << 20))
    with pytest.raises(DataError, match=r"too long\. Expected 64 bytes"):
        everything(idx.load(folder))


def test_an_idx_header_with_gigantic_images_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "idx"
    folder.mkdir()
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    with gzip.open(folder / f"{IMAGE_FILE}.gz", "wb") as file:
        file.write(header)
    with pytest.raises(DataError, match=f"at most {MAX_PIXELS} pixels"):
        idx.load(folder)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "called x_train, train_images, x, arr_0. Received: images"),
        ({"x": IMAGES * 1j}, "expected images of integers, floats or bool. Received: complex128"),
        ({"x": IMAGES[0]}, r"expected images \[N, height, width\].* Received shape: \(8, 8\)"),
        ({"x": IMAGES[:, None, None]}, r"Received shape: \(1797, 1, 1, 8, 8\)"),
        ({"x": IMAGES.reshape(-1, 8, 1, 8)}, r"1 to 4 channels. Received shape: \(1797, 8, 1, 8\)"),
        ({"x": IMAGES[:0]}, r"Received shape: \(0, 8, 8\)"),
        ({"x": np.uint8(3)}, r"Received shape: \(\)"),
        ({"x": IMAGES.T.copy().T}, "Received: Fortran order. Save `np.ascontiguousarray"),
        ({"x": np.array([None, "a"])}, "Python objects, which only pickle could read"),
        ({"x": IMAGES, "y": LABELS.astype(int) - 2}, "or -1 for no label. Received: -2"),
        (
            {"x": IMAGES, "y": np.full(1797, 2**63, np.uint64)},
            "below .* Received: other uint64",
        ),
        (
            {"x": IMAGES, "y": np.full((1797, 2), 3)},
            "Received: 2 numbers for each",
        ),
        ({"x": IMAGES, "y": np.ones((1797, 3), int)}, "rows with up to 3 ones of 3"),
        ({"x": IMAGES, "y": LABELS + 0.5}, "expected whole numbers .* other float64"),
        ({"x": IMAGES, "y": LABELS * 1j}, "Received: complex128"),
        ({"x": IMAGES, "y": np.zeros(1797, "V0")}, r"Received: \|V0"),
        ({"x": IMAGES, "y": LABELS[1:]}, "of the 1797 images .* Received: 1796 labels"),
        (
            {"x_train": IMAGES[:9], "y_train": LABELS[:9]}
            | {"x_test": IMAGES[9:], "y_test": LABELS[9:].astype(str)},
            "labels are numbers and text. Received: 0 and '0'. Save all as text",
        ),
    ],
)
def test_npz_with_unusable_arrays_is_refused(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as error:
        npz.load(save_npz(tmp_path / "wrong.npz", **arrays))
    assert "wrong.npz" in str(error.value)
    assert "\n" not in str(error.value)


def as_read(source: Source, setting: Any = "auto") -> np.ndarray:
    """The images as `prepare` reads them before it resizes them: uint8 [N, h, w, c]."""
    ranges, _ = value_ranges(source, setting)
    return np.stack([to_uint8(item.read(), ranges) for item in source.items])


def named(source: Source) -> list[str | None]:
    """The name of the class of each image."""
    return [None if item.label is None else source.class_names[item.label] for item in source.items]


@pytest.mark.parametrize("names", ["x_{} y_{}", "{}_images {}_labels"])
def test_npz_with_a_validation_set_keeps_it(names: str, tmp_path: Path) -> None:
    """The names are those of Keras and of MedMNIST, whose labels are [N, 1]."""
    images, labels = names.split()
    arrays = {}
    for start, split in ((0, "train"), (100, "val"), (140, "test")):
        arrays[images.format(split)] = IMAGES[start : start + 40]
        arrays[labels.format(split)] = LABELS[start : start + 40, None]
    source = npz.load(save_npz(tmp_path / "digits.npz", **arrays))
    assert source.splits == {"train", "val", "test"}
    assert [split for _, _, split in everything(source)] == 40 * ["train"] + 40 * ["val"] + 40 * [
        "test"
    ]
    assert named(source)[40:80] == [str(label) for label in LABELS[100:140]]


def test_arrays_without_names_and_a_single_array_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", IMAGES, LABELS)
    np.savez(tmp_path / "one.npz", IMAGES)
    np.save(tmp_path / "images.npy", IMAGES)
    sources = {name: npz.load(tmp_path / name) for name in ("two.npz", "one.npz", "images.npy")}
    for source in sources.values():
        np.testing.assert_array_equal(as_read(source)[..., 0], IMAGES)
    assert named(sources["two.npz"]) == [str(label) for label in LABELS]
    assert sources["one.npz"].class_names == sources["images.npy"].class_names == ()


def test_channels_may_come_first(tmp_path: Path) -> None:
    colour = np.stack([IMAGES, IMAGES // 2, IMAGES // 3], axis=-1)
    first = np.ascontiguousarray(colour.transpose(0, 3, 1, 2))
    for x, expected in ((first, colour), (first[:, :1], colour[..., :1])):
        np.testing.assert_array_equal(
            as_read(npz.load(save_npz(tmp_path / "x.npz", x=x))), expected
        )


def test_a_source_is_read_again_from_its_start(tmp_path: Path) -> None:
    source = as_npz(tmp_path, 1500)
    assert [item.name for item in source.items] == [item.name for item in source.items]


def test_images_that_are_not_finite_are_rejected_one_by_one(tmp_path: Path) -> None:
    x = (IMAGES[:3] / 255).astype(np.float32)
    x[1, 0, 0] = np.nan
    source = npz.load(save_npz(tmp_path / "x.npz", x=x))
    assert value_ranges(source, "auto")[0] == {"float32": (0, 1)}
    assert [result.reject for _, result in decoded(source, to_uint8)] == ["", "not_finite", ""]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([3, 1, 2], ["3", "1", "2"]),  # EMNIST's letters are 1 to 26
        ([5007, 7, 2507], ["5007", "7", "2507"]),
        ([20240101, 20240103, 20240101], ["20240101", "20240103", "20240101"]),
        ([0, -1, 4], ["0", None, "4"]),
        ([1, -1, 1], ["1", "-1", "1"]),  # the two classes of a binary problem
        ([0.0, np.nan, 4.0], ["0", None, "4"]),
        ([True, False, True], ["1", "0", "1"]),
        (["eel", "cat", ""], ["eel", "cat", None]),
        ([b"b", b"a", b"\xff"], ["b", "a", "\\xff"]),
        ([[0, 0, 1], [1, 0, 0], [0, 0, 0]], ["2", "0", None]),
        ([[False, True], [True, False], [False, True]], ["1", "0", "1"]),
    ],
    ids=str,
)
def test_labels_are_read_in_the_forms_that_people_store(
    labels: Any, names: list[str | None], tmp_path: Path
) -> None:
    source = npz.load(save_npz(tmp_path / "x.npz", x=IMAGES[:3], y=np.array(labels)))
    assert named(source) == names
    assert set(source.class_names) == {name for name in names if name is not None}


def test_class_numbers_are_in_the_order_of_the_ids(tmp_path: Path) -> None:
    y = np.array([10, 9, 100])
    assert npz.load(save_npz(tmp_path / "x.npz", x=IMAGES[:3], y=y)).class_names == (
        "9",
        "10",
        "100",
    )


def test_labels_that_are_hardly_classes_are_doubted_in_the_log(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "x.npz", x=IMAGES[:40], y=np.arange(40))
    assert npz.load(path).notes == (
        "labels give 40 classes for 40 images: leave them out if they are no classes",
    )
    assert npz.load(save_npz(path, x=IMAGES[:40], y=LABELS[:40])).notes == ()


def test_too_many_classes_are_refused(tmp_path: Path) -> None:
    num = MAX_CLASSES + 1
    path = save_npz(tmp_path / "x.npz", x=np.zeros((num, 1, 1), np.uint8), y=np.arange(num))
    with pytest.raises(DataError, match=f"more than {MAX_CLASSES} classes"):
        npz.load(path)


# How images are often saved, and the greatest difference of the pixels that are read.
FORMS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "uint8": (lambda x: x, 0),
    "0 to 1": (lambda x: x / 255, 0),
    "0 to 1, float16": (lambda x: (x / 255).astype(np.float16), 0),
    "-1 to 1": (lambda x: (x / 127.5 - 1).astype(np.float32), 0),
    "0 to 255": (lambda x: x.astype(np.float32), 0),
    "standardised": (lambda x: x / 64 - 2, 0),
    "int64": (lambda x: x.astype(np.int64), 0),
    "uint32": (lambda x: x.astype(np.uint32), 0),
    "int8": (lambda x: (x.astype(np.int16) - 128).astype(np.int8), 0),
    "int64 from -128": (lambda x: x.astype(np.int64) - 128, 0),
    "16 bits": (lambda x: x.astype(np.int64) * 257, 0),
    "16 bits, big endian": (lambda x: x.astype(">u2") * 257, 0),
    "16 bits, floats": (lambda x: x * 257.0, 0),
    "8 of 16 bits": (lambda x: x.astype(np.uint16), 0),
    "12 of 16 bits": (lambda x: x.astype(np.uint16) * 16, 1),  # 4080 of 4095
    "Hounsfield units": (lambda x: x.astype(np.int16) * 16 - 1024, 1),
    "large numbers": (lambda x: x.astype(np.int64) * 1000, 0),
    "channels first": (lambda x: np.repeat(x[:, None], 3, axis=1).repeat(2, 2).repeat(2, 3), 0),
    "Fortran order": (lambda x: np.asfortranarray(x), 0),
    "rows": (lambda x: x.reshape(len(x), -1), 0),
}
CLASSES: dict[str, tuple[Callable[[np.ndarray], Any], Callable[[int], str | None]]] = {
    "numbers": (lambda y: y, str),
    "big endian": (lambda y: y.astype(">i4"), str),
    "floats": (lambda y: y.astype(float), str),
    "one-hot": (lambda y: np.eye(10)[y], str),
    "names": (lambda y: np.array([f"class {i}" for i in range(10)])[y], lambda y: f"class {y}"),
    "none": (lambda y: np.where(y > 4, y, -1), lambda y: str(y) if y > 4 else None),
    "below -1": (lambda y: y - 11, lambda y: str(y - 11)),
    "sparse": (lambda y: y * 10**6, lambda y: str(y * 10**6)),
    "several": (lambda y: np.stack([y % 2, y > -1, y > -1], axis=1), lambda y: str(y % 2)),
}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    splits=st.lists(
        st.integers(1, 4).flatmap(
            lambda num: st.tuples(
                st_numpy.arrays(np.uint8, (num, 3, 3)),
                st_numpy.arrays(np.int64, num, elements=st.integers(0, 9)),
            )
        ),
        min_size=1,
        max_size=2,
    ),
    of_images=st.sampled_from([*FORMS]),
    of_labels=st.sampled_from([*CLASSES]),
)
def test_images_and_labels_of_any_form_are_read_or_refused_with_a_true_cure(
    splits: list[tuple[np.ndarray, np.ndarray]], of_images: str, of_labels: str, tmp_path: Path
) -> None:
    """Pixels and classes are those that were meant, at once or after what the refusal says.

    The first split has the whole range of values. Alone, the second may have another.
    """
    splits[0][0][0, 0] = 0, 255, 1
    ends = ["_train", "_test"] if splits[1:] else [""]
    (change, tolerance), (label, meaning) = FORMS[of_images], CLASSES[of_labels]
    arrays: dict[str, Any] = {}
    for end, (images, labels) in zip(ends, splits, strict=True):
        arrays |= {f"x{end}": change(images), f"y{end}": label(labels)}
    setting: Any = "auto"
    for _ in range(2 * len(arrays) + 1):
        try:
            source = npz.load(save_npz(tmp_path / "images.npz", **arrays))
            read = as_read(source, setting)
            break
        except DataError as error:
            setting = obey(str(error), arrays) or setting
    else:
        pytest.fail("the advice does not lead to arrays that are accepted")
    expected = np.concatenate([images for images, _ in splits])
    if of_images == "channels first":
        expected, read = expected.repeat(2, 1).repeat(2, 2), read[..., 2:]
    assert np.abs(read[..., 0].astype(int) - expected).max() <= tolerance
    assert named(source) == [meaning(y) for _, labels in splits for y in labels.tolist()]


def obey(message: str, arrays: dict[str, Any]) -> Any:
    """Change the arrays as the message says, or return the value of prepare.value_range."""
    if found := re.search(r"Set prepare\.value_range .+: \[(.+), (.+)\], or wider", message):
        return float(found[1]), float(found[2])
    if "save the numbers as text" in message:
        for name in [name for name in arrays if name.startswith("y")]:
            arrays[name] = arrays[name].astype(str)
        return None
    (name,) = re.findall(r"npz: (\w+):", message)
    (code,) = re.findall("[Ss]ave (?:one label as two classes, )?`(.+)`", message)
    exec(code if " = " in code else f"{name} = {code}", {"np": np, **arrays}, arrays)
    arrays.pop("a", None)
    return None


# --- the range of values -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "low", "high", "chosen"),
    [
        ("uint8", 0, 255, "full"),
        ("uint8", 3, 131, "full"),  # more than half
        ("uint8", 0, 1, (0, 1)),
        ("uint8", 0, 15, (0, 15)),
        ("uint8", 0, 16, "full"),
        ("uint8", 0, 100, "full"),  # dark photographs stay dark
        ("uint8", 0, 0, "full"),
        ("uint16", 0, 65535, "full"),
        ("uint16", 0, 33000, "full"),
        ("uint16", 0, 32767, (0, 32767)),
        ("uint16", 30, 4000, (0, 4095)),
        ("uint16", 0, 255, (0, 255)),
        ("uint16", 0, 1, (0, 1)),
        ("int16", -1000, 3000, (-1024, 3071)),
        ("int16", -20000, 20000, (-32768, 32767)),
        ("int8", -128, 127, (-128, 127)),
        ("int64", 0, 1, (0, 1)),
        ("int16", -1024, 3200, None),  # as -32768 to 32767, all would be grey
        ("int16", -2048, 3071, None),  # with padding
        ("int8", -5, 100, None),
        ("float32", 0, 0.3, (0, 1)),
        ("float32", -0.9, 0.9, (-1, 1)),
        ("float32", 0, 200, (0, 255)),
        ("float32", 0, 4000, (0, 4095)),
        ("float32", 0, 1.0000001, (0, 1)),  # rounded
        ("float64", -1.0000005, 1.0000005, (-1, 1)),
        ("float64", 0, 1.00001, None),
        ("float32", -0.01, 1, None),  # as -1 to 1, black would be grey
        ("float64", 0, 16, None),  # as 0 to 255, white would be nearly black
        ("int32", 0, 10**6, None),
    ],
)
def test_the_narrowest_usual_range_that_holds_the_values_is_chosen(
    dtype: str, low: float, high: float, chosen: Any
) -> None:
    image = np.linspace(low, high, 64).astype(dtype).reshape(8, 8, 1)
    source = Source([Item("a", image.copy)], 1, dtypes=(dtype,))
    if chosen is None:
        ends = re.escape(f"[{low}, {high}], or wider")
        cure = f"value_range in params.yaml to the values of black and white: {ends}"
        with pytest.raises(DataError, match=cure):
            value_ranges(source, "auto")
        chosen = (low, high)
        assert value_ranges(source, chosen)[0] == {dtype: chosen}
    else:
        assert value_ranges(source, "auto")[0] == ({} if chosen == "full" else {dtype: chosen})


def test_a_bright_image_between_those_that_are_looked_at_first_counts() -> None:
    """Of 600 images only the fourth, which is not in the spread sample, is more than a mask."""
    images = [np.full((2, 2, 1), number % 2, np.uint8) for number in range(600)]
    images[3][0, 0] = 200
    source = Source([Item(str(i), image.copy) for i, image in enumerate(images)], 600)
    assert value_ranges(source, "auto") == ({}, [])


def test_if_none_that_is_looked_at_first_can_be_used_all_are_looked_at() -> None:
    def image(number: int) -> np.ndarray:
        if number % 2 == 0:
            raise Reject("not_finite")
        return np.full((2, 2, 1), number / 300, np.float32)

    items = [Item(str(number), partial(image, number)) for number in range(300)]
    source = Source(items, 300, dtypes=("float32",))
    assert value_ranges(source, "auto")[0] == {"float32": (0, 1)}


def test_most_images_are_not_read_to_decide_on_their_range() -> None:
    read = []

    def image(number: int) -> np.ndarray:
        read.append(number)
        return np.full((2, 2, 1), number % 256, np.uint8)

    items = [Item(str(number), partial(image, number)) for number in range(5000)]
    assert value_ranges(Source(items, 5000, dtypes=("uint8",)), "auto")[0] == {}
    assert len(read) <= 20
    assert value_ranges(Source(items, 5000), "auto")[0] == {}
    assert len(read) <= 20 + 256


def test_alpha_keeps_its_full_range() -> None:
    mask = np.array([[[0, 255], [1, 128]], [[1, 0], [0, 0]]], np.uint8)
    ranges, lines = value_ranges(Source([Item("a", mask.copy)], 1), "auto")
    assert lines == ["uint8 from 0 to 1 is read as 0 to 1"]
    assert to_uint8(mask, ranges).tolist() == [[[0, 255], [255, 128]], [[255, 0], [0, 0]]]


def test_each_dtype_has_a_range_of_its_own() -> None:
    photo, xray = np.full((2, 2, 1), 200, np.uint8), np.full((2, 2, 1), 4000, np.uint16)
    source = Source([Item("a", photo.copy), Item("b", xray.copy)], 2)
    assert value_ranges(source, "auto")[0] == {"uint16": (0, 4095)}
    assert value_ranges(source, (0, 4095))[0] == {"uint16": (0, 4095)}
    assert value_ranges(source, (0, 100))[0] == {"uint8": (0, 100), "uint16": (0, 100)}
    assert value_ranges(source, "full")[0] == {}


@pytest.mark.parametrize(
    ("dtype", "setting", "message"),
    [
        ("float32", "full", "full does not fit images of float32"),
        ("int64", "full", "full does not fit images of int64"),
        ("uint8", (0, 4095), r"\[0, 4095\] does not fit images of uint8. Expected .* 0 to 255"),
    ],
)
def test_a_range_that_does_not_fit_the_data_is_refused(
    dtype: str, setting: Any, message: str
) -> None:
    source = Source([Item("a", np.zeros((2, 2, 1), dtype).copy)], 1, dtypes=(dtype,))
    with pytest.raises(DataError, match=message):
        value_ranges(source, setting)


# --- damaged archives ----------------------------------------------------------------------------


def npy_bytes(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"not an array", "not a plain NumPy array"),
        (npy_bytes(IMAGES)[:-1], "truncated. Expected 115008 bytes"),
        (npy_bytes(IMAGES) + b"!", "too long"),
        (npy_bytes(IMAGES).replace(b"(1797,", b"(9**9,"), "not a plain NumPy array"),
        (npy_bytes(IMAGES).replace(b"(1797, 8, 8), }   ", b"(9999999, 8, 8), }"), "truncated"),
    ],
)
def test_npz_with_a_damaged_member_is_refused(member: bytes, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "damaged.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(DataError, match=message):
        npz.load(tmp_path / "damaged.npz")


def test_npz_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "flipped.npz", x=IMAGES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged: Bad CRC-32"):
        everything(npz.load(path))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", pickle.dumps([IMAGES[:2]])])
def test_a_file_that_is_not_an_npz_archive_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "none.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not an \.npz archive"):
        npz.load(path)


@pytest.mark.parametrize("load", [idx.load, npz.load, image_folder.load, fashion_mnist.load])
def test_a_missing_or_empty_source_is_refused(
    load: Callable[[Path], Source], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"no such f.*Correct dataset\.path"):
        load(tmp_path / "missing")
    with pytest.raises(DataError):
        load(tmp_path)  # an empty folder; npz expects a file


def test_fashion_mnist_refuses_other_data_in_idx_format(tmp_path: Path) -> None:
    as_idx(tmp_path, 1500)
    with pytest.raises(DataError, match=r"not the file of Fashion-MNIST. Expected SHA-256 c59f468"):
        fashion_mnist.load(tmp_path / "idx")


# --- decoding on all cores -----------------------------------------------------------------------


def test_decoding_workers_keep_the_order_and_never_run_far_ahead() -> None:
    num_cores = len(os.sched_getaffinity(0))
    taken = 0

    def items() -> Iterator[Item]:
        nonlocal taken
        for number in range(250):
            taken += 1
            yield Item(str(number), np.full((2, 3, 1), number * 257, dtype=np.uint16).copy)

    source = Source(items(), 250, decodes=True)
    for number, (item, result) in enumerate(decoded(source, to_uint8)):
        assert item.name == str(number)
        assert result.image is not None
        assert np.unique(result.image).tolist() == [number]
        assert (result.height, result.width) == (2, 3)
        assert taken - number <= CHUNK_ITEMS * (CHUNKS_PER_WORKER * num_cores + 1)
    assert taken == 250


def test_a_killed_decoding_worker_is_reported_with_its_image() -> None:
    source = Source([Item("a.png", partial(os._exit, 9))], 1, decodes=True)
    with pytest.raises(DataError, match=r"was killed, at a\.png"):
        list(decoded(source, to_uint8))


WAITING_SOURCE = """
import os
from latentworks.datasets.decoding import decoded
from latentworks.datasets.source import Item, Source
from latentworks.preprocess import to_uint8

def wait():
    pipe = open("at_work", "w")
    print("at work", file=pipe, flush=True)
    open("nobody_writes").read()

if __name__ == "__main__":
    list(decoded(Source([Item("a", wait)], 1, decodes=True), to_uint8))
"""


def test_decoding_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "at_work")
    os.mkfifo(tmp_path / "nobody_writes")
    (tmp_path / "waiting.py").write_text(WAITING_SOURCE)
    parent = subprocess.Popen(
        [sys.executable, "waiting.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    try:
        with (tmp_path / "at_work").open() as pipe:  # blocks until the worker opens the pipe
            assert pipe.readline() == "at work\n"
            parent.kill()
            assert select.select([pipe], [], [], 30)[0], "the worker outlived its parent"
            assert pipe.read() == ""  # the worker has ended, so its end of the pipe is closed
    finally:
        os.killpg(parent.pid, signal.SIGKILL)  # a failed test may leave processes
        parent.wait()
