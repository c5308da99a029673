"""Image folders as people have them: their formats, classes, splits, files of labels and links."""

import importlib.util
import io
import os
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from checkouts import ROOT
from latentworks.datasets import image_folder
from latentworks.datasets.image_folder import read_image
from latentworks.datasets.links import Links
from latentworks.datasets.rejects import REASONS, sentence
from latentworks.datasets.source import FirstFrame, Reject, Source
from latentworks.errors import DataError

RED = Image.new("RGB", (6, 4), (255, 0, 0))
BLUE = Image.new("RGB", (6, 4), (0, 0, 255))


def saved(path: Path, picture: Image.Image = RED, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)  # type: ignore[arg-type]
    return path


def folder_of(folder: Path, *names: str) -> Path:
    """Write a picture of each name."""
    content = saved(folder / "picture.png").read_bytes()
    (folder / "picture.png").unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pixels(path: Path) -> np.ndarray:
    image = read_image(Links.of(path.parent), path.name)
    assert isinstance(image, np.ndarray)
    return image


def code(path: Path) -> str:
    with pytest.raises(Reject) as reject:
        read_image(Links.of(path.parent), path.name)
    return reject.value.code


def labels(source: Source) -> dict[str, str | None]:
    """The class of each item, by name."""
    return {
        item.name: None if item.label is None else source.class_names[item.label]
        for item in source.items
    }


def splits(source: Source) -> dict[str, str | None]:
    return {item.name: item.split for item in source.items}


def rejects(source: Source) -> dict[str, str]:
    """The code of each item that is rejected."""
    found = {}
    for item in source.items:
        try:
            item.read()
        except Reject as reject:
            found[item.name] = reject.code
    return found


# --- classes -------------------------------------------------------------------------------------


def test_sub_folders_become_classes_and_items_are_sorted_by_name(tmp_path: Path) -> None:
    folder_of(tmp_path, "zebra/b.png", "ant/deep/er/c.jpg", "ant/A.PNG", "loose.webp")
    folder_of(tmp_path, ".hidden.png", ".thumbnails/a.png")
    (tmp_path / "paper.pdf").write_text("not an image")
    source = image_folder.load(tmp_path)
    assert source.class_names == ("ant", "zebra")
    assert [(item.name, item.label) for item in source.items] == [
        ("ant/A.PNG", 0),
        ("ant/deep/er/c.jpg", 0),
        ("loose.webp", None),
        ("paper.pdf", None),
        ("zebra/b.png", 1),
    ]
    assert source.num_items == 5
    assert source.notes == ("2 classes: ant, zebra",)


def test_a_folder_that_holds_all_images_is_looked_through(tmp_path: Path) -> None:
    folder_of(tmp_path, "pets/images/cat/1.png", "pets/images/dog/1.png")
    (tmp_path / "pets/readme.md").write_text("About pets")
    (tmp_path / "pets.zip").write_bytes(b"PK\3\4")
    source = image_folder.load(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.notes == (
        "pets/images/ holds all images, and is no class",
        "2 classes: cat, dog",
    )
    assert rejects(source) == {"pets.zip": "archive"}


def test_images_in_a_single_folder_have_no_labels(tmp_path: Path) -> None:
    source = image_folder.load(folder_of(tmp_path, "photos/1.png", "photos/2.png"))
    assert source.class_names == ()
    assert labels(source) == {"photos/1.png": None, "photos/2.png": None}
    assert source.notes == ("photos/ holds all images, and is no class",)


def test_the_first_level_that_branches_names_the_classes(tmp_path: Path) -> None:
    folder_of(tmp_path, "all/cat/siam/2024/1.png", "all/cat/2.png", "all/dog/pug/1.png")
    assert labels(image_folder.load(tmp_path)) == {
        "all/cat/2.png": "cat",
        "all/cat/siam/2024/1.png": "cat",
        "all/dog/pug/1.png": "dog",
    }


def test_files_that_systems_leave_behind_are_ignored(tmp_path: Path) -> None:
    folder_of(tmp_path, "imgs/cat/1.png", "imgs/dog/1.png", "__MACOSX/imgs/cat/._1.png")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "imgs" / name).write_text("of the system")
    source = image_folder.load(tmp_path)
    assert labels(source) == {"imgs/cat/1.png": "cat", "imgs/dog/1.png": "dog"}


def test_an_empty_class_folder_is_named_and_is_no_class(tmp_path: Path) -> None:
    folder_of(tmp_path, "cat/deep/1.png", "dog/1.png")
    for name in ("later", "notes", "cat/empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes/readme.txt").write_text("Photos will follow")
    source = image_folder.load(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.notes == ("later/ and notes/ hold no images", "2 classes: cat, dog")


def test_texts_are_ignored_and_other_files_are_rejected(tmp_path: Path) -> None:
    folder_of(tmp_path, "1.png")
    for name in ("a.txt", "B.MD", "c.json", "d.csv", "e.xml", "f.yaml", "g.py", "h.html"):
        (tmp_path / name).write_text("text")
    for name in ("x.psd", "y", "z.png"):
        (tmp_path / name).write_text("no picture")
    source = image_folder.load(tmp_path)
    expected = {"x.psd": "unsupported_format", "y": "unsupported_format", "z.png": "unreadable"}
    assert rejects(source) == expected
    assert source.num_items == 4


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("notes.txt", ""),
        ("deep/train.csv", " Set dataset.kind to csv."),
        ("train.parquet", " Set dataset.kind to parquet."),
        ("x.npz", " Set dataset.kind to npz and dataset.path to "),
    ],
)
def test_a_folder_without_images_is_refused_with_what_it_holds(
    name: str, cure: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("label,pixel0\n0,255\n")
    with pytest.raises(DataError, match="has no images") as error:
        image_folder.load(tmp_path)
    assert f"Received: {name}.{cure}" in str(error.value)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("photos.zip", r"Unpack the archive, .* this gives\.$"),
        ("photos.tar.gz", r"Unpack the archive, .* this gives\.$"),
        ("photos.tar", r"Unpack the archive, .* this gives, or set dataset.kind to tar\.$"),
        ("photos.npz", r"Unpack the archive, .* this gives, or set dataset.kind to npz\.$"),
        ("photos.csv", r"Correct dataset.path, or set dataset.kind to csv\.$"),
        ("photos.png", r"Expected a folder of images. Correct dataset.path\.$"),
    ],
)
def test_a_file_in_place_of_the_folder_is_refused_with_the_cure(
    name: str, cure: str, tmp_path: Path
) -> None:
    starts = {".png": b"\x89PNG", ".gz": b"\x1f\x8b", ".csv": b"label"}
    start = starts.get(Path(name).suffix, b"PK\3\4")
    (tmp_path / name).write_bytes(start + bytes(600))
    with pytest.raises(DataError, match=cure) as error:
        image_folder.load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_file_name_that_is_not_utf8_gives_a_printable_item_name(tmp_path: Path) -> None:
    raw_name = os.fsdecode(b"caf\xe9.png")
    folder_of(tmp_path, raw_name, "plain.png")
    items = {item.name: item for item in image_folder.load(tmp_path).items}
    assert items["caf\\xe9.png"].read().shape == (4, 6, 3)


def test_notes_are_printable_whatever_folders_are_called(tmp_path: Path) -> None:
    names = [f"{number} \n\x1b[31m{'long' * 50}" for number in range(12)]
    source = image_folder.load(folder_of(tmp_path, *(f"{name}/1.png" for name in names)))
    (note,) = source.notes
    assert note.isprintable()
    assert note.startswith("12 classes: ")
    assert note.endswith(" and 2 more")


# --- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "valid", "TEST"), ("TRAIN", "Validation", "testing")],
)
def test_folders_named_after_splits_are_splits(
    train: str, val: str, test: str, tmp_path: Path
) -> None:
    names = [f"{train}/cat/1.png", f"{train}/dog/2.png", f"{val}/cat/3.png", f"{test}/eel/4.png"]
    source = image_folder.load(folder_of(tmp_path / "pets", *names))
    assert splits(source) == dict(zip(names, ["train", "train", "val", "test"], strict=True))
    assert list(labels(source).values()).count("cat") == 2
    assert source.class_names == ("cat", "dog", "eel")
    assert source.splits == {"train", "val", "test"}
    assert source.notes == (
        f"{train}/, {val}/ and {test}/ are taken as splits",
        "3 classes: cat, dog, eel",
    )


def test_splits_may_lie_in_a_folder_and_hold_images_without_classes(tmp_path: Path) -> None:
    folder_of(tmp_path, "data/train/1.png", "data/train/2.png", "data/dev/3.png")
    (tmp_path / "data/test").mkdir()
    source = image_folder.load(tmp_path)
    assert set(splits(source).values()) == {"train", "val"}
    assert source.class_names == ()
    assert source.notes == (
        "data/ holds all images, and is no class",
        "train/ and dev/ are taken as splits",
        "data/test/ holds no images",
    )


def test_a_folder_inside_every_split_is_looked_through(tmp_path: Path) -> None:
    folder_of(tmp_path, "train/images/1.png", "train/images/2.png", "valid/images/3.png")
    source = image_folder.load(tmp_path)
    assert source.class_names == ()
    assert "images/ holds all images of each split, and is no class" in source.notes


def test_a_split_that_was_unpacked_into_itself_is_one_split(tmp_path: Path) -> None:
    folder_of(tmp_path, "train/train/cat/1.png", "train/train/dog/2.png", "test/test/3.png")
    source = image_folder.load(tmp_path)
    assert labels(source) == {
        "test/test/3.png": None,
        "train/train/cat/1.png": "cat",
        "train/train/dog/2.png": "dog",
    }
    assert set(splits(source).values()) == {"train", "test"}


@pytest.mark.parametrize("folders", [["train", "val", "extra"], ["test", "val"]])
def test_names_of_splits_are_classes_beside_others_or_without_train(
    folders: list[str], tmp_path: Path
) -> None:
    source = image_folder.load(folder_of(tmp_path, *(f"{name}/1.png" for name in folders)))
    assert source.class_names == tuple(sorted(folders))
    assert set(splits(source).values()) == {None}


# --- files of labels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file_name,label\n1.png,cat\n2.png,dog\n"),
        ("metadata.csv", "\ufeffFile Name;Class;x\r\n1.png;cat;7\r\n2.png;dog;8\r\n"),
        ("metadata.jsonl", '{"file_name": "1.png", "label": "cat"}\n{"image": "", "id": 2}\n'),
        ("labels.csv", "id\tbreed\n1\tcat\n2\tdog\n"),
        ("labels.csv", ",id,breed\n0,1,cat\n1,2,dog\n"),
        ("Labels.CSV", 'path,category\n"./1.png","cat"\nsub/../2.png,dog\n'),
    ],
)
def test_a_file_of_labels_beside_the_images_gives_classes(
    name: str, content: str, tmp_path: Path
) -> None:
    folder_of(tmp_path, "1.png", "2.png")
    (tmp_path / name).write_text(content)
    source = image_folder.load(tmp_path)
    expected = {"1.png": "cat", "2.png": None if "jsonl" in name else "dog"}
    assert labels(source) == expected
    assert source.notes[0] == f"labels are those of {name}"


def test_labels_that_are_numbers_are_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    folder_of(tmp_path, "a.png", "b.png", "c.png")
    rows = [("a", 10), ("b", 9.0), ("c", -1)]
    lines = [f'{{"file_name": "{name}.png", "label": {label}}}' for name, label in rows]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = image_folder.load(tmp_path)
    assert source.class_names == ("-1", "9", "10")
    assert [item.label for item in source.items] == [2, 1, 0]


def test_labels_and_names_that_are_not_unicode_are_escaped(tmp_path: Path) -> None:
    folder_of(tmp_path, "1.png")
    lines = ['{"id": 1, "label": "\\ud800"}', '{"id": "\\ud800.png", "label": "b"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = image_folder.load(tmp_path)
    assert source.class_names == ("\\ud800",)
    assert rejects(source) == {"\\ud800.png": "missing"}


def test_labels_of_a_file_replace_those_of_folders(tmp_path: Path) -> None:
    folder_of(tmp_path, "monday/1.png", "tuesday/2.png", "tuesday/3.png")
    (tmp_path / "labels.csv").write_text("image,label\n1.png,cat\ntuesday/2,dog\n")
    source = image_folder.load(tmp_path)
    assert labels(source) == {"monday/1.png": "cat", "tuesday/2.png": "dog", "tuesday/3.png": None}
    assert source.notes == (
        "labels are those of labels.csv",
        "1 image has no label in labels.csv: tuesday/3.png",
        "2 classes: cat, dog",
    )


def test_each_split_may_have_a_file_of_labels(tmp_path: Path) -> None:
    folder_of(tmp_path, "train/1.png", "train/2.png", "test/1.png")
    (tmp_path / "train/metadata.csv").write_text("file_name,label\n1.png,cat\n2.png,dog\n")
    (tmp_path / "test/metadata.csv").write_text("file_name,label\n1.png,dog\n")
    source = image_folder.load(tmp_path)
    assert labels(source) == {"test/1.png": "dog", "train/1.png": "cat", "train/2.png": "dog"}
    assert set(splits(source).values()) == {"train", "test"}


def test_a_column_gives_splits(tmp_path: Path) -> None:
    folder_of(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png")
    rows = ["file_name,split", "cat/1.png,Training", "cat/2.png,valid", "dog/3.png,test", "4.png,"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    source = image_folder.load(tmp_path)
    assert list(splits(source).values()) == ["train", "val", "test", "train"]
    assert source.splits == {"train", "val", "test"}
    assert source.class_names == ("cat", "dog")
    assert source.notes[0] == "splits are those of metadata.csv"


def test_a_file_that_is_named_and_missing_is_rejected(tmp_path: Path) -> None:
    folder_of(tmp_path, "in/1.png")
    rows = ["file_name,label", "1.png,cat", "2.png,dog", "2.png,dog", "../../etc/passwd,dog"]
    (tmp_path / "in/metadata.csv").write_text("\n".join(rows))
    source = image_folder.load(tmp_path)
    assert rejects(source) == {"in/2.png": "missing", "in/../../etc/passwd": "missing"}
    assert source.num_items == len(list(source.items)) == 3
    assert source.class_names == ("cat",)


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("labels.csv", "class_id,name\n0,cat\n", "labels.csv is not used: it has no column of fil"),
        ("labels.csv", "id,name\n0,cat\n7,dog\n", "labels.csv is not used: it names none of the"),
        ("labels.csv", "", "labels.csv is not used: it has no column of files"),
        ("metadata.csv", "file_name,text\n1.png,A cat\n", "metadata.csv has no column of labels"),
        ("metadata.csv", ",file_name\n0,1.png\n", "metadata.csv has no column of labels"),
    ],
)
def test_a_file_without_labels_of_these_images_is_not_used(
    name: str, content: str, note: str, tmp_path: Path
) -> None:
    folder_of(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / name).write_text(content)
    source = image_folder.load(tmp_path)
    assert source.class_names == ("a", "b")
    assert source.notes[0].startswith(note)
    assert source.num_items == 2


def test_a_file_of_labels_that_is_a_link_out_of_the_folder_or_a_pipe_is_not_read(
    tmp_path: Path,
) -> None:
    folder = folder_of(tmp_path / "photos", "1.png")
    (tmp_path / "private.csv").write_text("id,label\n1,secret\n")
    (folder / "labels.csv").symlink_to(tmp_path / "private.csv")
    os.mkfifo(folder / "metadata.csv")
    assert image_folder.load(folder).class_names == ()


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("labels.csv", "id,label\n1,cat\n1.png,dog\n", "line 3: 1.png has the labels 'cat' and 'd"),
        (
            "labels.csv",
            "id,split\n1,train\n1.png,test\n",
            "line 3: 1.png has the splits train and te",
        ),
        ("labels.csv", "id,split\n1,future\n", "line 2: split should be one of: train, training, "),
        ("labels.csv", "id,label\ntwin,cat\n", "line 2: twin is a/twin.png or b/twin.png. Write"),
        ("labels.csv", b"id,label\n1,\xff\n", "not UTF-8 text. Save it as UTF-8"),
        ("labels.csv", f"id,label\n1,{'x' * 200_000}\n", "not a CSV file: field larger"),
        ("metadata.jsonl", "{}\n[1]\n", "line 2: expected an object. Received: "),
        ("metadata.jsonl", "{}\n{\n", "line 2: not JSON"),
        ("metadata.jsonl", "[" * 100_000, "line 1: not JSON"),
        (
            "metadata.jsonl",
            '{"file_name": "1.png", "label": [0, 1]}',
            r"line 1: expected a text or a number. Received: \[0, 1\]",
        ),
    ],
)
def test_a_fault_in_a_file_of_labels_is_named_with_its_line(
    name: str, content: str | bytes, fault: str, tmp_path: Path
) -> None:
    folder_of(tmp_path, "1.png", "a/twin.png", "b/twin.png")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=fault) as error:
        image_folder.load(tmp_path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


# --- formats -------------------------------------------------------------------------------------

GREY_16 = (np.arange(24, dtype=np.uint16) * 2800).reshape(4, 6)


@pytest.mark.parametrize(
    ("picture", "options", "pixel"),
    [
        (Image.new("1", (6, 4), 1), {}, [255]),
        (Image.new("L", (6, 4), 77), {}, [77]),
        (Image.new("L", (6, 4), 77), {"transparency": 77}, [77, 0]),
        (Image.new("LA", (6, 4), (77, 9)), {}, [77, 9]),
        (Image.new("RGB", (6, 4), (1, 2, 3)), {"transparency": (1, 2, 3)}, [1, 2, 3, 0]),
        (Image.new("RGBA", (6, 4), (1, 2, 3, 4)), {}, [1, 2, 3, 4]),
        (RED.convert("P"), {}, [255, 0, 0]),
        (RED.convert("P", palette=Image.Palette.ADAPTIVE), {"transparency": 0}, [255, 0, 0, 0]),
        (Image.fromarray(GREY_16 * 0 + 40000), {}, [40000]),
    ],
)
def test_png_images_of_every_mode_are_read(
    picture: Image.Image, options: dict[str, object], pixel: list[int], tmp_path: Path
) -> None:
    image = pixels(saved(tmp_path / "a.png", picture, **options))
    assert image.shape == (4, 6, len(pixel))
    assert image[0, 0].tolist() == pixel


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_images_keep_their_values(name: str, tmp_path: Path) -> None:
    image = pixels(saved(tmp_path / name, Image.fromarray(GREY_16)))
    np.testing.assert_array_equal(image[..., 0], GREY_16)


def test_a_big_endian_16_bit_tiff_keeps_its_values(tmp_path: Path) -> None:
    """Microscopes and scanners write it; Pillow does not."""
    tags = [(256, 6), (257, 4), (258, 16), (259, 1), (262, 1), (273, 122), (278, 4), (279, 48)]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)
    path = tmp_path / "a.tiff"
    path.write_bytes(head.ljust(122, b"\0") + GREY_16.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels(path)[..., 0], GREY_16)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("name", ["a", "a.jpg", "a.data"])
def test_the_content_tells_the_format_and_not_the_name(
    kind: str, name: str, tmp_path: Path
) -> None:
    image = pixels(saved(tmp_path / name, RED, format=kind))
    assert image.shape == (4, 6, 3)
    assert image[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.JPG", "JPEG"), ("a.jfif", "JPEG"), ("a.webp", "WEBP"), ("a.avif", "AVIF")],
)
def test_lossy_formats_are_read(name: str, kind: str, tmp_path: Path) -> None:
    image = pixels(saved(tmp_path / name, RED, format=kind, quality=100))
    assert np.abs(image[0, 0].astype(int) - [255, 0, 0]).max() <= 5  # of 255: they are lossy


def test_a_cmyk_jpeg_is_read_as_rgb(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", RED.convert("CMYK"), quality=100)
    assert np.abs(pixels(path)[0, 0].astype(int) - [255, 0, 0]).max() <= 5  # JPEG is lossy


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif", "avif"])
def test_exif_rotation_is_applied_once(extension: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation 6: turn by 90 degrees
    assert pixels(saved(tmp_path / f"a.{extension}", RED, exif=exif)).shape == (6, 4, 3)


def test_a_photo_with_a_preview_image_does_not_count_as_animated(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    RED.save(path, format="MPO", save_all=True, append_images=[RED.resize((3, 2))])
    assert pixels(path).shape == (4, 6, 3)


@pytest.mark.parametrize("extension", ["png", "webp", "avif"])
def test_an_animated_image_is_rejected(extension: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a.{extension}", RED, save_all=True, append_images=[BLUE])
    assert code(path) == "animated"


@pytest.mark.parametrize("extension", ["gif", "tif"])
def test_the_first_frame_or_page_of_several_is_taken(extension: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a.{extension}", RED, save_all=True, append_images=[BLUE])
    image = read_image(Links.of(tmp_path), path.name)
    assert isinstance(image, FirstFrame)
    assert image.image[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_images_of_32_bits_are_rejected_since_their_range_is_unknown(
    dtype: type, tmp_path: Path
) -> None:
    assert code(saved(tmp_path / "a.tif", Image.fromarray(GREY_16.astype(dtype)))) == "too_deep"


HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None


@pytest.mark.skipif(not HAS_HEIF, reason="needs the extra heic")
def test_heic_is_read_with_its_package(tmp_path: Path) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    image = pixels(saved(tmp_path / "a.heic", RED.resize((64, 32)), quality=100))
    assert image.shape == (32, 64, 3)
    assert np.abs(image[0, 0].astype(int) - [255, 0, 0]).max() <= 5  # HEIC is lossy


@pytest.mark.skipif(HAS_HEIF, reason="needs an environment without the extra heic")
def test_heic_is_rejected_without_its_package(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    assert code(tmp_path / "a.heic") == "heic"


# --- rejects -------------------------------------------------------------------------------------


def zip_archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.png", b"picture")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n", "lfs_pointer"),
        (b"<!DOCTYPE html><title>403</title>", "html"),
        (b"\n  <!-- cached -->\n<HTML lang='en'><body>Log in</body></html>", "html"),
        (zip_archive(), "archive"),
        (b"x".ljust(257, b"\0") + b"ustar".ljust(255, b"\0"), "archive"),
        (bytes(128) + b"DICM" + bytes(100), "dicom"),
        (b"\0\0\0\x14ftypisom\0\0\0\0mp42", "unreadable"),  # a film
        (b"", "empty"),
    ],
)
def test_files_that_are_often_in_place_of_pictures_are_told_apart(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    assert code(tmp_path / "a.jpg") == expected
    assert expected in REASONS


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_a_truncated_image_is_rejected(extension: str, kept: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(noise))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    expected = {"truncated", "unreadable"} if extension == "tif" else {"truncated"}
    assert code(path) in expected


@pytest.mark.parametrize("cut", range(1, 70))
def test_a_png_without_its_end_is_rejected(cut: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    whole = path.read_bytes()
    kept = whole[:-cut]
    path.write_bytes(kept)
    # The checksum of the last chunk, of no data, counts for nothing.
    if cut <= 4:
        assert pixels(path).shape == (4, 6, 3)
    else:
        assert code(path) in ("truncated", "unreadable", "empty")


def test_a_png_with_a_wrong_checksum_is_rejected(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    whole = path.read_bytes()
    place = whole.index(b"IDAT") + struct.unpack_from(">I", whole, whole.index(b"IDAT") - 4)[0] + 4
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert code(path) == "unreadable"


def test_unreadable_files_are_rejected(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.png"
    garbage.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing that makes sense")
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path in (garbage, pipe):
        assert code(path) == "unreadable"


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + checksum


@pytest.mark.parametrize("side", [7100, 10_000, 50_000])  # below, at and above Pillow's own limits
def test_an_oversized_png_is_rejected_by_its_header(side: int, tmp_path: Path) -> None:
    picture = tmp_path / "bomb.png"
    image_data = struct.pack(">I", 9) + b"IDAT" + bytes(9) + struct.pack(">I", 0)
    picture.write_bytes(png_header(side, side) + image_data)
    assert code(picture) == "too_large"


def test_an_oversized_gif_bmp_or_tiff_is_rejected_by_its_header(tmp_path: Path) -> None:
    side = 8000
    gif = b"GIF89a" + struct.pack("<HH", side, side) + b"\0\0\0,\0\0\0\0"
    gif += struct.pack("<HH", side, side) + b"\0\2\2\x44\1\0;"
    head = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 0, 0, 0, 0, 0, 0)
    bmp = b"BM" + struct.pack("<IHHI", 2000, 0, 0, 1078) + head + bytes(1024 + 100)
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (278, side), (279, 9)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    for content in (gif, bmp, tiff):
        (tmp_path / "bomb").write_bytes(content)
        assert code(tmp_path / "bomb") == "too_large"


def test_reading_an_image_emits_no_pillow_warning(tmp_path: Path) -> None:
    picture = Image.new("P", (6, 4))
    path = saved(tmp_path / "a.png", picture, transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(path).shape == (4, 6, 4)


def test_every_reject_has_its_words_and_its_row_in_the_docs() -> None:
    files = (ROOT / "src/latentworks/datasets").glob("*.py")
    raised = {
        name for file in files for name in re.findall(r'Reject\(.*?"(\w+)"', file.read_text())
    }
    assert raised <= set(REASONS)
    text = (ROOT / "docs/image-folders.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", text, flags=re.MULTILINE)
    for reason in REASONS.values():
        assert not reason.cure.endswith(".")
    assert [name for name, *_ in rows] == sorted(REASONS)
    for name, meaning, cure in rows:
        assert REASONS[name].one.endswith(meaning), name
        assert cure == REASONS[name].cure, name


def test_a_sentence_names_one_file_and_stays_short() -> None:
    assert sentence("truncated", ["cats/12.jpg"]) == "1 image is truncated: cats/12.jpg"
    many = ["deep/" * 100 + "a\n.png"] * 1200
    said = sentence("html", many)
    assert said.startswith("1,200 images are web pages in place of pictures, such as …")
    assert said.endswith(r"/a\n.png")
    assert len(said) < 200


# --- links ---------------------------------------------------------------------------------------


def test_links_out_of_the_image_folder_are_rejected(tmp_path: Path) -> None:
    outside = saved(tmp_path / "outside/a.png")
    inside = saved(tmp_path / "images/a.png")
    (tmp_path / "images/out.png").symlink_to(outside)
    (tmp_path / "images/in.png").symlink_to(inside)
    (tmp_path / "images/folder").symlink_to(outside.parent)
    assert code(tmp_path / "images/out.png") == "link_outside"
    assert code(tmp_path / "images/folder") == "link_outside"
    assert pixels(tmp_path / "images/in.png").shape == (4, 6, 3)
    names = [item.name for item in image_folder.load(tmp_path / "images").items]
    assert names == ["a.png", "folder", "in.png", "out.png"]


def test_class_folders_that_are_links_within_the_folder_are_read(tmp_path: Path) -> None:
    folder_of(tmp_path, ".store/7f/1.png", ".store/8a/2.png")
    (tmp_path / "cat").symlink_to(".store/7f")
    (tmp_path / "dog").symlink_to(tmp_path / ".store/8a")
    source = image_folder.load(tmp_path)
    assert labels(source) == {"cat/1.png": "cat", "dog/2.png": "dog"}
    assert rejects(source) == {}


def test_links_that_lead_around_themselves_end(tmp_path: Path) -> None:
    folder_of(tmp_path, "cat/1.png", "dog/2.png")
    (tmp_path / "cat/up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "dog/cats").symlink_to(tmp_path / "cat")
    names = [item.name for item in image_folder.load(tmp_path).items]
    assert names == ["cat/1.png", "cat/up", "dog/2.png", "dog/cats/1.png", "dog/cats/up", "self"]
    assert set(rejects(image_folder.load(tmp_path)).values()) == {"unreadable", "broken_link"}


def test_links_inside_links_are_not_followed(tmp_path: Path) -> None:
    """Each of these folders would double the number of files."""
    for number in range(14):
        (tmp_path / f"{number}").mkdir()
        for name in ("a", "b"):
            (tmp_path / f"{number}/{name}").symlink_to(tmp_path / f"{number + 1}")
    folder_of(tmp_path, "14/1.png")
    assert image_folder.load(tmp_path).num_items < 100


def test_links_into_the_objects_of_git_annex_are_read(tmp_path: Path) -> None:
    key = "SHA256E-s75--2f/SHA256E-s75--2f.png"
    saved(tmp_path / ".git/annex/objects/4v/Mk" / key)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, target in (("here.png", key), ("dropped.png", key.replace("2f", "3a"))):
        (folder / name).symlink_to(f"../.git/annex/objects/4v/Mk/{target}")
    saved(tmp_path / ".git/secret.png")
    (folder / "secret.png").symlink_to("../.git/secret.png")
    source = image_folder.load(folder)
    assert rejects(source) == {"dropped.png": "broken_link", "secret.png": "link_outside"}


OBJECT = f"files/md5/ab/{'0' * 30}"


@pytest.mark.parametrize("cache", ["repository/.dvc/cache", "shared"])
@pytest.mark.parametrize("settings", ["config", "config.local"])
def test_links_into_the_cache_of_dvc_are_read(cache: str, settings: str, tmp_path: Path) -> None:
    folder = tmp_path / "repository/photos"
    folder.mkdir(parents=True)
    dvc = tmp_path / "repository/.dvc"
    dvc.mkdir()
    (dvc / settings).write_text("[core]\n    remote = x%y\n[cache]\n    dir = ../../shared\n")
    saved(tmp_path / cache / OBJECT, format="PNG")
    saved(tmp_path / cache / "secret.png")
    (folder / "a.png").symlink_to(tmp_path / cache / OBJECT)
    (folder / "b.png").symlink_to(tmp_path / cache / "secret.png")
    assert rejects(image_folder.load(folder)) == {"b.png": "link_outside"}


def test_the_settings_of_dvc_in_a_downloaded_folder_allow_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "download"
    saved(tmp_path / "private" / OBJECT, format="PNG")
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[cache]\n    dir = ../../private\n")
    (folder / "a.png").symlink_to(tmp_path / "private" / OBJECT)
    assert code(folder / "a.png") == "link_outside"


@pytest.mark.parametrize("text", ["no settings", "[cache]\ndir = \n", b"\xff\xfe"])
def test_damaged_settings_of_dvc_are_ignored(text: Any, tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert Links.of(tmp_path / "photos").caches == (str(tmp_path / ".dvc/cache"),)
