"""Every kind of dataset keeps the contract of a source, and reads the forms that people have."""

import gzip
import io
import json
import os
import pickle
import re
import struct
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import TypeAdapter
from sklearn.datasets import load_digits

from latentworks.datasets.config import DatasetConfig
from latentworks.datasets.decoding import decoded
from latentworks.datasets.source import Source
from latentworks.datasets.value_range import value_ranges
from latentworks.errors import DataError
from latentworks.preprocess import to_uint8

DIGITS = load_digits()
IMAGES = np.round(DIGITS.images * 255 / 16).astype(np.uint8)[:60]  # [60, 8, 8]
LABELS = DIGITS.target[:60]
TRAIN, TEST = slice(0, 40), slice(40, None)
CONFIG: TypeAdapter[Any] = TypeAdapter(DatasetConfig)
KINDS = sorted(
    get_args(member.model_fields["kind"].annotation)[0]
    for member in get_args(get_args(DatasetConfig)[0])
    if not hasattr(member, "fetch")  # data that is downloaded has one content, which no test writes
)


def load(kind: str, path: Path) -> Source:
    source: Source = CONFIG.validate_python({"kind": kind, "path": str(path)}).load()
    return source


def png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


# --- one writer a kind ---------------------------------------------------------------------------


def write_image_folder(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for split, part in (("train", TRAIN), ("test", TEST)):
        for row, (image, label) in enumerate(zip(images[part], labels[part], strict=True)):
            file = folder / split / str(label) / f"{row:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(image))
    return folder


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for name, part in (("train", TRAIN), ("t10k", TEST)):
        for content, array in (("images-idx3", images[part]), ("labels-idx1", labels[part])):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            file = folder / f"{name}-{content}-ubyte"
            file.write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


def arrays(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    train = {"x_train": images[TRAIN], "y_train": labels[TRAIN]}
    return train | {"x_test": images[TEST], "y_test": labels[TEST]}


def write_npz(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    np.savez(folder / "images.npz", **arrays(images, labels))  # type: ignore[arg-type]
    return folder / "images.npz"


def write_hdf5(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    with h5py.File(folder / "images.h5", "w") as file:
        for name, array in arrays(images, labels).items():
            file.create_dataset(name, data=array, chunks=True, compression="gzip")
    return folder / "images.h5"


def write_parquet(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for name, part in (("train", TRAIN), ("test", TEST)):
        pictures = [{"bytes": png(image), "path": None} for image in images[part]]
        table = pa.table({"image": pictures, "label": labels[part]})
        pq.write_table(table, folder / f"{name}-00000-of-00001.parquet", row_group_size=7)
    return folder


def write_tar(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for name, part in (("train", TRAIN), ("test", TEST)):
        files = {
            f"{row:06d}.{ending}": content
            for row, (image, label) in enumerate(zip(images[part], labels[part], strict=True))
            for ending, content in (("png", png(image)), ("cls", str(label).encode()))
        }
        (folder / f"digits-{name}-000000.tar").write_bytes(tar(files))
    return folder


def tar(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(None, "w", content) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def write_csv(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for name, part in (("train", TRAIN), ("test", TEST)):
        lines = [",".join(["label", *(f"pixel{i}" for i in range(images[0].size))])]
        for image, label in zip(images[part], labels[part], strict=True):
            lines.append(",".join(map(str, [label, *image.ravel().tolist()])))
        (folder / f"{name}.csv").write_text("\n".join(lines))
    return folder


WRITERS: dict[str, Callable[[Path, np.ndarray, np.ndarray], Path]] = {
    "image_folder": write_image_folder,
    "idx": write_idx,
    "npz": write_npz,
    "hdf5": write_hdf5,
    "parquet": write_parquet,
    "tar": write_tar,
    "csv": write_csv,
}

every_kind = pytest.mark.parametrize("kind", KINDS)


# --- the contract --------------------------------------------------------------------------------


@every_kind
def test_a_source_has_the_images_labels_and_splits_that_were_written(
    kind: str, tmp_path: Path
) -> None:
    source = load(kind, WRITERS[kind](tmp_path, IMAGES, LABELS))
    assert source.class_names == tuple("0123456789")
    assert source.num_items == len(IMAGES)
    ranges, _ = value_ranges(source, "auto")
    read = []
    for item in source.items:
        image = item.read()
        assert image.dtype.name in source.dtypes
        assert item.label is not None
        name = source.class_names[item.label]
        read.append((to_uint8(image, ranges).tobytes(), name, item.split))
    splits = ["train"] * 40 + ["test"] * 20
    expected = [
        (image.tobytes(), str(label), split)
        for image, label, split in zip(IMAGES, LABELS, splits, strict=True)
    ]
    assert sorted(map(repr, read)) == sorted(map(repr, expected))


@every_kind
def test_items_have_names_of_their_own_pickle_and_come_again(kind: str, tmp_path: Path) -> None:
    source = load(kind, WRITERS[kind](tmp_path, IMAGES, LABELS))
    items = list(source.items)
    assert len({item.name for item in items}) == len(items)
    assert all(item.name.isprintable() for item in items)
    for item, again in zip(items, source.items, strict=True):
        assert (again.name, again.label, again.split) == (item.name, item.label, item.split)
        travelled = pickle.dumps(item)
        assert len(travelled) < 2000  # one image, and not the whole file
        np.testing.assert_array_equal(pickle.loads(travelled).read(), again.read())


@every_kind
def test_nothing_and_an_empty_file_or_folder_are_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "empty file").touch()
    for name in ("missing", "empty folder", "empty file"):
        with pytest.raises(DataError) as error:
            load(kind, tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["npz", "hdf5", "parquet", "tar", "csv"])
@pytest.mark.parametrize("named", ["npz", "hdf5", "parquet", "tar", "csv"])
def test_the_kind_of_a_file_is_named_if_it_is_another(
    kind: str, named: str, tmp_path: Path
) -> None:
    path = WRITERS[kind](tmp_path, IMAGES, LABELS)
    file = path if path.is_file() else sorted(path.iterdir())[0]
    if kind == named:
        load(kind, file)
        return
    with pytest.raises(DataError, match=rf" Set dataset\.kind to {kind}\.$"):
        load(named, file)


@pytest.mark.parametrize("kind", ["npz", "hdf5", "parquet", "tar", "csv"])
@pytest.mark.parametrize("named", ["npz", "hdf5", "parquet", "tar", "csv"])
def test_in_a_folder_of_another_kind_this_kind_or_the_file_is_named(
    kind: str, named: str, tmp_path: Path
) -> None:
    WRITERS[kind](tmp_path, IMAGES, LABELS)
    config = {"kind": named, "path": str(tmp_path)}
    for _ in range(2):
        try:
            source = CONFIG.validate_python(config).load()
            break
        except DataError as error:
            changes = dict(re.findall(r"dataset\.(kind|path) to (\S+?)(?:\.$| and)", str(error)))
            assert changes, error  # noqa: PT017
            config |= changes
    assert source.num_items == len(IMAGES)
    assert config["kind"] == kind


class Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@every_kind
@pytest.mark.parametrize(
    "name", ["data_batch_1", "x.npy", "x.npz", "x.h5", "x.parquet", "x.tar", "x.csv", "x.png"]
)
def test_a_pickle_is_never_loaded(kind: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "images" / name
    file.parent.mkdir()
    file.write_bytes(pickle.dumps({b"data": IMAGES, b"labels": Evil(tmp_path / "owned")}))
    for path in (file, file.parent):
        try:
            source = load(kind, path)
        except DataError:
            continue
        with pytest.raises(Exception, match=r"unreadable|unsupported_format"):
            next(iter(source.items)).read()
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("kind", ["hdf5", "npz", "parquet", "tar", "csv"])
def test_memory_does_not_grow_with_the_file(kind: str, tmp_path: Path) -> None:
    """Files of 30 MB, or 8 MB as CSV, are read in blocks of 4 MB at most, and copied twice."""
    shape = (3000, 28, 28) if kind == "csv" else (60, 720, 720)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    source = load(kind, WRITERS[kind](tmp_path, noise, np.resize(LABELS, len(noise))))
    arrow = pa.default_memory_pool()
    before, most = arrow.bytes_allocated(), 0
    tracemalloc.start()
    try:
        for item in source.items:
            pickle.dumps(item)
            most = max(most, arrow.bytes_allocated() - before)
        most = max(most, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert most < 16e6


# --- shards --------------------------------------------------------------------------------------


def names_and_splits(source: Source) -> list[tuple[str, str | None]]:
    return [(item.name, item.split) for item in source.items]


def test_shards_get_their_splits_from_words_in_their_paths(tmp_path: Path) -> None:
    for name in (
        *(
            "data/train-0-of-2.tar",
            "data/train-1-of-2.tar",
            "my-train-set/test.tar",
        ),
        *("validation/0000.tar", "Dev_0.TAR", "unsupervised.tar", ".hidden/x.tar", "readme.md"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(tar({"a.png": png(IMAGES[0])}))
    source = load("tar", tmp_path)
    assert source.splits == {"train", "val", "test"}
    assert names_and_splits(source) == [
        ("Dev_0.TAR/a.png", "val"),
        ("data/train-0-of-2.tar/a.png", "train"),
        ("data/train-1-of-2.tar/a.png", "train"),
        ("my-train-set/test.tar/a.png", "test"),
        ("unsupervised.tar/a.png", "train"),
        ("validation/0000.tar/a.png", "val"),
    ]


def test_shards_of_a_single_split_have_none(tmp_path: Path) -> None:
    for name in ("train-0.tar", "train-1.tar"):
        (tmp_path / name).write_bytes(tar({"a.png": png(IMAGES[0])}))
    for path in (tmp_path, tmp_path / "train-0.tar"):
        assert {split for _, split in names_and_splits(load("tar", path))} == {None}


def test_shards_without_any_for_training_are_refused(tmp_path: Path) -> None:
    for name in ("test.tar", "val.tar"):
        (tmp_path / name).write_bytes(tar({"a.png": png(IMAGES[0])}))
    with pytest.raises(DataError, match=r"no tar file for training\. .* Received: test\.tar"):
        load("tar", tmp_path)


def named(source: Source) -> list[str | None]:
    """The name of the class of each image."""
    return [None if item.label is None else source.class_names[item.label] for item in source.items]


# --- Parquet -------------------------------------------------------------------------------------

PICTURES = [png(image) for image in IMAGES[:4]]
STRUCTS = [{"bytes": picture, "path": "a.png"} for picture in PICTURES]


def parquet(path: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> Path:
    table = pa.table(columns)
    if features is not None:
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    pq.write_table(table, path)
    return path


def test_class_names_come_from_the_metadata_of_hugging_face(tmp_path: Path) -> None:
    features = {"label": {"names": ["cat", "dog", "eel", "fox"], "_type": "ClassLabel"}}
    columns = {"image": STRUCTS, "label": [3, 0, -1, None]}
    source = load("parquet", parquet(tmp_path / "x.parquet", columns, features))
    assert named(source) == ["fox", "cat", None, None]
    assert source.class_names == ("cat", "fox")
    assert source.notes == ("images are from column image; labels from label",)


@pytest.mark.parametrize(
    "features", [None, {}, {"label": {"names": "ab"}}, {"label": {"names": [1, 2]}}, {"label": 3}]
)
def test_without_names_in_the_metadata_classes_are_named_by_their_numbers(
    features: dict[str, Any] | None, tmp_path: Path
) -> None:
    columns = {"image": STRUCTS, "label": [3, 0, 1, 1]}
    assert named(load("parquet", parquet(tmp_path / "x.parquet", columns, features))) == list(
        "3011"
    )


@pytest.mark.parametrize(
    "columns",
    [
        {"image": pa.array(STRUCTS), "class": ["a", "b", "", "a"]},
        {"photo": pa.array(PICTURES, pa.binary()), "label": ["a", "b", None, "a"]},
        {
            "thumbnail": pa.array([b""] * 4, pa.binary()),
            "image": pa.array(PICTURES, pa.large_binary()),
            "labels": pa.array(["a", "b", None, "a"]).dictionary_encode(),
        },
    ],
    ids=["structs", "bytes", "of several"],
)
def test_pictures_are_structs_or_bytes_and_labels_are_text(
    columns: dict[str, Any], tmp_path: Path
) -> None:
    source = load("parquet", parquet(tmp_path / "x.parquet", columns))
    assert named(source) == ["a", "b", None, "a"]
    np.testing.assert_array_equal([item.read()[..., 0] for item in source.items], IMAGES[:4])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"text": ["a"], "label": [1]},
            "expected a column `image` of bytes.* columns: text, label",
        ),
        ({"a": [b"1"], "b": [b"2"]}, "expected a column `image`"),
        (
            {"image": STRUCTS[:1], "label": [[1, 2]]},
            r"one class for each image.* Received: \[1, 2\]",
        ),
        ({"image": STRUCTS[:1], "label": [0.5]}, r"Received: 0\.5"),
        ({"image": [{"path": "a.png"}], "label": [1]}, "expected a column `image`"),
    ],
)
def test_parquet_without_pictures_or_with_several_labels_is_refused(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        load("parquet", parquet(tmp_path / "x.parquet", columns))


def test_files_without_images_are_refused(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([], pa.binary())})
    pq.write_table(table, tmp_path / "x.parquet")
    csv(tmp_path / "x.csv", ["label", *(f"pixel{i}" for i in range(16))])
    for kind in ("parquet", "csv"):
        with pytest.raises(DataError, match=r"no images\. Expected a row"):
            load(kind, tmp_path / f"x.{kind}")


def test_parquet_shards_with_other_columns_are_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "a.parquet", {"image": STRUCTS, "label": [0, 1, 2, 3]})
    parquet(tmp_path / "b.parquet", {"image": PICTURES, "label": [0, 1, 2, 3]})
    with pytest.raises(DataError, match=r"b\.parquet: other columns than in .*a\.parquet"):
        load("parquet", tmp_path)


def test_a_picture_that_is_missing_or_damaged_is_rejected(tmp_path: Path) -> None:
    pictures = [PICTURES[0], None, b"no picture", PICTURES[1][:60]]
    source = load("parquet", parquet(tmp_path / "x.parquet", {"image": pictures}))
    whole, missing, wrong, cut = (result.reject for _, result in decoded(source, to_uint8))
    assert (whole, missing, cut) == ("", "empty", "truncated")
    assert wrong in ("unreadable", "unsupported_format")


# --- tar -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ({"cls": b"7\n"}, "7"),
        ({"cls": b"-1"}, None),
        ({"cls": b"cat"}, "cat"),
        ({"txt": "Kätzchen".encode()}, "Kätzchen"),
        ({"json": b'{"label": 7, "width": 8}'}, "7"),
        ({"json": b'{"cls": "cat"}'}, "cat"),
        ({"json": b'{"width": 8}'}, None),
        ({"json": b"7"}, "7"),
        ({"txt": b"a caption", "cls": b"7"}, "7"),
        ({}, None),
    ],
    ids=str,
)
def test_labels_of_a_tar_file_lie_beside_the_pictures(
    label: dict[str, bytes], expected: str | None, tmp_path: Path
) -> None:
    files = {"a/00.1.png": b"", "a/00.jpg": PICTURES[0]}
    files |= {f"a/00.{ending}": content for ending, content in label.items()}
    (tmp_path / "x.tar").write_bytes(tar(files))
    source = load("tar", tmp_path / "x.tar")
    assert named(source) == [expected]
    assert [item.name for item in source.items] == ["x.tar/a/00.jpg"]
    assert source.notes[-1] == "1 file is left out: a/00.1.png"


def test_pictures_of_a_tar_file_have_any_format_and_dots_in_their_names(tmp_path: Path) -> None:
    bmp, gif = io.BytesIO(), io.BytesIO()
    Image.fromarray(IMAGES[0]).save(bmp, "BMP")
    Image.fromarray(IMAGES[0]).save(gif, "GIF")
    files = {
        "IMG.2023.bmp": bmp.getvalue(),
        "IMG.2024.GIF": gif.getvalue(),
        "IMG.2024.cls": b"cat",
        "IMG.cls": b"dog",
        "1.jpg": PICTURES[1],  # the content tells the format
        "1.png": PICTURES[2],
        "1.txt": b"cat",
        "1.depth.npy": b"",
        "notes": b"",
        "._1.png": b"",  # hidden
    }
    (tmp_path / "x.tar").write_bytes(tar(files))
    source = load("tar", tmp_path / "x.tar")
    assert [item.name for item in source.items] == [
        f"x.tar/{name}" for name in ("IMG.2023.bmp", "IMG.2024.GIF", "1.jpg", "1.png")
    ]
    assert named(source) == ["dog", "cat", "cat", "cat"]
    assert all(item.read().shape[:2] == (8, 8) for item in source.items)
    assert source.notes == (
        "labels are those of the files beside the pictures",
        "2 files are left out, such as 1.depth.npy",
    )


def test_folders_in_a_tar_file_are_classes_and_splits_unless_files_give_labels(
    tmp_path: Path,
) -> None:
    def load_tar(*names: str, **labels: bytes) -> Source:
        files = dict.fromkeys(names, PICTURES[0])
        (tmp_path / "x.tar").write_bytes(tar(files | labels))
        return load("tar", tmp_path / "x.tar")

    source = load_tar("all/cat/1.png", "all/dog/1.png", "all/dog/2.png")
    assert named(source) == ["cat", "dog", "dog"]
    assert source.splits == frozenset()
    assert source.notes == (
        "labels are the names of folders",
        "all/ holds all images, and is no class",
    )
    source = load_tar("train/cat/1.png", "train/dog/1.png", "test/cat/1.png")
    assert named(source) == ["cat", "dog", "cat"]
    assert [item.split for item in source.items] == ["train", "train", "test"]
    assert source.splits == {"train", "test"}
    for source in (load_tar("all/1.png", "all/2.png"), load_tar("1.png", "2.png")):
        assert named(source) == [None, None]
        assert source.notes[0].startswith("no labels: no files of labels beside the pictures")
    assert named(load_tar("cat/1.png", "dog/1.png", **{"dog/1.cls": b"wolf"})) == [None, "wolf"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.json": b"{"}, r": a\.json: not JSON"),
        ({"a.json": b"[" * 90_000}, "not JSON"),
        ({"a.json": b'{"label": [1, 2]}'}, r"Received: \[1, 2\]"),
        ({"a.txt": bytes(200_000)}, "too large for a label"),
        ({"b.png": PICTURES[0], "b.cls": b"cat", "a.json": b"7"}, "numbers and text"),
    ],
)
def test_labels_that_are_none_are_refused(
    files: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    (tmp_path / "x.tar").write_bytes(tar({**files, "a.png": PICTURES[0]}))
    with pytest.raises(DataError, match=message):
        load("tar", tmp_path / "x.tar")


def test_a_tar_file_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar({"a.npy": b"", "a.cls": b"1"}))
    with pytest.raises(DataError, match=r"no images\. Expected files with the endings png"):
        load("tar", tmp_path / "x.tar")


def test_a_tar_file_that_is_damaged_or_compressed_is_refused(tmp_path: Path) -> None:
    """At a damaged header, Python's tarfile ends as at the last member."""
    whole = tar({f"{number}.png": PICTURES[number] for number in range(4)})
    second = whole.index(b"1.png")
    for content in (
        whole[:700],
        whole[:1000],
        whole[:second] + bytes(512) + whole[second + 512 :],
        whole[:second] + b"x" + whole[second + 1 :],
        gzip.compress(whole),
    ):
        (tmp_path / "x.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.tar: not a readable tar file"):
            load("tar", tmp_path / "x.tar")


def test_links_in_a_tar_file_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PICTURES[0])
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(info)
        archive.add(tmp_path / "secret.png", "c.png")
    assert [item.name for item in load("tar", tmp_path / "x.tar").items] == ["x.tar/c.png"]


# --- CSV -----------------------------------------------------------------------------------------


def csv(path: Path, *lines: Any) -> Path:
    path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return path


PIXELS = [*range(0, 250, 16)]  # 16


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ([["label", *(f"pixel{i}" for i in range(16))], [7, *PIXELS], ["", *PIXELS]], ["7", None]),
        ([[*(f"{i}x1" for i in range(16)), "Class"], [*PIXELS, "a"], [*PIXELS, "b"]], ["a", "b"]),
        ([[7, *PIXELS], ["cat", *PIXELS]], ["7", "cat"]),  # without names
        ([range(17), [7, *PIXELS], [3, *PIXELS]], ["7", "3"]),  # of pandas
        ([PIXELS, PIXELS], [None, None]),
        ([[f"pixel{i}" for i in range(16)], PIXELS, PIXELS], [None, None]),
    ],
    ids=["kaggle", "label last", "no names", "numbers", "no names or labels", "no labels"],
)
def test_rows_of_pixels_are_images(
    lines: list[Any], labels: list[str | None], tmp_path: Path
) -> None:
    source = load("csv", csv(tmp_path / "x.csv", *lines))
    assert named(source) == labels
    for item in source.items:
        assert item.read().ravel().tolist() == PIXELS
        assert item.read().shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([["label", *(f"p{i}" for i in range(15))], [1, *PIXELS[1:]]], "Received: 15 columns"),
        (
            [["label", *(f"p{i}" for i in range(16))], ["a", *PIXELS[1:], "x"]],
            "a pixel in row 0 is no number",
        ),
        ([["label", "pixels"], [1, "0 0 0 0"]], "Received: 1 columns for pixels, of label, pixels"),
        ([["file_name", "label"], ["a.png", 1]], "Name it labels.csv and put it beside them"),
        ([[1, *PIXELS], [*range(30)]], "row 1 has 30 values. Expected 17"),
        ([[1, *PIXELS], [1, *PIXELS[1:]]], "row 1 has 16 values. Expected 17"),
        ([[1, *PIXELS], ["a" * 200_000, *PIXELS]], "not a readable CSV file: field larger than"),
        ([["label", *(f"p{i}" for i in range(16))], ['"', *PIXELS]], "row 0 has 1 values"),
    ],
)
def test_csv_without_images_is_refused(
    lines: list[list[Any]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as error:
        list(load("csv", csv(tmp_path / "x.csv", *lines)).items)
    assert "\n" not in str(error.value)


def test_a_csv_file_that_names_pictures_gives_the_labels_of_an_image_folder(tmp_path: Path) -> None:
    for row in range(4):
        (tmp_path / f"{row}.png").write_bytes(PICTURES[row])
    file = csv(tmp_path / "mine.csv", ["path", "label"], *([f"{i}.png", i % 2] for i in range(4)))
    with pytest.raises(DataError) as error:
        load("csv", file)
    (name, kind) = re.findall(r"Name it (\S+) and .+ dataset\.kind to (\w+)", str(error.value))[0]
    file.rename(tmp_path / name)
    assert named(load(kind, tmp_path)) == ["0", "1", "0", "1"]


@pytest.mark.parametrize("move", [True, False])
def test_a_csv_file_without_images_in_a_folder_is_moved_or_another_is_named(
    move: bool, tmp_path: Path
) -> None:
    """Kaggle's folders hold an example of the answers beside the images."""
    names = ["label", *(f"pixel{i}" for i in range(16))]
    file = csv(tmp_path / "train.csv", names, [7, *PIXELS])
    example = csv(tmp_path / "sample_submission.csv", ["ImageId", "Label"], [1, 0])
    cure = r"sample_submission\.csv: .* Move it out of the folder, or set dataset\.path to one file"
    with pytest.raises(DataError, match=cure):
        load("csv", tmp_path)
    if move:
        example.unlink()
    assert named(load("csv", tmp_path if move else file)) == ["7"]


def test_a_row_that_lacks_a_pixel_is_rejected(tmp_path: Path) -> None:
    source = load("csv", csv(tmp_path / "x.csv", [1, *PIXELS], [2, "", *PIXELS[1:]], [3, *PIXELS]))
    results = decoded(source, lambda image: image.astype(np.uint8))
    assert [result.reject for _, result in results] == ["", "not_finite", ""]


def test_csv_files_of_other_sizes_are_refused(tmp_path: Path) -> None:
    csv(tmp_path / "train.csv", [1, *PIXELS])
    csv(tmp_path / "test.csv", [1, *PIXELS[:9]])
    with pytest.raises(DataError, match=r"train\.csv: expected 9 pixels as in .*test\.csv"):
        load("csv", tmp_path)


# --- HDF5 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [h5py.string_dtype(), h5py.string_dtype(length=9), np.dtype("S9")], ids=str
)
def test_labels_of_an_hdf5_file_may_be_text(text: Any, tmp_path: Path) -> None:
    names = ["Zwölf", "b", "", "Zwölf"]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = IMAGES[:4]
        file["y"] = np.array([name.encode() for name in names], dtype=text)
    assert named(load("hdf5", tmp_path / "x.h5")) == ["Zwölf", "b", None, "Zwölf"]


def test_what_lies_outside_an_hdf5_file_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(640))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = IMAGES[:4]
    path = tmp_path / "x.h5"
    for make in (
        lambda file: file.__setitem__("x", h5py.ExternalLink("other.h5", "x")),
        lambda file: file.__setitem__("x", h5py.SoftLink("/y")),
        lambda file: file.create_dataset("x", (10, 8, 8), "u1", external=[(str(secret), 0, 640)]),
        lambda file: file.create_virtual_dataset("x", layout(tmp_path / "other.h5")),
    ):
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(DataError, match=r"lies in other files|expected an array called"):
            load("hdf5", path)


def layout(other: Path) -> h5py.VirtualLayout:
    virtual = h5py.VirtualLayout((4, 8, 8), "u1")
    virtual[:] = h5py.VirtualSource(str(other), "x", (4, 8, 8))
    return virtual


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.uint8(3), r"expected an array \[N, …\]"),
        (np.array([b"ab", b"c"], h5py.string_dtype()), "expected images of integers, floats"),
        (np.zeros(3, [("a", "u1")]), "expected images of integers, floats or bool"),
        (h5py.Empty("u1"), r"expected an array \[N, …\]. Received: uint8 of shape None"),
        (np.zeros((3, 8, 8), bool), None),
    ],
    ids=["scalar", "texts", "records", "empty", "bool"],
)
def test_hdf5_without_images_is_refused(value: Any, message: str | None, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = value
    if message is None:
        assert load("hdf5", tmp_path / "x.h5").dtypes == ("bool",)
        return
    with pytest.raises(DataError, match=message):
        load("hdf5", tmp_path / "x.h5")
