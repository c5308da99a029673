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
from latentworks.datasets.arrays import MAX_CLASSES
from latentworks.datasets.decoding import CHUNK_ITEMS, CHUNKS_PER_WORKER, decoded
from latentworks.datasets.source import MAX_PIXELS, Item, Source, Split
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
        ({"images": IMAGES}, "expected an array called x_train or x. Received: images"),
        ({"x": np.full((3, 8, 8), np.nan)}, "numbers that are not finite"),
        ({"x": IMAGES.astype(int) - 256}, "int64 from -256 to -1. Scale them to 0 to 255"),
        (
            {"x": IMAGES.astype(int) * 16},
            "from 0 to 4080. If their range is 0 to 65535, save",
        ),
        ({"x": IMAGES * 1e3}, "float64 from 0 to 255000. Scale them to 0 to 255"),
        ({"x": IMAGES > 0}, "Received: bool"),
        ({"x": IMAGES[0]}, r"expected images \[N, height, width\].* Received shape: \(8, 8\)"),
        ({"x": IMAGES[:, None, None]}, r"Received shape: \(1797, 1, 1, 8, 8\)"),
        ({"x": IMAGES.reshape(-1, 1, 8, 8)}, r"1 to 4 channels. Received shape: \(1797, 1, 8, 8\)"),
        ({"x": IMAGES[:0]}, r"Received shape: \(0, 8, 8\)"),
        ({"x": np.uint8(3)}, r"Received shape: \(\)"),
        ({"x": IMAGES.T.copy().T}, "Received: Fortran order. Save `np.ascontiguousarray"),
        ({"x": np.array([None, "a"])}, "Python objects, which only pickle could read"),
        ({"x": IMAGES, "y": LABELS.astype(float)}, "expected integer labels from 0"),
        ({"x": IMAGES, "y": LABELS.astype(int) - 1}, "Received: -1"),
        ({"x": IMAGES, "y": LABELS.astype(int) * 10**9}, "Received: 9000000000"),
        ({"x": IMAGES, "y": np.ones((1797, 2), int)}, "Save the number of one class for each"),
        ({"x": IMAGES, "y": LABELS + 0.5}, "Save the number of the class of each image"),
        ({"x": IMAGES, "y": LABELS[1:]}, "of the 1797 images .* Received: 1796 labels"),
        ({"x_train": IMAGES, "x_test": IMAGES / 255}, "x_test: expected uint8"),
    ],
)
def test_npz_with_unusable_arrays_is_refused(
    arrays: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message) as error:
        npz.load(save_npz(tmp_path / "wrong.npz", **arrays))
    assert "wrong.npz" in str(error.value)
    assert "\n" not in str(error.value)


# How images and labels are often saved, and what loses nothing of them.
IMAGES_AS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "0 to 1": lambda x: x / 255,
    "0 to 1, float32": lambda x: (x / 255).astype(np.float32),
    "-1 to 1": lambda x: x / 127.5 - 1,
    "0 to 255": lambda x: x.astype(np.float32),
    "int64": lambda x: x.astype(np.int64),
    "uint32": lambda x: x.astype(np.uint32),
    "Fortran order": lambda x: np.asfortranarray(x),
}
LABELS_AS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "floats": lambda y: y.astype(float),
    "one-hot": lambda y: np.eye(10)[y],
    "one-hot, bool": lambda y: np.eye(10, dtype=bool)[y],
    "names": lambda y: np.array([f"class {number}" for number in range(10)])[y],
}


@pytest.mark.parametrize("of_labels", [None, *LABELS_AS])
@pytest.mark.parametrize("of_images", [None, *IMAGES_AS])
def test_what_a_refusal_says_makes_the_array_right(
    of_images: str | None, of_labels: str | None, tmp_path: Path
) -> None:
    arrays = {
        "x": IMAGES_AS[of_images](IMAGES) if of_images else IMAGES,
        "y": LABELS_AS[of_labels](LABELS) if of_labels else LABELS,
    }
    for _ in range(4):
        path = save_npz(tmp_path / "images.npz", **arrays)
        try:
            items = everything(npz.load(path))
            break
        except DataError as error:
            (name,) = re.findall(r"npz: (\w):", str(error))
            (advice,) = re.findall("[Ss]ave `(.+)`", str(error))
            arrays[name] = eval(advice, {"np": np, **arrays})
    else:
        pytest.fail("the advice does not lead to an array that is accepted")
    assert np.array_equal([image[..., 0] for image, _, _ in items], IMAGES)
    assert [label for _, label, _ in items] == LABELS.tolist()


@pytest.mark.parametrize("of_images", [*IMAGES_AS][:-1])
def test_both_splits_are_made_right_by_one_line(of_images: str, tmp_path: Path) -> None:
    """Alone, the images of the second split have another range, and its labels other names."""
    names = np.array(["cat", "dog", "eel"])
    dark, bright = IMAGES[:4] // 2 + 128, IMAGES[4:6]
    arrays = {"x_train": IMAGES_AS[of_images](bright), "x_test": IMAGES_AS[of_images](dark)}
    arrays |= {"y_train": names[[0, 1]], "y_test": names[[1, 2, 1, 1]]}
    for _ in range(2):
        with pytest.raises(DataError) as error:
            npz.load(save_npz(tmp_path / "images.npz", **arrays))
        (advice,) = re.findall("[Ss]ave `(.+)`", str(error.value))
        exec(advice, arrays | {"np": np}, arrays)
        arrays.pop("a", None)
    items = everything(npz.load(save_npz(tmp_path / "images.npz", **arrays)))
    assert np.array_equal([image[..., 0] for image, _, _ in items], [*bright, *dark])
    assert [label for _, label, _ in items] == [0, 1, 1, 2, 1, 1]


# Each form with the range that its message must ask about, if it asks.
FORMS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "uint8": ("", lambda x: x),
    "bool": ("", lambda x: x > 127),
    **{name: (name.partition(",")[0], change) for name, change in IMAGES_AS.items()},
    "int64": ("0 to 255", IMAGES_AS["int64"]),
    "uint32": ("0 to 255", IMAGES_AS["uint32"]),
    "Fortran order": ("", IMAGES_AS["Fortran order"]),
    "int8": ("-128 to 127", lambda x: (x.astype(np.int16) - 128).astype(np.int8)),
    "int64 from -128": ("-128 to 127", lambda x: x.astype(np.int64) - 128),
    "16 bits": ("0 to 65535", lambda x: x.astype(np.int64) * 257),
    "16 bits, floats": ("0 to 65535", lambda x: x * 257.0),
}
CLASSES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "numbers": lambda y: y,
    **LABELS_AS,
    "from -1": lambda y: y.astype(int) - 1,
    "sparse": lambda y: y.astype(int) * 10**6,
}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    splits=st.lists(
        st.tuples(
            st.integers(1, 4).flatmap(
                lambda num: st.tuples(
                    st_numpy.arrays(np.uint8, (num, 2, 3)),
                    st_numpy.arrays(np.int64, num, elements=st.integers(0, 9)),
                )
            )
        ),
        min_size=1,
        max_size=2,
    ),
    of_images=st.sampled_from([*FORMS]),
    of_labels=st.sampled_from([*CLASSES]),
)
def test_any_refusal_says_what_makes_the_arrays_right(
    splits: list[Any], of_images: str, of_labels: str, tmp_path: Path
) -> None:
    """Images of any form, one split or two: pixels and classes are those that were meant."""
    asked, change = FORMS[of_images]
    pixels = [images for ((images, _),) in splits]
    classes = [labels for ((_, labels),) in splits]
    pixels[0][0, 0] = 0, 255, 1  # the whole range, which tells the forms apart
    if of_images == "bool":
        pixels = [np.where(images > 127, 255, 0).astype(np.uint8) for images in pixels]
    ends = ["_train", "_test"] if splits[1:] else [""]
    arrays: dict[str, Any] = {}
    for end, images, labels in zip(ends, pixels, classes, strict=True):
        arrays |= {f"x{end}": change(images), f"y{end}": CLASSES[of_labels](labels)}
    for _ in range(2 * len(arrays) + 1):
        try:
            items = everything(npz.load(save_npz(tmp_path / "images.npz", **arrays)))
            break
        except DataError as error:
            (name,) = re.findall(r"npz: (\w+):", str(error))
            (code,) = re.findall("[Ss]ave `(.+)`", str(error))
            for condition in re.findall("If their range is (.+?), save", str(error)):
                assert condition == asked
            exec(code if " = " in code else f"{name} = {code}", {"np": np, **arrays}, arrays)
            arrays.pop("a", None)
    else:
        pytest.fail("the advice does not lead to arrays that are accepted")
    expected = np.concatenate(classes)
    if of_labels in ("names", "from -1", "sparse"):
        saved = CLASSES[of_labels](expected)
        ranks = np.unique(saved, return_inverse=True)[1]
        is_accepted = saved.dtype.kind == "i" and saved.min() >= 0 and saved.max() < MAX_CLASSES
        expected = saved if is_accepted else ranks
    assert np.array_equal(
        [_as_uint8(image[..., 0]) for image, _, _ in items], np.concatenate(pixels)
    )
    assert [label for _, label, _ in items] == expected.tolist()


def _as_uint8(image: np.ndarray) -> np.ndarray:
    return (image // 257).astype(np.uint8) if image.dtype == np.uint16 else image


def test_binary_images_become_black_and_white(tmp_path: Path) -> None:
    binary = IMAGES > 127
    for x in (binary, binary.astype(int), binary.astype(np.int8)):
        with pytest.raises(DataError) as error:
            npz.load(save_npz(tmp_path / "images.npz", x=x))
        (advice,) = re.findall("[Ss]ave `(.+)`", str(error.value))
        (image, _, _), *_ = everything(
            npz.load(save_npz(tmp_path / "images.npz", x=eval(advice, {"np": np, "x": x})))
        )
        assert np.array_equal(image[..., 0], binary[0] * 255)


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


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", npy_bytes(IMAGES)])
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
