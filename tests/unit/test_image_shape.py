"""Images that are higher than wide go through every room: 12 x 8 pixels, cropped from digits."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from families import OF_KIND, autoencoder
from latentworks import metrics
from latentworks.artifacts.images import Prepared, read_prepared
from latentworks.artifacts.latents import Latents
from latentworks.artifacts.samples import Samples, write_sampler
from latentworks.engine import inference
from latentworks.engine.detail import Detail
from latentworks.engine.discriminator import discriminator
from latentworks.errors import InputError
from latentworks.evaluation import generation, pictures
from latentworks.evaluation.features import choice, classifier
from latentworks.plots.tiles import side_to_fill_page
from latentworks.preprocess import to_pixels
from latentworks.results import pictures as files
from latentworks.samplers.config import GaussianConfig
from latentworks.server import encoding
from latentworks.server.model import Model, Named
from latentworks.serving import checksums, export, inputs, packaging
from latentworks.serving.servable import Interface, Servable, load
from latentworks.stages import prepare
from latentworks.system import disk

SHAPE = (12, 8, 1)
NUM, NUM_SAMPLES = 120, 40  # images
PARAMS = """
dataset: {kind: image_folder, path: PATH}
prepare:
  {image_size: [12, 8], channels: 1, fit: crop, background: 0, val_fraction: 0.1,
  test_fraction: 0.3, min_images: 2}
"""


class Result(NamedTuple):
    """A result of a model without training."""

    pictures: Path  # the folder of the original pictures
    data: Prepared
    network: Any
    latents: np.ndarray  # float32 [N, D], of the training images
    samples: Samples


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("shape")
    for row, image in enumerate(load_digits().images[:NUM]):
        larger = np.round(image * 255 / 16).astype(np.uint8).repeat(3, 0).repeat(4, 1)
        path = folder / "pictures" / str(row % 2) / f"{row:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(larger[: 24 - row % 5]).save(path)
    disk.write_json(make(folder / "raw") / "source.json", {"kind": "image_folder", "files": {}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("params.yaml").write_text(PARAMS.replace("PATH", "pictures"))
        prepare.main(Path("raw"), Path("prepared"))
    data = read_prepared(folder / "prepared")
    network = autoencoder(latent_dim=3).build(SHAPE)
    latents = np.concatenate([*inference.encode(network, data.images, data.rows("train"))])
    sampler = GaussianConfig(kind="gaussian").fit(latents, None, 0)
    z = sampler.sample(NUM_SAMPLES, np.random.default_rng(0))
    images = to_pixels(np.concatenate([*inference.decode(network, z)]))
    return Result(folder / "pictures", data, network, latents, Samples(images, z, None))


@pytest.fixture(scope="module")
def packaged(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a version that crops."""
    folder = tmp_path_factory.mktemp("servable")
    config = GaussianConfig(kind="gaussian")
    sampler = config.fit(result.latents, None, 0)
    write_sampler(make(folder / "sampler"), sampler, config)
    images = np.array(result.data.images[result.data.rows("test")])
    profile = result.data.profile
    export.write(
        make(folder / "servable"),
        result.network,
        sampler,
        folder / "sampler",
        Interface(SHAPE, 3, (), profile["fit"], profile["background"]),
        images[:5],
        np.linspace(0, 1, 10),
    )
    packaging.assemble(folder / "model", folder / "servable", [], "a run", "a model")
    checksums.seal(folder / "model")
    return folder / "model"


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_prepared_images_have_both_sides_of_the_params(result: Result) -> None:
    assert result.data.images.shape == (NUM, *SHAPE)
    assert result.data.profile["image_shape"] == [*SHAPE]
    assert result.data.profile["fit"] == "crop"


# --- models and metrics --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["autoencoder", "codes"])
def test_a_model_and_its_second_phase_take_the_shape(kind: str, result: Result) -> None:
    network = OF_KIND[kind].build(SHAPE)
    images = np.array(result.data.images[:4])
    again = network.decode(network.encode(images))
    assert again.shape == images.shape
    if kind == "codes":  # a place for 4 x 4 pixels
        assert network.grid == (3, 2)
    distances = Detail(1, [images]).distances(images.astype(np.float32) / 255, again)
    assert all(float(each) > 0 for each in distances)
    assert discriminator(SHAPE)(again).shape == (4, 3, 2, 1)


def test_metrics_compare_images_of_the_shape(result: Result) -> None:
    data, samples = result.data, result.samples
    train, test = data.rows("train"), data.rows("test")
    pairs = inference.reconstruct(result.network, data.images, test)
    scores = metrics.reconstruction_metrics(pairs)
    scores |= metrics.sample_metrics(samples.images, data.images, train, test)
    judge = choice.make(data.images, train, None, [])

    def see(batches: Any) -> Any:
        return classifier.see(judge, batches)

    scores |= generation.compare(see, result.network, data, samples)
    assert {"ssim", "memorisation", "frechet"} <= scores.keys()
    assert np.isfinite([*scores.values()]).all()


# --- pictures ------------------------------------------------------------------------------------


def test_every_picture_keeps_the_shape_of_the_images(result: Result) -> None:
    names, labels = result.data.class_names, result.data.labels(result.data.rows("train"))
    latents = Latents(np.empty(len(result.latents), str), result.latents, labels)
    images = np.array(result.data.images[:NUM_SAMPLES])
    labelled = replace(result.samples, images=images, labels=np.arange(NUM_SAMPLES) % 2)
    figures = {
        **pictures.of_data(result.network, result.data),
        **pictures.of_latents(result.network, latents, names),
        **pictures.of_samples(result.data, labelled),
    }
    for figure in figures.values():
        figure.canvas.draw()
    (picture,) = figures["samples"].axes[0].get_images()
    drawn = np.asarray(picture.get_array())
    zoom = side_to_fill_page(NUM_SAMPLES, SHAPE) // 12
    first = np.broadcast_to(images[0], (12, 8, 3)).repeat(zoom, 0).repeat(zoom, 1)
    np.testing.assert_array_equal(drawn[: 12 * zoom, : 8 * zoom], first)


def test_the_atlas_keeps_the_shape_of_the_images(result: Result) -> None:
    page = pictures.atlas(result.network, result.data, 0.1)
    shown = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    sprite = shown["sprite"]
    with Image.open(io.BytesIO(base64.b64decode(sprite["png"]))) as picture:
        assert picture.width == 8 * sprite["columns"]
        assert picture.height % 12 == 0
    assert shown["program"]["image_shape"] == [*SHAPE]


# --- serving -------------------------------------------------------------------------------------


def test_a_version_crops_at_the_server_as_in_prepare(result: Result, packaged: Path) -> None:
    """PNG files and arrays, in a request, in Python, and from the command line."""
    model = Model(Named("cropping", 1, "sha"), packaged)  # repeats the golden answers
    servable = load(packaged / "artifacts/servable")
    assert servable.interface.fit == "crop"
    names = result.data.index["name"]
    for row, expected in zip(range(10), result.data.images, strict=False):
        path = result.pictures / names[row]
        call = encoding.read(path.read_bytes(), {}, lambda _: None)
        checked, _ = model.checked("encode", call.inputs, {})
        np.testing.assert_array_equal(checked, expected[None])
        raw = np.asarray(Image.open(path))
        np.testing.assert_array_equal(of_servable(servable, raw), expected[None])
        np.testing.assert_array_equal(files.read([path], servable.interface), expected[None])
    assert model.call("sample", None, {"num": 4}).shape == (4, *SHAPE)


def of_servable(servable: Servable, image: np.ndarray) -> np.ndarray:
    how = servable.interface.fit, servable.interface.background
    return inputs.prepare(inputs.to_images(image, SHAPE), SHAPE, *how)


@pytest.mark.parametrize("shape", [(64, 256, 1), (8, 256, 1), (16, 768, 1)], ids=str)
def test_a_wide_grey_image_of_the_model_is_no_rows_of_square_images(
    shape: tuple[int, int, int],
) -> None:
    image = np.zeros(shape[:2], np.uint8)
    assert inputs.to_images(image, shape).shape == (1, *shape)
    with pytest.raises(InputError, match="with all pixels in a row"):
        inputs.to_images(image, SHAPE)
