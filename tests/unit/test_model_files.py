"""Foreign model files, really made, are refused before Keras builds anything from them."""

import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkouts import ROOT, environment
from families import autoencoder
from latentworks.artifacts.images import write_index
from latentworks.artifacts.keras_file import MEMBERS, require_ours
from latentworks.artifacts.model import read_model, write_model
from latentworks.errors import UnsafeModel
from latentworks.models.config import ModelConfig
from latentworks.system import disk

SMALL = autoencoder(loss="mean_squared_error")
WEIGHTS = "model.weights.h5"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a really trained model, as the stage `train` writes it."""
    folder = tmp_path_factory.mktemp("trained")
    model = SMALL.build((8, 8, 1))
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 10, warmup_target=0.01, warmup_steps=5)
    model.compile(optimizer=keras.optimizers.Adam(schedule))
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), dtype=np.uint8)
    model.fit(images, epochs=1, verbose=0)
    write_model(folder, model, SMALL)
    return folder


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(trained: Path, path: Path, **changes: bytes) -> Path:
    """Write the trained model's file with other members: `config="…"` replaces config.json."""
    content = members(trained / "model.keras")
    names = {"config": "config.json", "metadata": "metadata.json", "weights": WEIGHTS}
    content |= {names[name]: value for name, value in changes.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UnsafeModel) as caught:
        require_ours(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    assert "Expected " in message
    assert "dvc checkout" in message
    return message


def test_a_model_of_this_project_is_opened(trained: Path) -> None:
    path = trained / "model.keras"
    assert set(members(path)) == MEMBERS
    assert b"CosineDecay" in members(path)["config.json"]
    require_ours(path)
    assert read_model(trained, ModelConfig).latent_dim == 2


def test_a_model_saved_by_keras_itself_is_accepted(tmp_path: Path) -> None:
    SMALL.build((8, 8, 3)).save(tmp_path / "model.keras")
    require_ours(tmp_path / "model.keras")


# --- files that run code -------------------------------------------------------------------------


def with_lambda(path: Path, marker: Path) -> Path:
    """Save a model whose Lambda layer writes `marker` when called. Loading calls the layer."""
    place = str(marker)
    layer = keras.layers.Lambda(lambda x: [x, open(place, "w").close()][0])
    inputs = keras.layers.Input((2,))
    keras.Model(inputs, layer(inputs)).save(path)
    marker.unlink(missing_ok=True)
    return path


def test_a_model_with_a_lambda_layer_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = with_lambda(tmp_path / "model.keras", marker)
    keras.saving.load_model(path, safe_mode=False)
    assert marker.exists()  # without the check, loading runs the layer
    marker.unlink()
    assert "a model of class 'keras.src.models.functional.Functional'" in refusal(path)
    assert not marker.exists()


def set_path(config: dict[str, Any], *keys: str, value: Any) -> None:
    *way, last = keys
    for key in way:
        config = config[key]
    config[last] = value


NAMES: list[tuple[str, dict[str, Any]]] = [
    ("Lambda", {"module": "keras.layers", "class_name": "Lambda", "config": {}}),
    ("Lambda", {"module": "keras.src.layers.core.lambda_layer", "class_name": "Lambda"}),
    ("Lambda", {"class_name": "Lambda", "config": {}}),
    ("TFSMLayer", {"module": "keras.layers", "class_name": "TFSMLayer", "config": {}}),
    ("JaxLayer", {"module": "keras.layers", "class_name": "JaxLayer", "config": {}}),
    ("FlaxLayer", {"module": "keras.layers", "class_name": "FlaxLayer", "config": {}}),
    ("TorchModule", {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {}}),
    ("__lambda__", {"class_name": "__lambda__", "config": {"value": ["4wAAAA=="]}}),
    ("function", {"module": "builtins", "class_name": "function", "config": "mse"}),
    ("function", {"module": "keras.utils", "class_name": "function", "config": "get_file"}),
    ("get_file", {"module": "keras.utils", "class_name": "get_file", "config": {}}),
    ("deserialize", {"module": "keras.losses", "class_name": "deserialize", "config": {}}),
    ("os.system", {"module": "os", "class_name": "system", "config": "true"}),
    ("Popen", {"module": "subprocess", "class_name": "Popen", "config": {}}),
    ("os.None", {"module": "os"}),
    ("None.None", {"registered_name": "latentworks>Autoencoder"}),
    ("Functional", {"module": "keras", "class_name": "Functional", "config": {}}),
    ("Adam", {"module": "keras.optimizers", "class_name": "Adam", "registered_name": "a>B"}),
    ("None", {"module": "keras.optimizers", "class_name": None}),
    ("__typespec__", {"class_name": "__typespec__", "spec_name": "x", "module": "os"}),
]


@pytest.mark.parametrize(("named", "value"), NAMES)
@pytest.mark.parametrize("place", [("config", "x"), ("compile_config", "loss"), ("x",)])
def test_a_config_with_a_class_that_could_run_code_is_refused(
    named: str, value: dict[str, Any], place: tuple[str, ...], trained: Path, tmp_path: Path
) -> None:
    config = json.loads(members(trained / "model.keras")["config.json"])
    set_path(config, *place, value=[{"deep": value}])
    path = rewritten(trained, tmp_path / "model.keras", config=json.dumps(config).encode())
    message = refusal(path)
    assert named in message
    assert "may run code" in message


def test_a_lambda_layer_within_our_autoencoder_is_refused(trained: Path, tmp_path: Path) -> None:
    config = json.loads(members(trained / "model.keras")["config.json"])
    other = members(with_lambda(tmp_path / "other.keras", tmp_path / "marker"))["config.json"]
    config["config"]["encoder"] = json.loads(other)["config"]["layers"][1]
    path = rewritten(trained, tmp_path / "model.keras", config=json.dumps(config).encode())
    assert "'keras.layers.Lambda', which may run code" in refusal(path)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Conv2D(3, 3, kernel_regularizer=keras.regularizers.L2(0.1)),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(2, activation="relu", kernel_constraint=keras.constraints.MaxNorm(2)),
        keras.layers.GroupNormalization(2),
        keras.layers.UpSampling2D(),
        keras.layers.Embedding(4, 2),
    ],
)
def test_layers_that_only_compute_are_accepted(
    layer: keras.Layer, trained: Path, tmp_path: Path
) -> None:
    config = json.loads(members(trained / "model.keras")["config.json"])
    config["config"]["layer"] = keras.saving.serialize_keras_object(layer)
    require_ours(rewritten(trained, tmp_path / "model.keras", config=json.dumps(config).encode()))


class Marks:
    """An object whose unpickling writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_does_not_run(protocol: int, tmp_path: Path) -> None:
    path, marker = tmp_path / "model.keras", tmp_path / "marker"
    path.write_bytes(pickle.dumps(Marks(marker), protocol))
    pickle.loads(path.read_bytes())
    assert marker.exists()  # without the check, unpickling writes the file
    marker.unlink()
    assert "a pickle, which runs code" in refusal(path)
    assert not marker.exists()


# --- other formats -------------------------------------------------------------------------------


def test_a_legacy_h5_file_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.save(tmp_path / "model.h5")
    shutil.move(tmp_path / "model.h5", tmp_path / "model.keras")
    assert "an HDF5 file" in refusal(tmp_path / "model.keras")


def test_a_saved_model_folder_is_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.export(tmp_path / "model.keras", format="tf_saved_model", verbose=False)
    assert (tmp_path / "model.keras/saved_model.pb").is_file()
    assert "a folder, such as a SavedModel" in refusal(tmp_path / "model.keras")


def test_weights_in_numpy_format_are_refused_and_not_unpickled(
    trained: Path, tmp_path: Path
) -> None:
    content, marker = io.BytesIO(), tmp_path / "marker"
    np.savez(content, a=np.array([Marks(marker)], dtype=object))
    content.seek(0)
    np.load(content, allow_pickle=True)["a"]
    assert marker.exists()  # without the check, unpickling writes the file
    marker.unlink()
    path = tmp_path / "model.keras"
    shutil.copy(trained / "model.keras", path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model.weights.npz", content.getvalue())
    assert "has a member 'model.weights.npz'" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"P", "not a zip"),
        (b"cos\nsystem\n(S'true'\ntR.", "not a zip"),  # a pickle of protocol 0
        (b"PK\x05\x06" + bytes(18), "not a zip"),  # a zip without members
        (b"PK\x03\x04" + bytes(100), "a damaged zip"),
    ],
)
def test_a_file_that_is_not_an_intact_zip_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "model.keras").write_bytes(content)
    assert message in refusal(tmp_path / "model.keras")


def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.keras")
    assert "not a regular file" in refusal(tmp_path / "model.keras")


def test_a_zip_with_other_bytes_before_it_is_refused(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"#!/bin/sh\n" + (trained / "model.keras").read_bytes())
    assert zipfile.is_zipfile(path)
    assert "not a zip" in refusal(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model_file_is_refused(kept: float, trained: Path, tmp_path: Path) -> None:
    whole = (trained / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(whole[: int(len(whole) * kept)])
    assert "a damaged zip" in refusal(tmp_path / "model.keras")


# --- harmful zips --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("../../evil", "/tmp/evil", "assets/x", "config.json/", "./config.json", "C:\\evil"),
        *("Config.json", "config.json\0.txt", "..\\evil", "model.weights.npz"),
    ],
)
def test_a_zip_with_an_unknown_member_is_refused(name: str, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    shutil.copy(trained / "model.keras", path)
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo("placeholder")
        member.filename = name
        archive.writestr(member, b"evil")
    assert "has a member" in refusal(path)


def test_a_zip_with_a_symbolic_link_is_refused(trained: Path, tmp_path: Path) -> None:
    content = members(trained / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for name, value in content.items():
            member = zipfile.ZipInfo(name)
            if name == WEIGHTS:
                member.external_attr = (stat.S_IFLNK | 0o777) << 16
                value = b"/etc/passwd"
            archive.writestr(member, value)
    assert "is a link or not a file" in refusal(tmp_path / "model.keras")


def test_a_zip_with_a_duplicate_member_is_refused(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    shutil.copy(trained / "model.keras", path)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("config.json", b"{}")
    assert "has a member twice" in refusal(path)


def test_a_zip_with_a_missing_member_is_refused(trained: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", members(trained / "model.keras")["config.json"])
    assert "or lacks one" in refusal(tmp_path / "model.keras")


def patched(path: Path, at: int, value: bytes) -> None:
    """Overwrite a field of a zip's first central directory entry. A signature starts the entry."""
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + at : entry + at + len(value)] = value
    path.write_bytes(content)


def test_a_zip_with_an_encrypted_member_is_refused(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    shutil.copy(trained / "model.keras", path)
    patched(path, 8, b"\x01\x00")
    assert "is encrypted" in refusal(path)


def test_a_zip_with_a_member_larger_than_the_file_is_refused(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    shutil.copy(trained / "model.keras", path)
    patched(path, 20, b"\xff\xff\x0f\x00\xff\xff\x0f\x00")  # both sizes of config.json
    assert "members overlap" in refusal(path) or "damaged zip" in refusal(path)


def test_a_zip_bomb_is_refused(trained: Path, tmp_path: Path) -> None:
    content = members(trained / "model.keras") | {WEIGHTS: bytes(64 << 20)}
    with zipfile.ZipFile(tmp_path / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    assert (tmp_path / "model.keras").stat().st_size < 1 << 20
    assert "is compressed" in refusal(tmp_path / "model.keras")


# --- contents of the members ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": b"[" * 100_000}, "not JSON, or nested too deep"),
        ({"config": b'{"a":' * 100_000}, "not JSON, or nested too deep"),
        ({"config": b"x" * (2 << 20)}, "has 2097152 bytes"),
        ({"config": b"\xff\xfe{\x00}\x00"}, "not JSON"),
        ({"config": b"[]"}, "not an object"),
        ({"config": b"{}"}, "a model of class 'None.None'"),
        ({"config": b'{"class_name": "Autoencoder"}'}, "a model of class 'None.Autoencoder'"),
        ({"metadata": b"\x80\x04."}, "metadata.json is not JSON"),
        ({"metadata": b" " * 70_000}, "has 70000 bytes"),
        ({"weights": b""}, "model.weights.h5 is damaged"),
        ({"weights": b"\x89HDF\r\n\x1a\n" + bytes(100)}, "model.weights.h5 is damaged"),
    ],
)
def test_members_with_invalid_content_are_refused(
    change: dict[str, bytes], message: str, trained: Path, tmp_path: Path
) -> None:
    assert message in refusal(rewritten(trained, tmp_path / "model.keras", **change))


def test_a_too_deeply_nested_config_is_refused(trained: Path, tmp_path: Path) -> None:
    config = json.loads(members(trained / "model.keras")["config.json"])
    config["deep"] = json.loads("[" * 60 + "]" * 60)
    path = rewritten(trained, tmp_path / "model.keras", config=json.dumps(config).encode())
    assert "nested deeper than 40 levels" in refusal(path)


def external_link(file: h5py.File, elsewhere: Path) -> None:
    del file["vars"]
    file["vars"] = h5py.ExternalLink(elsewhere, "/")


def soft_link(file: h5py.File, elsewhere: Path) -> None:
    file["encoder/vars/0"] = h5py.SoftLink("/decoder")


def external_dataset(file: h5py.File, elsewhere: Path) -> None:
    file.create_dataset("vars/0", (8,), "u1", external=[(elsewhere, 0, 8)])


def virtual_dataset(file: h5py.File, elsewhere: Path) -> None:
    layout = h5py.VirtualLayout((8,), "u1")
    layout[:] = h5py.VirtualSource(elsewhere, "x", (8,))
    file.create_virtual_dataset("vars/0", layout)


def circle(file: h5py.File, elsewhere: Path) -> None:
    file["encoder/vars/again"] = file["encoder"]


def circle_of_all(file: h5py.File, elsewhere: Path) -> None:
    file["encoder/root"] = file["/"]


def compressed_bomb(file: h5py.File, elsewhere: Path) -> None:
    file.create_dataset("vars/0", (1 << 34,), "u1", chunks=(1 << 20,), compression="gzip")


def hollow_bomb(file: h5py.File, elsewhere: Path) -> None:
    file.create_dataset("vars/0", (1 << 40,), "u1")


def python_text(file: h5py.File, elsewhere: Path) -> None:
    file.create_dataset("vars/0", data="import os", dtype=h5py.string_dtype())


def named_type(file: h5py.File, elsewhere: Path) -> None:
    file["vars/0"] = np.dtype("f4")


def deep_groups(file: h5py.File, elsewhere: Path) -> None:
    file.create_group("/".join("g" * 60))


def test_weights_with_an_endless_list_are_refused(trained: Path, tmp_path: Path) -> None:
    """In the heap of the root group's names, the free list points back to its own start."""
    weights = bytearray(members(trained / "model.keras")[WEIGHTS])
    names = weights.index(b"decoder\0encoder\0")
    heap = weights.rindex(b"HEAP", 0, names)  # then data size, first free offset, data address
    _, free, data = np.frombuffer(weights[heap + 8 : heap + 32], "<u8").tolist()
    weights[data + free : data + free + 8] = np.uint64(free).tobytes()
    path = rewritten(trained, tmp_path / "model.keras", weights=bytes(weights))
    message = refusal(path)  # by the time limit or the memory limit, whichever is first
    assert "limits of time and memory" in message or "damaged" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external_link, "has a link 'vars' to another place"),
        (soft_link, "has a link '0' to another place"),
        (external_dataset, "lies in another file"),
        (virtual_dataset, "lies in another file"),
        (circle, "has a circle of groups, or too many levels, at "),
        (circle_of_all, "has a circle of groups, or too many levels, at "),
        (compressed_bomb, "compressed, or declares more"),
        (hollow_bomb, "compressed, or declares more"),
        (python_text, "not an array of numbers"),
        (named_type, "not an array of numbers"),
        (deep_groups, "has a circle of groups, or too many levels, at 'g'"),
    ],
)
def test_weights_with_links_circles_bombs_or_non_numbers_are_refused(
    change: Callable[[h5py.File, Path], None], message: str, trained: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.h5"
    with h5py.File(elsewhere, "w") as secret:
        secret["x"] = np.arange(8, dtype=np.uint8)
    weights = tmp_path / "weights.h5"
    weights.write_bytes(members(trained / "model.keras")[WEIGHTS])
    with h5py.File(weights, "a") as file:
        change(file, elsewhere)
    path = rewritten(trained, tmp_path / "model.keras", weights=weights.read_bytes())
    assert message in refusal(path)


@settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_flipped_bytes_are_refused_or_change_no_member(
    trained: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """A damaged file is refused in one line, or its members are unchanged: dates may differ."""
    content = bytearray((trained / "model.keras").read_bytes())
    tail = content.index(b"PK\x01\x02")
    places = st.one_of(st.integers(0, len(content) - 1), st.integers(tail, len(content) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    try:
        require_ours(path)
    except UnsafeModel as error:
        refused = str(error)
    else:
        refused = ""
        assert members(path) == members(trained / "model.keras")
    assert "\n" not in refused


# --- reading of models ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"latent_dim": 2', b'"latent_dim": "two"'),
        (b'"latent_dim": 2', b'"latent_dims": 2'),
        (b'"latent_dim": 2', b'"latent_dim": 3'),
        (b"Autoencoder", b"NoSuchClass"),
        (b'"filters": [4, 8]', b'"filters": []'),
    ],
)
def test_invalid_values_for_our_own_model_class_are_refused(
    old: bytes, new: bytes, trained: Path, tmp_path: Path
) -> None:
    config = members(trained / "model.keras")["config.json"].replace(old, new)
    shutil.copy(trained / "config.json", tmp_path)
    rewritten(trained, tmp_path / "model.keras", config=config)
    with pytest.raises(UnsafeModel, match="do not describe a model of this project") as caught:
        read_model(tmp_path, ModelConfig)
    assert "\n" not in str(caught.value)


def test_a_foreign_config_json_beside_the_model_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "model.keras", tmp_path)
    (tmp_path / "config.json").write_text('{"kind": "other"}')
    with pytest.raises(UnsafeModel, match="do not describe a model of this project"):
        read_model(tmp_path, ModelConfig)


def test_a_stage_refuses_a_foreign_model_in_one_line(trained: Path, tmp_path: Path) -> None:
    prepared, model = tmp_path / "prepared", tmp_path / "model"
    prepared.mkdir()
    np.save(prepared / "images.npy", np.zeros((2, 8, 8, 1), np.uint8))
    disk.write_json(prepared / "profile.json", {"class_names": []})
    write_index(prepared / "index.parquet", pd.DataFrame({"id": ["a", "b"]}))
    shutil.copytree(trained, model)
    marker = tmp_path / "marker"
    with_lambda(model / "model.keras", marker)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "latentworks.stages",
            "encode",
            prepared,
            model,
            tmp_path / "latents",
        ],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT / "src")),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 10, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    assert "a model of class 'keras.src.models.functional.Functional'" in errors[0]
    assert not marker.exists()
    assert not (tmp_path / "latents").exists()
