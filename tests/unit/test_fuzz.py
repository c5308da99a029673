"""Mutated params and image files give a config, images, or one-line errors; nothing else.

The examples are the same in every run. `FUZZ_EXAMPLES=5000 pytest tests/unit/test_fuzz.py` tries
5000 others for each test.
"""

import copy
import gzip
import io
import json
import math
import os
import re
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML
from sklearn.datasets import load_digits

from checkouts import ROOT
from latentworks import params
from latentworks.datasets import csv_file, hdf5, idx, image_folder, npz, parquet, tar
from latentworks.datasets.decoding import decoded
from latentworks.datasets.rejects import REASONS
from latentworks.datasets.source import MAX_PIXELS, Item, Reject, Source
from latentworks.datasets.value_range import value_ranges
from latentworks.errors import DataError, ParamsError
from latentworks.params import recipes
from latentworks.params.faults import escaped
from latentworks.preprocess import prepare_image
from latentworks.sections import Params
from latentworks.serving.inputs import to_images

WANTED = os.environ.get("FUZZ_EXAMPLES")
LONGEST_LINE = 500  # characters in a line of a message
MOST_MEMORY = 8 * MAX_PIXELS  # bytes: one image of the largest size and copies of small images


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=int(WANTED or examples),
        derandomize=WANTED is None,
        database=None,
        deadline=timedelta(seconds=20),  # longer means endless, even on a busy machine
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with some bytes flipped, removed, inserted, repeated or overwritten by numbers."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        length = len(changed)
        near_an_end = st.integers(0, 80).map(lambda place: place - 40)
        place = draw(near_an_end | st.integers(0, max(0, length - 1))) % max(1, length)
        span = slice(place, place + draw(st.integers(1, 12)))
        match draw(st.sampled_from(["flip", "cut", "end", "insert", "repeat", "number"])):
            case "flip" if place < length:
                changed[place] ^= draw(st.integers(1, 255))
            case "cut":
                del changed[span]
            case "end":
                del changed[place:]
            case "insert":
                changed[place:place] = draw(st.binary(min_size=1, max_size=12))
            case "repeat":
                changed[place:place] = changed[span]
            case "number":
                value = draw(st.sampled_from([0, 1, 7, 255, 7071, 65535, 2**31 - 1, 2**32 - 1]))
                changed[place : place + 4] = struct.pack(draw(st.sampled_from("<>")) + "I", value)
    return bytes(changed)


def is_short(message: str) -> bool:
    lines = message.split("\n")
    return "Traceback" not in message and all(
        line.isprintable() and 0 < len(line) <= LONGEST_LINE for line in lines
    )


# --- params.yaml ---------------------------------------------------------------------------------

COMMITTED = (ROOT / "params.yaml").read_text()
LINES = COMMITTED.splitlines(keepends=True)
SNIPPETS = (
    *("&a ", "*a", "<<: ", "!!python/name:os.system ", "!!binary aGk=", "!!set {a, b}", "!!omap "),
    *("!!timestamp 2001-12-14", "2001-12-14t21:59:43.10-05:00", "!!str ", "!!float ", "!x ", "? "),
    *(".nan", "-.inf", "1e999", "1e-999", "-0.0", "0x1f", "0o17", "1_000", "9" * 400, "07", "1:30"),
    *("null", "~", "true", "yes", "''", '"\\0"', '"\\ud800"', '"\\e[31m"', "\\", '"a\\nb"', "'"),
    *("\t", "\r", "\n", "\u2028", "\u0085", "\ufeff", "\U0001f600", "é", "\x07", "\x7f", "#", " "),
    *("%YAML 1.1\n---\n", "---\n", "...\n", "- ", "[", "]", "{", "}", ",", ": ", "|\n", ">-\n"),
    *("{a: 1}", "[[[[1]]]]", "[" * 30, "k" * 2000),
)


@st.composite
def edited_text(draw: st.DrawFn) -> bytes:
    """The committed params.yaml after careless edits."""
    lines = list(LINES)
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(lines) - 1))
        line = lines[number]
        snippet = draw(st.sampled_from(SNIPPETS) | st.text(max_size=8))
        match draw(st.sampled_from(["value", "insert", "repeat", "remove", "move", "indent"])):
            case "value":
                key = re.match(r"\s*(- )?[\w]*:? ?", line)
                lines[number] = (key.group() if key else "") + snippet + "\n"
            case "insert":
                place = draw(st.integers(0, len(line)))
                lines[number] = line[:place] + snippet + line[place:]
            case "repeat":
                lines.insert(draw(st.integers(0, len(lines))), line)
            case "remove" if len(lines) > 1:
                del lines[number]
            case "move" if len(lines) > 1:
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(number))
            case "indent":
                lines[number] = " " * draw(st.integers(0, 3)) + line
    return "".join(lines).encode("utf-8", "surrogatepass")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers()
    | st.floats()
    | st.sampled_from([2**31, 2**32, 2**63, 10**30, 10**400, 1e308, 5e-324])
    | st.text(max_size=20)
    | st.sampled_from(["npz", "idx", "gaussian", "uniform_box", "cosine", "constant", "mse", "pad"])
)
FOREIGN = st.dates() | st.datetimes() | st.binary(max_size=4)  # types that YAML has and JSON lacks


def nested(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.text(max_size=8) | st.sampled_from(["kind", "path"])
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=6,
    )


def plain(text: bytes | str) -> Any:
    """Read a text as YAML 1.2, without the project's code."""
    return YAML(typ="safe", pure=True).load(text)


PARSED = plain(COMMITTED)


def sections(tree: Any) -> Iterator[Any]:
    """Every mapping and list within a tree, the tree itself included."""
    if isinstance(tree, dict | list):
        yield tree
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from sections(item)


@st.composite
def edited_tree(draw: st.DrawFn, scalars: st.SearchStrategy[Any]) -> dict[str, Any]:
    """The committed params with other values, superfluous keys and missing keys."""
    values = nested(scalars)
    tree = copy.deepcopy(PARSED)
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(list(sections(tree))))
        if not section:
            continue
        key = draw(st.sampled_from(list(section) if isinstance(section, dict) else [0]))
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "replace":
            section[key] = draw(values)
        elif action == "remove":
            del section[key]
        elif isinstance(section, dict):
            section[draw(st.text(max_size=8))] = draw(values)
    return dict(tree)


def agrees(ours: Any, theirs: Any) -> bool:
    """True if an accepted value equals the file's value and type; an int may stand for a float."""
    if isinstance(ours, dict):
        return (
            isinstance(theirs, dict)
            and set(ours) == set(theirs)
            and all(agrees(ours[key], theirs[key]) for key in ours)
        )
    if isinstance(ours, list | tuple):
        return (
            isinstance(theirs, list) and len(ours) == len(theirs) and all(map(agrees, ours, theirs))
        )
    allowed = (int, float) if type(ours) is float else (type(ours),)
    return type(theirs) in allowed and bool(ours == theirs)


def require_in_range(accepted: Params) -> None:
    assert 0 <= accepted.seed < 2**32
    assert all(8 <= side <= 1024 for side in accepted.prepare.image_shape[:2])
    assert accepted.prepare.channels in (1, 3)
    assert 0 <= accepted.prepare.background <= 255
    assert 0 <= accepted.prepare.val_fraction <= 0.5
    assert 0 < accepted.prepare.test_fraction <= 0.5
    assert 2 <= accepted.prepare.min_images < 2**63
    if not isinstance(accepted.prepare.value_range, str):
        assert accepted.prepare.value_range[0] < accepted.prepare.value_range[1]
    assert 1 <= accepted.model.latent_dim <= 1024
    assert 1 <= len(accepted.model.filters) <= 8
    assert all(1 <= number <= 2048 for number in accepted.model.filters)
    assert 1 <= accepted.train.epochs <= 100_000
    assert 0 < accepted.train.learning_rate <= 1
    given = accepted.train.warmup, accepted.train.warmup_steps
    assert given.count(None) == 1
    assert 0 <= accepted.train.num_warmup_steps(1000) < 2**63
    assert 1 <= accepted.train.patience < 2**63
    assert 1 <= accepted.sample.num_images <= 1_000_000
    assert "\0" not in accepted.dataset.path
    for section in sections(accepted.model_dump(mode="json")):
        values = section.values() if isinstance(section, dict) else section
        assert all(math.isfinite(value) for value in values if isinstance(value, float))


def check_params(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        accepted = params.load(Params, path, whole=True)
    except ParamsError as error:
        refusal = str(error)
    else:
        refusal = "accepted"
        require_in_range(accepted)
        assert agrees(accepted.model_dump(exclude_unset=True), plain(content.decode()))
        again = io.StringIO()
        YAML(typ="safe", pure=True).dump(accepted.model_dump(mode="json"), again)
        path.write_text(again.getvalue())
        assert params.load(Params, path, whole=True) == accepted
    assert is_short(refusal), refusal


@fuzz(200)
@given(content=edited_text())
def test_edited_params_are_read_as_written_or_refused(tmp_path: Path, content: bytes) -> None:
    check_params(tmp_path / "params.yaml", content)


@fuzz(120)
@given(content=damaged(COMMITTED.encode()))
def test_damaged_params_are_read_as_written_or_refused(tmp_path: Path, content: bytes) -> None:
    check_params(tmp_path / "params.yaml", content)


@fuzz(140)
@given(tree=edited_tree(SCALARS | FOREIGN))
def test_params_with_other_values_are_read_as_written_or_refused(
    tmp_path: Path, tree: dict[str, Any]
) -> None:
    text = io.BytesIO()
    YAML(typ="safe", pure=True).dump(tree, text)
    check_params(tmp_path / "params.yaml", text.getvalue())


@fuzz(40)
@given(tree=edited_tree(SCALARS))
def test_values_of_a_recipe_merged_into_params_are_read_back(
    tmp_path: Path, tree: dict[str, Any]
) -> None:
    """`recipes.merge` writes the values that `params.read` gives for a recipe."""
    text = io.BytesIO()
    YAML(typ="safe", pure=True).dump(tree, text)
    (tmp_path / "recipe.yaml").write_bytes(text.getvalue())
    try:
        recipe = params.read(tmp_path / "recipe.yaml")
        merged = recipes.merge(COMMITTED, recipe)
    except ParamsError:
        return
    expected = {**plain(COMMITTED), **recipe}
    assert json.dumps(plain(merged), sort_keys=True) == json.dumps(expected, sort_keys=True)


# --- files of images -----------------------------------------------------------------------------

DIGITS = load_digits()
IMAGES = np.round(DIGITS.images[:12] * 255 / 16).astype(np.uint8)  # [12, 8, 8]
LABELS = DIGITS.target[:12].astype(np.uint8)
IMAGE_FILE, LABEL_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TRANSFORM = partial(prepare_image, shape=(8, 8, 1), fit="resize", background=0)


@contextmanager
def bounded_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


Read = list[tuple[np.ndarray | None, str | None]]  # raw images, None if rejected; their classes


def prepared(load: Callable[[], Source]) -> Read | None:
    """Raw images and classes, read as the stage `prepare` reads them; None for a refused source."""
    try:
        with bounded_memory():
            source = replace(load(), decodes=False)
            ranges, _ = value_ranges(source, "auto")
            items: Read = []
            for item in source.items:
                assert item.label is None or 0 <= item.label < len(source.class_names)
                name = None if item.label is None else source.class_names[item.label]
                items.append((raw(item), name))
            for _, result in decoded(source, partial(TRANSFORM, ranges=ranges)):
                if result.image is None:
                    assert result.reject in REASONS
                else:
                    assert result.image.shape == (8, 8, 1)
                    assert result.image.dtype == np.uint8
    except DataError as error:
        assert is_short(str(error)), error  # noqa: PT017
        return None
    assert len(items) == source.num_items
    for image, _ in items:
        if image is not None:
            assert image.dtype.name in source.dtypes
            assert image.ndim == 3
            assert 1 <= image.shape[2] <= 4
    return items


def raw(item: Item) -> np.ndarray | None:
    try:
        return item.read()
    except Reject:
        return None


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def read_idx(content: bytes) -> np.ndarray:
    """Read an IDX file plainly. Raises ValueError if the header declares another length."""
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    return np.frombuffer(content[4 + 4 * len(shape) :], np.uint8).reshape(shape)


def same(items: Read, images: Any, labels: Any) -> None:
    assert len(items) == len(images)
    if images.ndim == 4 and images.shape[3] > 4:
        images = np.moveaxis(images, 1, -1)
    for row, (image, name) in enumerate(items):
        if image is None:
            assert not np.isfinite(images[row]).all()
        else:
            np.testing.assert_array_equal(image, images[row].reshape(image.shape))
        assert name == (None if labels is None else class_of(labels[row]))


def class_of(label: np.ndarray) -> str | None:
    """The name of the class of a label: a number, a text, or a one-hot row."""
    if label.size > 1:
        return str(label.argmax()) if label.any() else None
    value = label.item()
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        text = "" if value != value else str(int(value))
    return None if text in ("", "-1") else escaped(text)


@st.composite
def idx_files(draw: st.DrawFn) -> dict[str, bytes]:
    """IDX files of images and labels, some absent, some damaged before or after optional gzip."""
    files = {}
    for name, array in ((IMAGE_FILE, IMAGES), (LABEL_FILE, LABELS)):
        content = idx_bytes(array)
        action = draw(st.sampled_from(["raw", "raw", "inside", "outside", "whole", "absent"]))
        if action in ("raw", "inside"):
            content = draw(damaged(content))
        if action in ("inside", "outside"):
            content = gzip.compress(content, mtime=0)
        if action == "outside":
            content = draw(damaged(content))
        if action != "absent":
            files[name + ".gz" * (action in ("inside", "outside"))] = content
    return files


@fuzz(300)
@given(files=idx_files())
def test_damaged_idx_files_are_read_as_written_or_refused(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("idx")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    items = prepared(lambda: idx.load(folder))
    if items is not None:
        plainly = {
            name.removesuffix(".gz"): read_idx(
                gzip.decompress(content) if name.endswith(".gz") else content
            )
            for name, content in files.items()
        }
        same(items, plainly[IMAGE_FILE], plainly.get(LABEL_FILE))


def npy_bytes(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


SHAPES = (
    *("(12, 8, 8)", "(12,)", "(12, 1)", "(12, 64)", "()", "(0,)", "(-1, 8, 8)", "(10**12,)"),
    *("(1000000000000, 8, 8)", "(12, 8, 8, 1)", "(1, 768, 1)", "(12L, 8L, 8L)", "(" * 300),
    *("(True, 8, 96)", "(12, 8.0, 8)", "(12, 4, 4, 4)", "(12, 8, 8", "[12, 8, 8]", "{12}"),
)
HEADERS = st.builds(
    "{{'descr': {!r}, 'fortran_order': {}, 'shape': {}, }}".format,
    st.sampled_from(["|u1", "<u2", ">u2", "<i8", "|O", "|b1", "<f4", "<M8[s]", "<U0", "V3", "", 7]),
    st.sampled_from(["False", "True", "0", "None", "'x'"]),
    st.sampled_from(SHAPES),
).map(lambda text: b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1"))


@st.composite
def npz_file(draw: st.DrawFn) -> bytes:
    """An npz archive, stored or compressed, with damage to its members or to the archive itself."""
    content = io.BytesIO()
    within = draw(st.booleans())
    compression = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, array in (("x", IMAGES), ("y", LABELS.astype(np.int64))):
            member = npy_bytes(array)
            if within and draw(st.booleans()):
                whole = st.just(draw(HEADERS) + array.tobytes())
                member = draw(damaged(member) | whole)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member, compression)
        if draw(st.booleans()):
            # With a name beyond ASCII, a zip declares its names to be UTF-8.
            archive.writestr(zipfile.ZipInfo("größe.npy"), npy_bytes(LABELS))
    return content.getvalue() if within else draw(damaged(content.getvalue()))


@fuzz(300)
@given(content=npz_file())
def test_damaged_npz_archives_are_read_as_written_or_refused(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    items = prepared(lambda: npz.load(path))
    if items is not None:
        with zipfile.ZipFile(path) as archive:  # np.load refuses bytes before a zip
            arrays = [
                np.load(io.BytesIO(archive.read(name))) if name in archive.namelist() else None
                for name in ("x.npy", "y.npy")
            ]
        same(items, *arrays)


# --- files of many pictures ----------------------------------------------------------------------


def png_bytes(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def parquet_bytes() -> bytes:
    content = io.BytesIO()
    pictures = [{"bytes": png_bytes(image), "path": None} for image in IMAGES]
    about = json.dumps({"info": {"features": {"label": {"names": [*"abcdefghij"]}}}})
    table = pa.table({"image": pictures, "label": LABELS})
    table = table.replace_schema_metadata({"huggingface": about})
    pq.write_table(table, content, row_group_size=5, write_page_checksum=True)
    return content.getvalue()


def tar_bytes() -> bytes:
    content = io.BytesIO()
    with tarfile.open(None, "w", content) as archive:
        for row, image in enumerate(IMAGES):
            files = {"png": png_bytes(image), "json": json.dumps({"label": row % 3}).encode()}
            for ending, data in files.items():
                info = tarfile.TarInfo(f"{row:04d}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def csv_bytes() -> bytes:
    lines = [["label", *(f"pixel{i}" for i in range(64))]]
    lines += [
        [str(label), *map(str, image.ravel().tolist())]
        for image, label in zip(IMAGES, LABELS, strict=True)
    ]
    return "\n".join(map(",".join, lines)).encode()


def hdf5_bytes() -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.create_dataset("x", data=IMAGES, chunks=(5, 8, 8), compression="gzip", fletcher32=True)
        file["y"] = np.array([b"a", b"bb", b"", b"c"] * 3, h5py.string_dtype())
    return content.getvalue()


def in_originals(items: Read | None) -> None:
    """The pictures have checksums: none that is read is another picture."""
    known = {image.tobytes() for image in IMAGES}
    assert all(image is None or image.tobytes() in known for image, _ in items or ())


@fuzz(150)
@given(content=damaged(parquet_bytes()))
def test_damaged_parquet_files_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    in_originals(prepared(lambda: parquet.load(path)))


@fuzz(150)
@given(content=damaged(tar_bytes()))
def test_damaged_tar_files_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    in_originals(prepared(lambda: tar.load(path)))


@fuzz(150)
@given(content=damaged(csv_bytes()))
def test_damaged_csv_files_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    prepared(lambda: csv_file.load(path))


@fuzz(150)
@given(content=damaged(hdf5_bytes()))
def test_damaged_hdf5_files_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    prepared(lambda: hdf5.load(path))


# --- pictures ------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)


def picture(kind: str, array: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, kind, **options)
    return content.getvalue()


def chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Type, data and checksum of each chunk of a PNG, up to its end or first truncated chunk."""
    place = 8
    while place + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        data = content[place + 8 : place + 8 + length]
        yield content[place + 4 : place + 8], data, content[place + 8 + length :][:4]
        place += 12 + length


def with_checksums(content: bytes) -> bytes:
    """The same PNG chunks with correct checksums."""
    parts = [content[:8]]
    for kind, data, _ in chunks(content):
        parts.append(struct.pack(">I", len(data)) + kind + data)
        parts.append(struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def read_png(content: bytes) -> tuple[int, int]:
    """Height and width of a PNG with correct checksums. Fails if a checksum is wrong."""
    found = list(chunks(content))
    kinds = [kind for kind, *_ in found]
    found = found[: kinds.index(b"IEND")]
    for kind, data, checksum in found:
        assert struct.pack(">I", zlib.crc32(kind + data)) == checksum, kind
    pixels = zlib.decompressobj()
    pixels.decompress(b"".join(data for kind, data, _ in found if kind == b"IDAT"))
    assert pixels.eof  # at its end, zlib has compared its own checksum, too
    width, height = struct.unpack_from(">II", found[0][1])
    return height, width


def check_picture(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with bounded_memory():
        source = replace(image_folder.load(folder), decodes=False)
        [(_, result)] = list(decoded(source, TRANSFORM))
    if result.image is None:
        assert result.reject in REASONS
        return
    assert result.image.shape == (8, 8, 1)
    assert result.image.dtype == np.uint8
    if name == "a.png" and content.startswith(b"\x89PNG"):
        assert sorted(read_png(content)) == sorted((result.height, result.width))


MODES = {"RGB": PIXELS[..., :3], "L": PIXELS[..., 0], "RGBA": PIXELS}
PNG = {mode: picture("PNG", np.ascontiguousarray(array)) for mode, array in MODES.items()}
PNG["16"] = picture("PNG", PIXELS[..., 0].astype(np.uint16) * 257)
PNG["P"] = picture("PNG", MODES["RGB"])
JPEG = [
    picture("JPEG", np.ascontiguousarray(MODES["RGB"]), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
    picture("JPEG", np.ascontiguousarray(MODES["L"]), progressive=True),
]
WEBP = [picture("WEBP", PIXELS, lossless=True), picture("WEBP", PIXELS)]
OTHERS = [
    picture("BMP", np.ascontiguousarray(MODES["RGB"])),
    picture("GIF", np.ascontiguousarray(MODES["L"])),
    picture("TIFF", PIXELS, compression="tiff_lzw"),
    picture("TIFF", PIXELS[..., 0].astype(np.uint16) * 257),
    picture("AVIF", np.ascontiguousarray(MODES["RGB"])),
]


@fuzz(400)
@given(content=st.sampled_from(sorted(PNG)).flatmap(lambda mode: damaged(PNG[mode])))
def test_a_damaged_png_is_read_or_rejected_with_a_reason(tmp_path: Path, content: bytes) -> None:
    check_picture(tmp_path, "a.png", content)


@fuzz(300)
@given(content=st.sampled_from(sorted(PNG)).flatmap(lambda mode: damaged(PNG[mode])))
def test_a_damaged_png_with_correct_checksums_is_read_or_rejected(
    tmp_path: Path, content: bytes
) -> None:
    check_picture(tmp_path, "a.png", with_checksums(content))


@fuzz(300)
@given(content=st.sampled_from(JPEG).flatmap(damaged))
def test_a_damaged_jpeg_is_read_or_rejected_with_a_reason(tmp_path: Path, content: bytes) -> None:
    check_picture(tmp_path, "a.jpg", content)


@fuzz(300)
@given(content=st.sampled_from(WEBP).flatmap(damaged))
def test_a_damaged_webp_is_read_or_rejected_with_a_reason(tmp_path: Path, content: bytes) -> None:
    check_picture(tmp_path, "a.webp", content)


@fuzz(400)
@given(content=st.sampled_from(OTHERS).flatmap(damaged))
def test_a_damaged_picture_of_another_format_is_read_or_rejected_with_a_reason(
    tmp_path: Path, content: bytes
) -> None:
    check_picture(tmp_path, "a.jpg", content)


LABEL_FILES = {
    "metadata.csv": b'file_name,label,split\na.png,"cat",train\nb.png,dog,test\n',
    "metadata.jsonl": b'{"file_name": "a.png", "label": 1}\n{"file_name": "b", "label": "2"}\n',
    "labels.csv": b"id;breed\na;cat\nb;dog\n",
}


@fuzz(300)
@given(
    case=st.sampled_from(sorted(LABEL_FILES)).flatmap(
        lambda name: st.tuples(st.just(name), damaged(LABEL_FILES[name]) | st.binary())
    )
)
def test_a_damaged_file_of_labels_is_read_or_refused_in_a_line(
    tmp_path: Path, case: tuple[str, bytes]
) -> None:
    name, content = case
    for image in ("a.png", "b.png"):
        (tmp_path / image).write_bytes(PNG["L"])
    for other in LABEL_FILES:
        (tmp_path / other).unlink(missing_ok=True)
    (tmp_path / name).write_bytes(content)
    try:
        said = list(image_folder.load(tmp_path).notes)
    except DataError as error:
        said = [str(error)]
    assert all(map(is_short, said))


# --- faults that fuzzing found -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        # Each value was taken for text, and so for a path that nobody wrote.
        ("data/raw/fashion-mnist", "2024-01-31", "dataset.path is a date. Put a text in quotes"),
        ("data/raw/fashion-mnist", "2001-12-14t21:59:43.10-05:00", "dataset.path is a datetime"),
        ("data/raw/fashion-mnist", "!!binary aGk=", "dataset.path is a bytes"),
        ("data/raw/fashion-mnist", "!!set {a, b}", "dataset.path is a set"),
        # These values were accepted, and caused a traceback in a later stage.
        ("warmup: 0.05", f"warmup_steps: {10**400}", "train.warmup_steps should be at most 9"),
        ("min_images: 100", f"min_images: {2**63}", "prepare.min_images should be at most 9"),
        # Refusing this list took half a minute.
        ("[32, 64, 128]", f"[{'1,' * 45_000}]", "too many values. Expected less than 3000"),
        # These faults were reported, but not in a short line that a terminal can show.
        ("data/raw/fashion-mnist", '"\\ud800"', "dataset.path holds an incomplete character"),
        ("seed: 0", 'seed: 0\n"a\\e[31m\\nb": 1', r"'a\x1b[31m\nb' is not a known key"),
        ("seed: 0", f"seed: 0\n{'k' * 900}: 1", "kkk' is not a known key"),
        ("seed: 0", f'seed: 0\n"{"k" * 900}": 1\n"{"k" * 900}": 1', "found duplicate key"),
        ("seed: 0", f"seed: 0\nx: *{'k' * 3000}", "alias *kkk"),
    ],
)
def test_faults_in_params_that_fuzzing_found_are_refused(
    tmp_path: Path, old: str, new: str, fault: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(COMMITTED.replace(old, new, 1))
    with pytest.raises(ParamsError) as caught:
        params.load(Params, path, whole=True)
    assert fault in str(caught.value)
    assert is_short(str(caught.value))


def test_faults_in_recipes_that_fuzzing_found_stay_fixed() -> None:
    """Merge replaces 1 by `true`, and refuses a list that ruamel cannot write.

    To Python, `true` equals 1, so that merge once left it out; and ruamel broke the list in two.
    """
    train = {**plain(COMMITTED)["train"], "patience": 1}
    once = recipes.merge(COMMITTED, {"train": train})
    twice = recipes.merge(once, {"train": {**train, "patience": True}})
    assert plain(twice)["train"]["patience"] is True
    model = {**plain(COMMITTED)["model"], "filters": [{}, 64, 128]}
    with pytest.raises(ParamsError, match=r"model: cannot be written into params\.yaml"):
        recipes.merge(COMMITTED, {"model": model})


def code(folder: Path, content: bytes) -> str:
    (folder / "a.png").write_bytes(content)
    source = replace(image_folder.load(folder), decodes=False)
    return next(decoded(source, TRANSFORM))[1].reject


def test_png_with_changed_pixels_or_a_missing_end_is_rejected(tmp_path: Path) -> None:
    """Pillow compares no checksum of pixels: a flipped bit would give another picture."""
    whole = PNG["L"]
    assert code(tmp_path, whole) == ""
    place = whole.index(b"IDAT") + 20
    assert code(tmp_path, whole[:place] + b"\x55" + whole[place + 1 :]) == "unreadable"
    assert code(tmp_path, whole[:-12]) == "truncated"  # all pixels, but no end chunk


def test_npz_with_invalid_member_names_is_refused(tmp_path: Path) -> None:
    """Names are not UTF-8 as declared, hold an escape character, or are as long as the file."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("größe.npy", npy_bytes(LABELS))
        archive.writestr("x.npy", npy_bytes(IMAGES))
    whole = path.read_bytes()
    for content in (
        whole.replace("ö".encode(), b"\xff\xff"),
        whole.replace(b"x.npy", b"\x1b[31m"),
        whole.replace(struct.pack("<HH", 5, 0) + b"x.npy", struct.pack("<HH", 900, 0) + b"x.npy"),
    ):
        path.write_bytes(content)
        assert prepared(lambda: npz.load(path)) is None


# --- images of a call ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(768, 1024, 3), (1200, 1600, 3), (300, 400, 4), (512, 256, 1)])
def test_a_photo_is_one_image(shape: tuple[int, int, int]) -> None:
    assert to_images(np.zeros(shape, np.uint8), (32, 32, 1)).shape == (1, *shape)
