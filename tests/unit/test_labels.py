"""A conditional model, or a sampler of classes, gives images of the class that a user asks for."""

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
import uvicorn
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from families import OF_KIND, autoencoder
from latentworks import metrics
from latentworks.artifacts.images import Prepared
from latentworks.artifacts.samples import write_sampler
from latentworks.engine import inference
from latentworks.errors import DataError, InputError
from latentworks.preprocess import to_pixels
from latentworks.promotion import scoring
from latentworks.samplers.config import ClassGaussianMixtureConfig, StandardNormalConfig
from latentworks.samplers.drawing import class_shares, draw
from latentworks.samplers.standard_normal import StandardNormal
from latentworks.server import encoding
from latentworks.server.app import create
from latentworks.server.budget import Budget, Share
from latentworks.server.model import Model, Named
from latentworks.server.schema import VERBS
from latentworks.server.service import Following, Service
from latentworks.serving import checksums, export, packaging, preflight
from latentworks.serving.servable import Interface, Servable, load
from latentworks.system import disk
from servers import closed_port, until

NAMES = ("dress", "sneaker", "bag")
SHARES = np.array([0.5, 0.5, 0.0])  # no training image is a bag
SOURCES = "return [...document.querySelectorAll('#samples img')].map((image) => image.src)"
TOLERANCE = 1e-5  # as in test_servable


class Labelled:
    """A model and a sampler, of which one knows classes, and their servable in `folder`."""

    def __init__(self, folder: Path, config: Any, sampler: Any) -> None:
        self.network = config.build((8, 8, 1), len(NAMES))
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
        self.labels = np.arange(40) % 2
        latents = np.concatenate(
            [*inference.encode(self.network, self.images, np.arange(40), self.labels)]
        )
        self.sampler = sampler.fit(latents, self.labels, 0)
        self.folder = folder
        for name in ("sampler", "servable"):
            (folder / name).mkdir(parents=True)
        write_sampler(folder / "sampler", self.sampler, sampler)
        export.write(
            folder / "servable",
            self.network,
            self.sampler,
            folder / "sampler",
            Interface((8, 8, 1), self.network.latent_dim, NAMES, "pad", 0),
            self.images[:3],
            np.linspace(0, 1, 10),
            class_shares(self.sampler, self.network.num_classes > 0, self.labels, len(NAMES)),
        )
        self.servable = load(folder / "servable")

    def decoded(self, latents: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        return np.concatenate([*inference.decode(self.network, latents, labels)])


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    sampler = StandardNormalConfig(kind="standard_normal")
    return Labelled(tmp_path_factory.mktemp("conditional"), OF_KIND["conditional"], sampler)


@pytest.fixture(scope="module")
def by_class(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    sampler = ClassGaussianMixtureConfig(kind="class_gaussian_mixture", num_components=1)
    return Labelled(tmp_path_factory.mktemp("by_class"), autoencoder(), sampler)


# --- drawing -------------------------------------------------------------------------------------


def test_classes_are_drawn_in_proportion_to_their_shares(by_class: Labelled) -> None:
    rng = np.random.default_rng(0)
    shares = np.array([0.2, 0.8])
    latents, labels = draw(by_class.sampler, 4000, rng, shares)
    assert labels is not None
    # Five standard errors of a share of 4000.
    assert (labels == 0).mean() == pytest.approx(0.2, abs=5 * np.sqrt(0.16 / 4000))
    for label in (0, 1):
        mine = latents[labels == label]
        mean = by_class.sampler.of_class(label).means[0]
        assert (np.abs(mine.mean(axis=0) - mean) < 5 * mine.std(axis=0) / np.sqrt(len(mine))).all()


def test_one_class_can_be_drawn(by_class: Labelled, conditional: Labelled) -> None:
    for each in (by_class, conditional):
        _, labels = draw(each.sampler, 10, np.random.default_rng(0), SHARES, label=1)
        np.testing.assert_array_equal(labels, np.ones(10))


def test_draw_without_shares_returns_no_labels(by_class: Labelled) -> None:
    latents, labels = draw(by_class.sampler, 10, np.random.default_rng(0))
    assert labels is None
    np.testing.assert_array_equal(latents, by_class.sampler.sample(10, np.random.default_rng(0)))


def test_class_shares_leave_out_images_without_a_label() -> None:
    normal, labels = StandardNormal(2), np.array([0, 2, -1, 2, 2])
    np.testing.assert_array_equal(class_shares(normal, True, labels, 4), [0.25, 0, 0.75, 0])
    with pytest.raises(DataError, match="no training image has a label"):
        class_shares(normal, True, np.array([-1, -1]), 4)
    assert class_shares(normal, False, labels, 4) is None
    assert class_shares(normal, True, None, 4) is None


def test_a_class_that_the_sampler_was_not_fitted_to_is_not_drawn(by_class: Labelled) -> None:
    """A sampler is fitted to some of many latents, and a rare class may not be among them."""
    shares = class_shares(by_class.sampler, False, np.array([0, 1, 1, 1, 2]), len(NAMES))
    np.testing.assert_array_equal(shares, [0.25, 0.75, 0])
    _, labels = draw(by_class.sampler, 100, np.random.default_rng(0), shares)
    assert set(labels) == {0, 1}


def test_images_keep_their_labels_over_many_batches() -> None:
    network = OF_KIND["conditional"].build((8, 8, 1), len(NAMES))
    rng = np.random.default_rng(0)
    num = 2 * inference.MAX_BATCH_SIZE + 7
    images = rng.integers(0, 256, (num, 8, 8, 1), dtype=np.uint8)
    labels = rng.integers(-1, len(NAMES), num)
    rows = rng.permutation(num)
    z = np.concatenate([*inference.encode(network, images, rows, labels[rows])])
    pairs = [*inference.reconstruct(network, images, rows, labels[rows])]
    assert len(pairs) == 3
    # One batch adds the float32 sums in another order.
    whole = np.asarray(network.encode(images[rows], labels[rows]))
    np.testing.assert_allclose(z, whole, atol=TOLERANCE)
    again = np.asarray(network.decode(whole, labels[rows]))
    np.testing.assert_allclose(np.concatenate([b for _, b in pairs]), again, atol=TOLERANCE)
    np.testing.assert_array_equal(np.concatenate([a for a, _ in pairs]), images[rows])


# --- the servable --------------------------------------------------------------------------------


def test_a_conditional_servable_equals_keras(conditional: Labelled) -> None:
    servable, images, labels = conditional.servable, conditional.images, conditional.labels
    assert servable.conditional
    for given in (labels, None):
        latents = np.concatenate(
            [*inference.encode(conditional.network, images, np.arange(40), given)]
        )
        assert np.abs(servable.encode_images(images, given) - latents).max() <= TOLERANCE
        decoded = servable.decode_latents(latents, given)
        assert np.abs(decoded - conditional.decoded(latents, given)).max() <= TOLERANCE


@pytest.mark.parametrize("kind", ["conditional", "by_class"])
def test_a_class_is_chosen_by_name_or_number(kind: str, request: pytest.FixtureRequest) -> None:
    each = request.getfixturevalue(kind)
    servable: Servable = each.servable
    assert servable.interface.labels == NAMES
    drawn = servable.sample(None, num=5, seed=1, label="sneaker")
    np.testing.assert_array_equal(drawn, servable.sample(None, num=5, seed=1, label=1))
    latents, labels = servable.draw(5, 1, 1)
    expected = to_pixels(each.decoded(latents, labels if each.network.num_classes else None))
    assert np.abs(drawn.astype(int) - expected).max() <= 1
    assert not np.array_equal(drawn, servable.sample(None, num=5, seed=1, label="dress"))


def test_a_label_applies_to_all_images_of_a_call(conditional: Labelled) -> None:
    servable, images = conditional.servable, conditional.images[:4]
    ones = np.ones(4, np.int64)
    latents = servable.encode(images, label="sneaker")
    np.testing.assert_array_equal(latents, servable.encode_images(images, ones))
    decoded = to_pixels(servable.decode_latents(latents, ones))
    np.testing.assert_array_equal(servable.decode(latents, label=1), decoded)
    np.testing.assert_array_equal(servable.reconstruct(images, label=1), decoded)
    ends = servable.interpolate(images[:2], num=2, label=1)
    np.testing.assert_array_equal(ends, decoded[:2])
    error = servable.anomaly_score(images, label=1)["error"]
    again = servable.decode_latents(latents, ones)
    assert np.allclose(error, ((images / 255 - again) ** 2).mean(axis=(1, 2, 3)), atol=1e-6)
    assert np.allclose(servable.log_density(images, label=1), servable.log_density(latents))


@pytest.mark.parametrize(
    ("kind", "verb", "label", "fault"),
    [
        ("conditional", "sample", "sneeker", "Received: 'sneeker'. Did you mean 'sneaker'?"),
        ("conditional", "sample", "boat" * 40, "One of them: 'dress'."),
        ("conditional", "decode", 3, "label is a whole number from 0 to 2. Received: 3."),
        ("conditional", "decode", True, "Received: True."),
        ("conditional", "decode", [1], "Received: [1]."),
        ("conditional", "sample", "bag", "label bag has no training images"),
        ("by_class", "sample", "bag", "label bag has no training images"),
        ("by_class", "decode", "dress", "this model is not conditional"),
    ],
)
def test_an_invalid_label_is_refused_in_one_line(
    kind: str, verb: str, label: Any, fault: str, request: pytest.FixtureRequest
) -> None:
    inputs = None if verb == "sample" else [0.0, 0.0]
    with pytest.raises(InputError) as error:
        request.getfixturevalue(kind).servable.call(verb, inputs, {"label": label})
    assert fault in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 300


# --- over HTTP -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Service]]:
    """A server that needs no registry. Each test puts a model into its service."""
    service = Service(Following("labelled", "champion"), max_waiting=10)
    port = closed_port()
    server = uvicorn.Server(uvicorn.Config(create(service), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    yield f"http://127.0.0.1:{port}", service
    server.should_exit = True
    thread.join()


@pytest.fixture(params=["conditional", "by_class"])
def client(
    request: pytest.FixtureRequest, served: tuple[str, Service], tmp_path: Path
) -> tuple[str, Labelled]:
    """The address of the server, and the model that answers."""
    url, service = served
    each = request.getfixturevalue(request.param)
    packaging.assemble(tmp_path / "model", each.folder / "servable", [], "a run", "a model")
    checksums.seal(tmp_path / "model")
    service.swap(Model(Named("labelled", 1, "sha"), tmp_path / "model"))
    return url, each


@pytest.mark.parametrize("kind", ["conditional", "by_class"])
def test_a_version_with_labels_passes_its_preflight(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """The preflight asks the golden questions through MLflow, to which a label is text."""
    folder = request.getfixturevalue(kind).folder / "servable"
    asked = disk.read_json(folder / "golden.json")
    assert "label" in {name for question in asked for name in question["params"]}
    packaging.assemble(tmp_path / "model", folder, [], "a run", "a model")
    preflight.run(tmp_path / "model")


def test_the_name_of_a_class_may_contain_true_or_false() -> None:
    claim = Share(Budget()).claim
    given = encoding.read(b'{"inputs": [[0, 1]], "label": "false friends"}', {}, claim)
    assert given.params == {"label": "false friends"}
    assert encoding.read(b'{"label": "true"}', {}, claim).params == {"label": "true"}
    with pytest.raises(InputError, match="inputs are numbers"):
        encoding.read(b'{"inputs": [[0, true]]}', {}, claim)


def test_samples_of_a_class_can_be_requested_over_http(client: tuple[str, Labelled]) -> None:
    url, each = client
    expected = each.servable.sample(None, num=3, seed=7, label="sneaker").tolist()
    asked = {"num": 3, "seed": 7, "label": "sneaker"}
    assert requests.post(f"{url}/sample", json=asked, timeout=30).json()["outputs"] == expected
    params = {"verb": "sample", **asked}
    body = {"inputs": None, "params": params}
    assert (
        requests.post(f"{url}/invocations", json=body, timeout=30).json()["predictions"] == expected
    )
    seen = requests.get(
        f"{url}/sample", params=asked, timeout=30, headers={"accept": "application/json"}
    )
    assert seen.json()["outputs"] == expected
    refused = requests.get(f"{url}/sample", params={"label": "boat"}, timeout=30)
    assert refused.status_code == 422
    assert "label is the name of a class" in refused.json()["error"]
    known = requests.get(f"{url}/version", timeout=30).json()
    assert (known["labels"], known["conditional"]) == ([*NAMES], each.network.num_classes > 0)


def test_only_a_conditional_model_decodes_by_label_over_http(
    client: tuple[str, Labelled],
) -> None:
    url, each = client
    answer = requests.get(
        f"{url}/decode",
        params={"z": "0.5,-1", "label": "dress"},
        timeout=30,
        headers={"accept": "application/json"},
    )
    if not each.network.num_classes:
        assert answer.status_code == 422
        return
    assert answer.json()["outputs"] == each.servable.decode([0.5, -1], label="dress").tolist()


def test_the_openapi_description_names_the_classes(client: tuple[str, Labelled]) -> None:
    url, each = client
    paths = requests.get(f"{url}/openapi.json", timeout=30).json()["paths"]
    takes = {
        verb
        for verb in VERBS
        if "label"
        in paths[f"/{verb}"]["post"]["requestBody"]["content"]["application/json"]["schema"][
            "properties"
        ]
    }
    assert takes == (set(VERBS) if each.network.num_classes else {"sample"})
    (label,) = [each for each in paths["/sample"]["get"]["parameters"] if each["name"] == "label"]
    assert label["schema"] == {"enum": [*NAMES]}


@pytest.mark.system
def test_the_page_shows_samples_of_the_chosen_class(
    browser: Any, client: tuple[str, Labelled]
) -> None:
    url, each = client

    def samples() -> list[np.ndarray]:
        sources = browser.execute_script(SOURCES)
        files = [base64.b64decode(source.partition(",")[2]) for source in sources]
        return [np.asarray(Image.open(io.BytesIO(file)))[..., None] for file in files]

    def drawn(label: str | None) -> np.ndarray:
        seed = int(browser.find_element(By.ID, "seed").text.removeprefix("Seed ")[:-1])
        return each.servable.sample(None, num=24, seed=seed, label=label)

    browser.get(url)
    until(lambda: len(samples()) == 24)
    np.testing.assert_array_equal(samples(), drawn(None))
    chosen = Select(browser.find_element(By.ID, "class"))
    assert [option.text for option in chosen.options] == ["any", *NAMES]
    chosen.select_by_visible_text("sneaker")
    until(lambda: np.array_equal(samples(), drawn("sneaker")))
    chosen.select_by_visible_text("bag")
    fault = browser.find_element(By.ID, "fault")
    until(lambda: "label bag has no training images" in fault.text)


# --- the gate ------------------------------------------------------------------------------------


def test_the_gate_scores_a_conditional_model_with_labels(conditional: Labelled) -> None:
    split = np.where(np.arange(40) < 20, "train", "test")
    index = pd.DataFrame({"split": split, "label": pd.array(conditional.labels, dtype="Int64")})
    profile = {"class_names": [*NAMES], "fingerprint": "some"}
    prepared = Prepared(conditional.images, index, profile)
    scores = scoring.score(conditional.servable, prepared, size_mb=1.0).metrics
    test, labels = conditional.images[20:], conditional.labels[20:]
    latents = conditional.servable.encode_images(test, labels)
    again = conditional.servable.decode_latents(latents, labels)
    assert scores["mse"].value == pytest.approx(((test / 255 - again) ** 2).mean(), rel=1e-5)
    drawn, asked = conditional.servable.draw(scoring.NUM_SAMPLES, scoring.SEED)
    samples = to_pixels(conditional.servable.decode_latents(drawn, asked))
    rows = np.arange(len(samples))
    expected = metrics.sliced_wasserstein(
        metrics.project(samples, rows), metrics.project(test, np.arange(20))
    )
    assert scores["sliced_wasserstein"].value == pytest.approx(expected, rel=1e-5)
