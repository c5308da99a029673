"""A servable gives the outputs of Keras, runs without this project, and refuses wrong inputs."""

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image
from pydantic import TypeAdapter

import sampling_cost
from checkouts import ROOT, Checkout
from families import OF_KIND, autoencoder
from latentworks.artifacts.images import read_prepared
from latentworks.artifacts.model import read_model
from latentworks.artifacts.samples import read_sampler, read_samples, write_sampler
from latentworks.engine import inference
from latentworks.errors import InputError, RegistryError
from latentworks.models.config import ModelConfig
from latentworks.preprocess import to_pixels, to_uint8
from latentworks.registry import candidates
from latentworks.samplers.config import GaussianConfig, SamplerConfig
from latentworks.server import encoding
from latentworks.server.model import Model, Named
from latentworks.serving import checksums, export, golden, loading, packaging, preflight
from latentworks.serving.servable import Interface, Servable, load
from latentworks.system import disk

# The largest difference of latents, relative to 1 or to their size, and of pixels in [0, 1]. ONNX
# Runtime and Keras add numbers in different orders: the measured differences are a few units in the
# last place of float32.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def servable(finished: Checkout) -> Servable:
    return load(finished.path / "models/servable")


@pytest.fixture(scope="module")
def images(finished: Checkout) -> np.ndarray:
    data = read_prepared(finished.path / "data/prepared")
    return np.array(data.images[data.rows("test")])


@pytest.fixture(scope="module")
def packaged(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder that is registered. A test copies the folder before it changes a file."""
    folder = tmp_path_factory.mktemp("packaged") / "model"
    model = finished.path / "models/autoencoder/model.keras"
    packaging.assemble(folder, finished.path / "models/servable", [model], "a run", "a model")
    checksums.seal(folder)
    return folder


# --- the graphs ----------------------------------------------------------------------------------


def test_a_servable_gives_the_outputs_of_keras(
    servable: Servable, images: np.ndarray, finished: Checkout
) -> None:
    network = read_model(finished.path / "models/autoencoder", ModelConfig)
    latents = np.concatenate([*inference.encode(network, images, np.arange(len(images)))])
    decoded = np.concatenate([*inference.decode(network, latents)])
    ours = servable.encode_images(images)
    assert (np.abs(ours - latents) <= TOLERANCE * np.maximum(1, np.abs(latents))).all()
    assert np.abs(servable.decode_latents(latents) - decoded).max() <= TOLERANCE
    # Rounding to 256 values can magnify a difference to 1.
    difference = servable.reconstruct(images).astype(int) - to_pixels(decoded)
    assert np.abs(difference).max() <= 1
    samples = read_samples(finished.path / "data/samples")
    drawn = servable.sample(None, num=len(samples.images), seed=0)
    assert np.abs(drawn.astype(int) - samples.images).max() <= 1


@pytest.mark.parametrize(
    ("config", "image_shape"),
    [
        (autoencoder(loss="mean_squared_error"), (28, 28, 1)),
        (autoencoder(latent_dim=5, loss="mean_squared_error"), (9, 9, 3)),
        (OF_KIND["adversarial"], (8, 8, 1)),
    ],
    ids=["grey", "rgb", "adversarial"],
)
def test_other_models_and_image_shapes_are_exported(
    config: Any, image_shape: tuple[int, int, int], tmp_path: Path
) -> None:
    network = config.build(image_shape)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, *image_shape), dtype=np.uint8)
    latents = np.concatenate([*inference.encode(network, images, np.arange(len(images)))])
    sampler = GaussianConfig(kind="gaussian")
    write_sampler(make(tmp_path / "sampler"), sampler.fit(latents, None, 0), sampler)
    export.write(
        make(tmp_path / "servable"),
        network,
        sampler.fit(latents, None, 0),
        tmp_path / "sampler",
        Interface(image_shape, network.latent_dim, (), "pad", 0, {"uint16": (0, 4095)}),
        images[:3],
        np.linspace(0, 1, 10),
    )
    servable = load(tmp_path / "servable")
    assert np.abs(servable.encode_images(images) - latents).max() <= TOLERANCE * 10
    white = np.ones((1, *image_shape))
    for_8_bits, for_12_bits = (255 * white).astype(np.uint8), (4095 * white).astype(np.uint16)
    assert (servable.encode(for_8_bits) == servable.encode(for_12_bits)).all()
    golden.check(tmp_path / "servable", servable.call)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_equal_models_export_to_equal_bytes(finished: Checkout, tmp_path: Path) -> None:
    call = ["python", "-m", "latentworks.stages", "export", "data/prepared", "models/autoencoder"]
    finished.copy(tmp_path / "checkout").run(
        *call, "models/sampler", str(tmp_path / "again"), PYTHONPATH="src"
    )
    first, second = finished.path / "models/servable", tmp_path / "again"
    assert checksums.content_digest(first) == checksums.content_digest(second)


def test_the_range_of_the_training_images_is_in_the_servable(
    finished: Checkout, images: np.ndarray, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    path = checkout.path / "data/prepared/profile.json"
    disk.write_json(path, disk.read_json(path) | {"value_range": {"uint16": [0, 4080]}})
    call = ["python", "-m", "latentworks.stages", "export", "data/prepared", "models/autoencoder"]
    checkout.run(*call, "models/sampler", "servable", PYTHONPATH="src")
    servable = load(checkout.path / "servable")
    expected = servable.encode(images[:2])
    assert np.allclose(servable.encode(images[:2].astype(np.uint16) * 16), expected, atol=1e-5)
    golden.check(checkout.path / "servable", servable.call)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from Linux")
def test_the_cost_of_many_samples_is_measured(servable: Servable, finished: Checkout) -> None:
    cost = sampling_cost.measure(finished.path / "models/servable")
    assert set(cost) == {sampling_cost.SECONDS, sampling_cost.MEGABYTES}
    assert cost[sampling_cost.SECONDS] >= 0  # in tenths
    decoded = 4 * sampling_cost.NUM_IMAGES * math.prod(servable.image_shape)  # float32
    # The process has these images in memory, and no TensorFlow, which takes 700 MB.
    assert decoded < 1e6 * cost[sampling_cost.MEGABYTES] < decoded + 500e6


# --- verbs ---------------------------------------------------------------------------------------


def test_the_verbs_agree_with_one_another(servable: Servable, images: np.ndarray) -> None:
    latents = servable.encode(images[:5])
    assert latents.shape == (5, 2)
    assert latents.dtype == np.float32
    for pictures in (servable.decode(latents), servable.reconstruct(images[:5])):
        assert pictures.shape == (5, 8, 8, 1)
        assert pictures.dtype == np.uint8
    between = servable.interpolate(images[:2], num=4)
    assert (between == servable.interpolate(latents[:2], num=4)).all()
    assert (between[[0, -1]] == servable.reconstruct(images[:2])).all()
    middle = servable.decode(latents[:1] + (latents[1] - latents[0]) / 3)
    assert np.abs(between[1].astype(int) - middle[0]).max() <= 1  # 1/3, rounded differently
    assert np.allclose(servable.log_density(latents), servable.log_density(images[:5]))
    assert np.allclose(servable.log_density(images[0, ..., 0]), servable.log_density(latents[:1]))


def test_the_seed_determines_the_samples(servable: Servable) -> None:
    first, again = (servable.sample(None, num=3, seed=7) for _ in range(2))
    assert (first == again).all()
    assert (first != servable.sample([], num=3, seed=8)).any()
    assert (servable.sample(None, num=3) != servable.sample(None, num=3)).any()
    assert servable.sample(None).shape == (16, 8, 8, 1)


def test_log_density_equals_that_of_the_sampler(servable: Servable, finished: Checkout) -> None:
    sampler: Any = read_sampler(finished.path / "models/sampler", SamplerConfig)
    z = np.array([[0.5, -1.0], [3.0, 2.0]], dtype=np.float32)
    assert np.allclose(servable.log_density(z), sampler.log_density(z))


def test_anomaly_scores_rank_images_among_the_test_images(
    servable: Servable, images: np.ndarray
) -> None:
    scores = servable.anomaly_score(images)
    errors = ((servable.decode_latents(servable.encode_images(images)) - images / 255) ** 2).mean(
        axis=(1, 2, 3)
    )
    assert np.allclose(scores["error"], errors, atol=1e-6)
    # The percentiles of the test images themselves are spread evenly, in steps of one image.
    assert np.allclose(np.sort(scores["percentile"]), np.linspace(0, 100, len(images)), atol=0.6)
    noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    assert np.median(servable.anomaly_score(noise)["percentile"]) > 99


def test_images_of_any_size_dtype_and_layout_are_accepted(
    servable: Servable, images: np.ndarray
) -> None:
    expected = servable.encode(images[:2])
    for same in (
        images[:2, ..., 0],
        images[:2].astype(np.int64),
        images[:2].tolist(),
        np.repeat(images[:2], 3, axis=3),
        images[:2].astype(np.uint16) * 257,
    ):
        assert np.allclose(servable.encode(same), expected, atol=1e-5)
    assert np.allclose(servable.encode(images[0, ..., 0]), expected[:1], atol=1e-5)
    assert np.allclose(servable.encode(images[0]), expected[:1], atol=1e-5)
    # Images are fitted as the training images were: here, the background pads smaller images.
    framed = np.pad(images[:2, 1:-1, 1:-1], ((0, 0), (1, 1), (1, 1), (0, 0)))
    assert np.allclose(servable.encode(images[:2, 1:-1, 1:-1]), servable.encode(framed))
    assert servable.reconstruct(np.zeros((1, 50, 20, 3), np.uint8)).shape == (1, 8, 8, 1)
    assert servable.reconstruct(np.zeros((1, 2, 64, 1), np.uint8)).shape == (1, 8, 8, 1)
    assert servable.reconstruct(np.zeros((30, 100), np.uint8)).shape == (1, 8, 8, 1)


GREY = np.zeros((2, 8, 8), np.uint8)
REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("reconstruct", None, {}, "inputs are missing"),
    ("reconstruct", [], {}, "at least one"),
    ("reconstruct", "image", {}, "inputs are not an array"),
    ("reconstruct", {"image": 1}, {}, "inputs are not an array"),
    ("reconstruct", [[1, 2], [3]], {}, "all of the same shape"),
    ("reconstruct", [["a"]], {}, "all of the same shape"),
    ("reconstruct", GREY / 255, {}, "If their range is 0 to 1: x * 255, rounded to uint8."),
    ("reconstruct", GREY - 1.0, {}, "If their range is -1 to 1: (x + 1) * 127.5, rounded to"),
    (
        "reconstruct",
        GREY + 1.5,
        {},
        "from 1.5 to 1.5. If their range is 0 to 255: x, rounded",
    ),
    ("reconstruct", GREY - 1.5, {}, "Received: float64 from -1.5 to -1.5."),
    ("reconstruct", GREY * np.nan, {}, "Received: float64 from nan to nan."),
    ("reconstruct", GREY.reshape(2, 64), {}, "2 images with all pixels in a row. Send images as"),
    ("reconstruct", GREY.reshape(2, 64, 1), {}, "Received: [2, 64, 1]."),
    ("reconstruct", np.zeros((100, 784), int), {}, "100 images with all pixels in a row"),
    ("reconstruct", np.zeros((300, 1024), int), {}, "300 images with all pixels in a row"),
    ("reconstruct", np.zeros((900, 3 * 28**2), int), {}, "900 images with all pixels in a row"),
    ("reconstruct", GREY.astype(int) - 1, {}, "Received: -1 to -1"),
    ("reconstruct", GREY.astype(int) + 256, {}, "Received: 256 to 256"),
    ("reconstruct", [[10**30]], {}, "all of the same shape"),
    ("reconstruct", GREY.astype(bool), {}, "Received: bool. Multiply them by 255, as uint8."),
    ("reconstruct", np.zeros((2, 8, 8, 5), np.uint8), {}, "Received: [2, 8, 8, 5]"),
    ("reconstruct", np.zeros(5, np.uint8), {}, "Received: [5]"),
    ("reconstruct", np.zeros((1, 9000, 9000), np.uint8), {}, "Too many pixels"),
    ("decode", [[1.0, 2.0, 3.0]], {}, "Latents have the shape [N, 2]"),
    ("decode", [[1.0, np.nan]], {}, "finite"),
    ("decode", [[1.0, 1e39]], {}, "finite"),
    ("decode", np.zeros((10_001, 2)), {}, "Too many images or latents in one call"),
    ("encode", np.zeros((10_001, 5, 5), np.uint8), {}, "Too many images or latents in one call"),
    (["encode"], GREY, {}, "verb is one of"),  # type: ignore[list-item]
    ("decode", [[True, False]], {}, "Received: bool"),
    ("decode", None, {}, "inputs are missing"),
    ("interpolate", GREY[:1], {}, "two images or latents"),
    ("interpolate", GREY, {"num": 1}, "from 2 to 10000"),
    ("sample", GREY, {}, "takes no inputs"),
    ("sample", None, {"num": 0}, "from 1 to 10000. Received: 0"),
    ("sample", None, {"num": 10_001}, "from 1 to 10000"),
    ("sample", None, {"num": 2.5}, "whole number"),
    ("sample", None, {"num": True}, "whole number"),
    ("sample", None, {"num": "4"}, "whole number"),
    ("sample", None, {"seed": -1}, "seed is a whole number"),
    ("sample", None, {"sede": 1}, "Did you mean seed?"),
    ("sample", None, {"label": 3}, "this model has no classes"),
    (
        "sample",
        None,
        {"model": 3},
        "has no param 'model'. It takes num, seed, label, guidance, temperature.",
    ),
    ("encode", GREY, {"num": 4}, "has no param 'num'. It takes label, prepared."),
    ("encode", GREY, {"prepared": 1}, "prepared is true or false. Received: 1."),
    ("encode", GREY[:, 1:], {"prepared": True}, "[N, 8, 8, 1]. Received: uint8, [2, 7, 8]. Leave"),
    ("log_density", np.zeros((8, 8)), {}, "A single grey image is [1, h, w, 1]."),
    ("smaple", None, {}, "verb is one of reconstruct, encode"),
    (None, None, {}, "verb is one of"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("verb", "inputs", "params", "said"), REFUSED)
def test_a_wrong_call_is_refused_with_a_message_of_one_line(
    servable: Servable, verb: str, inputs: Any, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as refusal:
        servable.call(verb, inputs, params)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("may_differ", "differ"), [(0, 0), (1, 1), (1, 2), (None, 1)])
def test_as_many_golden_answers_may_differ_as_the_export_has_noted(
    tmp_path: Path, may_differ: int | None, differ: int
) -> None:
    """A number between two levels of a code may be rounded either way; most models have none."""
    expected = np.zeros((10, 6), np.float32)
    answers = expected.copy()
    answers[:differ, 2] = 0.4
    note = {"verb": "encode", "params": {}}
    note |= {} if may_differ is None else {"may_differ": may_differ}
    disk.write_arrays(tmp_path / "golden.npz", {"0.input": expected, "0.output": expected})
    disk.write_json(tmp_path / "golden.json", [note])
    if differ <= (may_differ or 0):
        golden.check(tmp_path, lambda verb, inputs, params: answers)
    else:
        with pytest.raises(RegistryError, match=r"encode does not return what .* by up to 0\.4"):
            golden.check(tmp_path, lambda verb, inputs, params: answers)


# --- as MLflow's model ---------------------------------------------------------------------------

CLIENT = """
import json, sys, warnings
import mlflow.pyfunc
import numpy as np

warnings.simplefilter("error")  # nothing that a client would have to wonder about


def refuse_pickle(event, _):
    if event == "pickle.find_class":
        raise RuntimeError("something was unpickled")


sys.addaudithook(refuse_pickle)
model = mlflow.pyfunc.load_model(sys.argv[1])
images = np.load(sys.argv[2])
answer = {
    "default": model.predict(images).tolist(),
    "encode": model.predict(images, params={"verb": "encode"}).tolist(),
    "score": model.predict(images, params={"verb": "anomaly_score"}).to_dict("list"),
    "sample": model.predict(None, params={"verb": "sample", "num": 2, "seed": 1}).tolist(),
}
answer["modules"] = [name for name in ("latentworks", "tensorflow", "keras", "sklearn")
                     if name in sys.modules]
print(json.dumps(answer))
"""


def test_mlflow_loads_a_servable_without_pickle_tensorflow_or_latentworks(
    packaged: Path, servable: Servable, images: np.ndarray, tmp_path: Path
) -> None:
    assert not [*packaged.rglob("*.pkl"), *packaged.rglob("*.pickle")]
    np.save(tmp_path / "images.npy", images[:3])
    shutil.copytree(packaged, tmp_path / "model")  # Python writes bytecode into it
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, "model", "images.npy"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["modules"] == []
    assert (np.array(answer["default"]) == servable.reconstruct(images[:3])).all()
    assert np.allclose(answer["encode"], servable.encode(images[:3]))
    assert np.allclose(answer["score"]["error"], servable.anomaly_score(images[:3])["error"])
    assert (np.array(answer["sample"]) == servable.sample(None, num=2, seed=1)).all()


def test_mlflow_drops_unknown_params_and_a_servable_refuses_wrong_params(
    packaged: Path, images: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import mlflow.pyfunc

    shutil.copytree(packaged, tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    with caplog.at_level("WARNING", logger="mlflow"):
        assert len(model.predict(None, params={"verb": "sample", "sede": 1})) == 16
    assert "sede" in caplog.text
    with pytest.raises(MlflowException, match="encode has no param 'num'"):
        model.predict(images, params={"verb": "encode", "num": 3})
    flat = images[:3].reshape(3, -1)  # would be one image, and so one answer
    with pytest.raises(MlflowException, match=r"Send images as \[N, h, w, c\]"):
        model.predict(flat, params={"verb": "encode"})
    with pytest.raises(MlflowException, match="Latents have the shape"):
        model.unwrap_python_model().predict(None, [[1.0]], {"verb": "decode"})


def test_clients_may_send_images_with_the_range_of_the_training_images(
    packaged: Path, servable: Servable, images: np.ndarray, tmp_path: Path
) -> None:
    """A PNG of 12 bits over HTTP, and an array of 16 bits through MLflow."""
    import mlflow.pyfunc

    folder = shutil.copytree(packaged, tmp_path / "model")
    interface = folder / "artifacts/servable/interface.json"
    disk.write_json(interface, disk.read_json(interface) | {"value_range": {"uint16": [0, 4080]}})
    expected = servable.encode(images[:1])
    deep = images[:1].astype(np.uint16) * 16
    picture = io.BytesIO()
    Image.fromarray(deep[0, ..., 0]).save(picture, "PNG")
    model = Model(Named("deep", 1, "sha"), folder)
    sent = encoding.read(picture.getvalue(), {}, lambda _: None).inputs
    read, params = model.checked("encode", sent, {})
    assert np.allclose(model.call("encode", read, params), expected, atol=1e-5)
    of_mlflow = mlflow.pyfunc.load_model(str(folder))
    assert np.allclose(of_mlflow.predict(deep, {"verb": "encode"}), expected, atol=1e-5)
    own = {"verb": "encode", "prepared": True}
    assert np.allclose(of_mlflow.predict(images[:1], own), expected, atol=1e-5)
    assert np.allclose(of_mlflow.predict(images[:1].astype(int), own), expected, atol=1e-5)


def test_8_bit_images_with_a_range_are_prepared_once_and_those_of_the_model_not_again(
    packaged: Path, servable: Servable, images: np.ndarray, tmp_path: Path
) -> None:
    """Arrays and PNG files of two sizes, by a version whose training images were 0 to 128."""
    folder = shutil.copytree(packaged, tmp_path / "model")
    interface = folder / "artifacts/servable/interface.json"
    disk.write_json(interface, disk.read_json(interface) | {"value_range": {"uint8": [0, 128]}})
    disk.write_json(interface.with_name("golden.json"), [])  # these answers are in the full range
    model = Model(Named("dark", 1, "sha"), folder)
    dark = images[:2] // 4
    dark[0, 0, 0] = 200  # beyond white: training clips it

    def answer(inputs: Any, verb: str = "encode", **params: bool) -> Any:
        return model.call(verb, *model.checked(verb, inputs, params))

    bright = np.stack([to_uint8(image, {"uint8": (0, 128)}) for image in dark])
    expected = servable.encode_images(bright)
    larger = np.pad(dark[1], ((8, 8), (8, 8), (0, 0)))
    for inputs in (dark, dark.tolist(), [*dark], [dark[0], larger]):
        assert np.allclose(answer(inputs)[:1], expected[:1], atol=1e-5)
    own = servable.sample(None, num=2, seed=0)
    for inputs in (own, own.tolist(), [*own]):
        codes = answer(inputs, prepared=True)
        assert np.allclose(codes, servable.encode_images(own), atol=1e-5)
    with pytest.raises(InputError, match=r"prepared is for images of \[8, 8, 1\]"):
        answer([own[0], larger], prepared=True)


def test_a_version_from_before_prepared_never_receives_it(
    packaged: Path, images: np.ndarray, tmp_path: Path
) -> None:
    folder = shutil.copytree(packaged, tmp_path / "model")
    (code,) = (folder / "code").glob("*/serving/servable.py")
    text = code.read_text().replace('("label", "prepared")', '("label",)')
    code.write_text(text)
    model = Model(Named("old", 1, "sha"), folder)
    for verb in ("encode", "log_density"):
        read, params = model.checked(verb, images[:2], {"prepared": True})
        assert model.call(verb, read, params) is not None
    new = Model(Named("new", 1, "sha"), packaged)
    assert new.checked("encode", images[:2], {"prepared": True})[1] == {"prepared": True}


def test_a_float_image_of_the_size_of_the_model_has_a_log_density(
    servable: Servable, images: np.ndarray, finished: Checkout
) -> None:
    """If the training images were floats. Floats are latents otherwise."""
    of_floats = load(finished.path / "models/servable")
    of_floats.interface = replace(of_floats.interface, value_range={"float32": (0, 1)})
    image = images[0, ..., 0]
    (expected,) = servable.log_density(image)
    assert of_floats.log_density((image / 255).astype(np.float32)) == pytest.approx(expected)
    latent = servable.encode(images[:1])
    assert of_floats.log_density(latent) == pytest.approx(expected)
    with pytest.raises(InputError, match=r"shape \[N, 2\]\. Received: \[7, 8\]\. A single grey"):
        of_floats.log_density(image[1:] / 255)


def test_two_versions_in_one_process_keep_their_own_code(packaged: Path, tmp_path: Path) -> None:
    import mlflow.pyfunc

    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(packaged, one)
    shutil.copytree(packaged, other)
    (package,) = (other / "code").iterdir()
    renamed = package.rename(package.with_name("latentworks_000000000000"))
    for file in [*renamed.rglob("*.py"), other / "pyfunc.py"]:
        file.write_text(file.read_text().replace(package.name, renamed.name))
    code = renamed / "serving/servable.py"
    code.write_text(code.read_text().replace('"sample": 16', '"sample": 3'))
    first, second = (mlflow.pyfunc.load_model(str(folder)) for folder in (one, other))
    assert len(second.predict(None, params={"verb": "sample"})) == 3
    assert len(first.predict(None, params={"verb": "sample"})) == 16
    assert loading.load(other).sample(None).shape[0] == 3


@pytest.mark.parametrize(
    "call",
    [
        ("-c", "import mlflow.pyfunc as p; p.load_model({folder!r})"),
        ("-c", "from latentworks.serving import loading as l; l.load(l.Path({folder!r}))"),
        ("-m", "latentworks.stages", "export"),  # it ends after its imports: the paths are missing
    ],
    ids=["pyfunc", "loading", "stage"],
)
def test_onnx_runtime_keeps_no_id_of_the_machine(
    packaged: Path, tmp_path: Path, call: tuple[str, ...]
) -> None:
    """Its packages collect events, and keep an id in the home folder, unless told not to."""
    assert not ids_kept([each.format(folder=str(packaged)) for each in call], tmp_path)


def test_without_the_setting_onnx_runtime_keeps_an_id(tmp_path: Path) -> None:
    assert ids_kept(["-c", "import onnxruntime"], tmp_path)


def ids_kept(call: list[str], home: Path) -> list[Path]:
    """Run Python code that imports ONNX Runtime, and return the ids in its home folder."""
    # Nothing else of this environment: its packages keep no id where CI, or the like, is set.
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-B", "-X", "importtime", *call],  # no bytecode among a version's files
        env=env,
        capture_output=True,
        text=True,
    )
    assert re.search(r"\| +onnxruntime$", done.stderr, flags=re.MULTILINE)
    return [*home.rglob("deviceid")]


def test_a_packaged_model_contains_no_paths_of_this_machine(
    packaged: Path, finished: Checkout
) -> None:
    for file in packaged.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for path in (finished.path, ROOT, Path(sys.prefix)):
                assert str(path).encode() not in content, file


# --- pre-flight ----------------------------------------------------------------------------------


def test_preflight_passes_an_intact_model(packaged: Path) -> None:
    preflight.run(packaged)
    # The pre-flight keeps Python from writing bytecode among the files that are hashed.
    checksums.verify(packaged, disk.file_digest(packaged / checksums.SUMS), "it")


@pytest.fixture
def broken(packaged: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the packaged model for a test to damage. Afterwards, the pre-flight refuses it."""
    folder = tmp_path / "broken"
    shutil.copytree(packaged, folder)
    yield folder
    with pytest.raises(RegistryError) as fault:
        preflight.run(folder)
    assert str(fault.value).startswith("pre-flight: ")
    assert "\n" not in str(fault.value)


def test_preflight_refuses_changed_weights_of_the_decoder(broken: Path) -> None:
    # The largest weight tensor of the decoder, scaled by 1.1.
    path = broken / "artifacts/servable/decoder.onnx"
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    weights = max(model.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    values = numpy_helper.to_array(weights) * np.float32(1.1)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    onnx.save(model, path)


def test_preflight_refuses_a_changed_sampler(broken: Path) -> None:
    path = broken / "artifacts/servable/sampler/sampler.npz"
    arrays = disk.read_arrays(path)
    disk.write_arrays(path, {**arrays, "means": arrays["means"] + 1})


@pytest.mark.parametrize("name", ["artifacts/servable/encoder.onnx", "pyfunc.py", "MLmodel"])
def test_preflight_refuses_a_truncated_file(broken: Path, name: str) -> None:
    (broken / name).write_bytes((broken / name).read_bytes()[:100])


# --- sums ----------------------------------------------------------------------------------------


def test_verify_refuses_every_change_of_a_sealed_folder(packaged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(packaged, folder)
    digest = checksums.seal(folder)
    checksums.verify(folder, digest, "it")
    done = subprocess.run(["sha256sum", "--check", "--quiet", checksums.SUMS], cwd=folder)
    assert done.returncode == 0

    def refused(said: str) -> None:
        with pytest.raises(RegistryError, match=said):
            checksums.verify(folder, digest, "it")

    graph = folder / "artifacts/servable/decoder.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused("decoder.onnx does not match its sha256")
    graph.unlink()
    refused("decoder.onnx is missing")
    graph.write_bytes(content)
    (folder / "code/sitecustomize.py").write_text("")
    refused("sitecustomize.py is not part of the version")
    (folder / "code/sitecustomize.py").unlink()
    checksums.verify(folder, digest, "it")
    checksums.seal(folder)
    (folder / checksums.SUMS).write_text("")
    refused("SHA256SUMS does not match")


def test_interface_json_has_exactly_the_known_fields(
    servable: Servable, finished: Checkout
) -> None:
    fields = disk.read_json(finished.path / "models/servable/interface.json")
    assert TypeAdapter(dict[str, Any]).validate_python(fields) == {
        "image_shape": [8, 8, 1],
        "latent_dim": 2,
        "labels": [],
        "fit": "pad",
        "background": 0,
        "value_range": {},
    }
    assert servable.interface.image_shape == (8, 8, 1)


def test_an_interface_in_words_names_the_ranges_of_images(
    finished: Checkout, tmp_path: Path
) -> None:
    """The registry compares these words. Versions from before the ranges read images in full."""
    fields = disk.read_json(finished.path / "models/servable/interface.json")

    def words(**ranges: Any) -> str:
        disk.write_json(tmp_path / "interface.json", fields | ranges)
        return candidates.interface_of(tmp_path)

    plain = words(value_range={})
    assert plain == "8x8x1 images, 2 latents"
    both = {"uint8": [0, 1], "uint16": [0, 4095]}
    assert words(value_range=both) == f"{plain}, uint16 from 0 to 4095, uint8 from 0 to 1"
    assert words(value_range={"uint16": [0, 4080]}) != words(value_range={"uint16": [0, 4095]})
    del fields["value_range"]
    assert words() == plain
