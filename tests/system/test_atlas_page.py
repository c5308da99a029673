"""The latent atlas in a browser: it decodes the same images as Keras, and sends no request."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from atlas_page import NAMES, Page, of_the_book, space
from families import NUM_CLASSES, OF_KIND, autoencoder
from latentworks.plots.decoder_program import DecoderProgram
from latentworks.plots.palette import class_colours
from servers import until

pytestmark = pytest.mark.system

STEP = 3e-4  # the largest step to which latents are rounded


def of_ours(architecture: str) -> Any:
    return autoencoder(architecture=architecture, filters=(8, 16)).build((12, 12, 1)).decoder


def conditional() -> Any:
    return OF_KIND["conditional"].build((12, 12, 1), NUM_CLASSES).decoder


def of_all_kinds() -> Any:
    """A decoder that takes a class, with a layer of each kind."""
    from keras import Model, layers

    latents, labels = layers.Input((4,), name="latents"), layers.Input((3,), name="labels")
    x = layers.Concatenate()([latents, labels])
    x = layers.LayerNormalization()(layers.Dense(96, "gelu")(x))
    x = layers.Dropout(0.5)(layers.Reshape((4, 3, 8))(x))
    for activation in ("silu", "softplus"):
        y = layers.Activation(activation)(layers.GroupNormalization(4)(x))
        x = layers.Add()([x, layers.Conv2D(8, 3, padding="same")(y)])
        x = layers.UpSampling2D((2, 3), interpolation="nearest")(x)
    gate = layers.Reshape((1, 1, 8))(layers.Dense(8, "sigmoid")(labels))
    x = layers.Multiply()([x, gate])
    x = layers.Conv2DTranspose(8, 4, 2, "same", activation="leaky_relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.LeakyReLU()(layers.Conv2DTranspose(6, 5, padding="same", use_bias=False)(x))
    x = layers.Cropping2D(((2, 1), (0, 5)))(layers.ZeroPadding2D(((1, 2), (3, 0)))(x))
    x = layers.Conv2D(6, (2, 3), (2, 1), "same", activation="tanh")(layers.Permute((2, 1, 3))(x))
    x = layers.Conv2DTranspose(6, 2, 2, "valid", activation="elu")(x)
    x = layers.ReLU()(layers.Conv2DTranspose(6, 1, 2, "same")(x))
    x = layers.Conv2D(6, 3, dilation_rate=2, activation=layers.LeakyReLU(0.1))(x)
    x = layers.Rescaling(3.0, offset=[0.5, 0.4, 0.6])(layers.Conv2D(3, 3, padding="same")(x))
    return Model([latents, labels], layers.Activation("sigmoid")(x), name="decoder")


def with_other_weights(decoder: Any) -> Any:
    """Change all weights, so that none is 0 or 1 by default, and so that images have contrast."""
    rng = np.random.default_rng(1)
    for weight in decoder.weights:
        noise = rng.normal(0, 0.1, weight.shape)
        weight.assign(np.abs(weight + noise) if "variance" in weight.path else weight + noise)
    return decoder


DECODERS = {
    "of the book": lambda: of_the_book(2, (32, 32, 1)),
    "cropped": lambda: of_the_book(3, (19, 13, 3)),
    "fast": lambda: of_ours("fast"),
    "residual": lambda: of_ours("residual"),
    "conditional": conditional,
    "codes": lambda: OF_KIND["codes"].build((10, 12, 1)).decoder,
    "of all kinds": of_all_kinds,
}


def expected(decoder: Any, z: np.ndarray, label: int = -1) -> np.ndarray:
    """The pixels that Keras decodes: float64 [H, W, 3] up to 255."""
    given = [z[None].astype(np.float32)]
    if len(decoder.inputs) > 1:
        given.append(np.equal(np.arange(3)[None], label).astype(np.float32))
    image = np.asarray(decoder(given if len(given) > 1 else given[0]))[0] * 255.0
    return np.broadcast_to(image, (*image.shape[:2], 3))


@pytest.fixture(scope="module")
def decoder() -> Any:
    return with_other_weights(of_the_book(2, (8, 8, 1)))


@pytest.fixture(scope="module")
def plane(decoder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas of a model with two latents."""
    path = tmp_path_factory.mktemp("plane") / "atlas.html"
    path.write_text(space(2, (8, 8, 1)).page(DecoderProgram.of(decoder)))
    return path


@pytest.fixture
def page(browser: webdriver.Chrome, plane: Path) -> Page:
    page = Page(browser)
    page.window(1280, 800)
    page.open(plane)
    return page


@pytest.mark.parametrize("kind", DECODERS)
def test_a_browser_decodes_as_keras_does(
    browser: webdriver.Chrome, tmp_path: Path, kind: str
) -> None:
    decoder = with_other_weights(DECODERS[kind]())
    program = DecoderProgram.of(decoder)
    given = space(program.inputs["latents"], program.image_shape, 9)
    given = replace(given, labels=np.arange(9) % 4 - 1)  # some images have no label
    (tmp_path / "atlas.html").write_text(given.page(program))
    page = Page(browser)
    page.open(tmp_path / "atlas.html")
    for point in range(9):
        page.script("take(arguments[0])", point)
        page.settle()
        image = expected(decoder, page.latents(), point % 4 - 1)
        assert image.std() > 1
        # The browser rounds to whole numbers, and adds in another order.
        np.testing.assert_allclose(page.pixels("#decoded"), image, atol=0.51)


def test_the_atlas_sends_no_request(browser: webdriver.Chrome, page: Page, plane: Path) -> None:
    browser.get_log("performance")
    browser.get_log("browser")
    page.open(plane)
    page.script("document.querySelector('[value=decoded]').click()")
    page.settle()
    entries = [json.loads(each["message"])["message"] for each in browser.get_log("performance")]
    asked = [
        entry["params"]["request"]["url"]
        for entry in entries
        if entry["method"] == "Network.requestWillBeSent"
    ]
    assert plane.as_uri() in asked
    assert all(url == plane.as_uri() or url.startswith(("blob:", "data:")) for url in asked), asked
    assert browser.get_log("browser") == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_view_and_the_button_show_all_images(
    page: Page, plane: Path, width: int, height: int
) -> None:
    def all_inside() -> bool:
        at = np.array([page.place(point) for point in range(60)])
        map_ = page.find("#map").rect
        return bool((at > (0, 56)).all() and (at < (map_["width"], map_["height"])).all())

    page.window(width, height)
    page.open(plane)
    assert all_inside()
    page.script("zoom(4); move(200, 300)")
    assert not all_inside()
    page.find("#fit").click()
    assert all_inside()
    page.window(width, height - 200)
    until(all_inside)


def test_each_class_has_its_whole_name_at_the_median_of_its_images(page: Page) -> None:
    given = space(2, (8, 8, 1))
    names = page.script("return names")
    assert sorted(each["name"] for each in names) == sorted(NAMES)
    for each in names:
        label = NAMES.index(each["name"])
        median = np.sort(given.z[given.labels == label], axis=0)[10]  # of 20
        assert page.script("return toWorld(...arguments[0])", each["from"]) == pytest.approx(median)
        middle = each["left"] + each["width"] / 2, each["top"] + 9
        assert np.hypot(*np.subtract(middle, each["from"])) < 160
        swatch = page.pixels("#map")[round(each["top"] + 9), round(each["left"] + 4)]
        assert "#{:02x}{:02x}{:02x}".format(*swatch) == class_colours(3)[label]
    page.script("zoom(1 / 8)")
    page.settle()
    names = page.script("return names")
    assert len(names) == 3
    apart = np.linalg.norm(np.diff([each["from"] for each in names], axis=0), axis=1)
    assert apart.min() < 19  # two medians are closer than lines of text
    for one, other in combinations(names, 2):
        first, second = sorted((one, other), key=lambda each: each["left"])
        beside = first["left"] + first["width"] <= second["left"]
        assert beside or abs(one["top"] - other["top"]) >= 19
    cells = "[...document.querySelectorAll('#classes span')]"
    assert page.script(f"return {cells}.every((each) => each.scrollWidth <= each.clientWidth)")
    page.find("#classes label").click()
    page.settle()
    assert NAMES[0] not in [each["name"] for each in page.script("return names")]


def test_pointing_at_a_point_shows_its_image(page: Page) -> None:
    given, point = space(2, (8, 8, 1)), page.alone()
    assert not page.find("#tip").is_displayed()
    page.moved(*page.place(point)).perform()
    until(page.find("#tip").is_displayed)
    assert (page.pixels("#tip canvas") == given.images[point]).all()
    better = np.mean(given.errors < given.errors[point])
    assert f"{NAMES[point % 3]}\nreconstructed worse than {better:.0%}" in page.text("#tip")


@pytest.mark.parametrize("worker", [True, False], ids=["worker", "no worker"])
def test_a_click_decodes_a_point_and_a_drag_follows_the_pointer(
    browser: webdriver.Chrome, page: Page, plane: Path, decoder: Any, worker: bool
) -> None:
    if not worker:
        script = {"source": "delete globalThis.Worker"}
        added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
        page.open(plane)
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert page.script("return typeof Worker === 'function'") == worker
    given, point = space(2, (8, 8, 1)), page.alone()
    page.moved(*page.place(point)).click().perform()
    page.settle()
    assert page.latents() == pytest.approx(given.z[point], abs=STEP)
    assert (page.pixels("#real") == given.images[point]).all()
    np.testing.assert_allclose(
        page.pixels("#decoded"), expected(decoder, page.latents()), atol=0.51
    )
    page.moved(60, 700).click_and_hold().perform()
    drag = ActionChains(page.driver, duration=0)
    for _ in range(20):
        drag.move_by_offset(9, -5)
    drag.release().perform()
    page.settle()
    pixel = 1 / page.script("return view.scale")
    assert page.latents() == pytest.approx(page.script("return toWorld(240, 600)"), abs=pixel)
    assert "nearest image" in page.text("#which")
    np.testing.assert_allclose(
        page.pixels("#decoded"), expected(decoder, page.latents()), atol=0.51
    )


def test_one_finger_drags_the_point_and_two_fingers_zoom(page: Page) -> None:
    def touch(kind: str, *at: tuple[float, float]) -> None:
        box = page.find("#map").rect
        fingers = [{"x": box["x"] + x, "y": box["y"] + y} for x, y in at]
        event = {"type": kind, "touchPoints": fingers}
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    touch("touchStart", (100, 600))
    touch("touchMove", (200, 500))
    touch("touchEnd")
    dragged, scale = page.latents(), page.script("return view.scale")
    assert dragged == pytest.approx(page.script("return toWorld(200, 500)"), abs=1 / scale)
    touch("touchStart", (300, 400), (400, 400))
    held = page.script("return toWorld(350, 400)")
    touch("touchMove", (250, 400), (450, 400))
    touch("touchEnd")
    assert page.script("return view.scale") == pytest.approx(2 * scale)
    assert page.script("return toWorld(350, 400)") == pytest.approx(held, abs=1 / scale)


def test_the_map_shows_decoded_images_at_their_places(page: Page, decoder: Any) -> None:
    page.find(".modes label:nth-child(3)").click()
    page.settle()
    at = page.script(
        "const {place, middle} = cells(); return middle(...place(...toWorld(300, 300)))"
    )
    z = np.array(page.script("return toWorld(...arguments[0])", at))
    seen = page.pixels("#below")[round(at[1]), round(at[0])]
    image = expected(decoder, z)
    assert np.abs(image[3:5, 3:5] - seen).max(axis=-1).min() < 1  # one of the four in the middle
    page.script("take(0); take(1); draw(true)")  # images of two classes
    assert page.script("return decoding.others.length") == 0  # decoded images are kept


def test_the_map_filters_images_by_class_and_by_error(page: Page) -> None:
    given = space(2, (8, 8, 1))
    assert page.text("#count") == "60 of 60 images"
    page.find("#classes label").click()
    assert page.text("#count") == "40 of 60 images"
    page.script("const w = $('worst'); w.value = 25; w.dispatchEvent(new Event('input'))")
    worst = np.argsort(given.errors)[45:]
    assert page.text("#count") == f"{np.sum(worst % 3 > 0)} of 60 images"
    assert set(np.flatnonzero(page.script("return [...visible]"))) == set(worst[worst % 3 > 0])
    page.find("#none").click()
    assert page.text("#count") == "0 of 60 images"
    page.find("#all").click()
    assert page.text("#count") == "15 of 60 images"


def test_the_atlas_can_be_used_by_keyboard_alone(page: Page) -> None:
    focused = page.find("body")
    for _ in range(20):  # fewer elements before the map take the focus
        focused.send_keys(Keys.TAB)
        focused = page.driver.switch_to.active_element
        if focused.tag_name == "canvas":
            break
    assert focused.accessible_name
    before, scale = page.latents(), page.script("return view.scale")
    focused.send_keys(Keys.ARROW_RIGHT)
    assert page.latents() - before == pytest.approx([8 / scale, 0], abs=STEP)
    focused.send_keys("a" + Keys.ARROW_UP * 9 + "b+")
    assert page.latents()[1] - before[1] == pytest.approx(72 / scale, abs=STEP)
    assert page.script("return view.scale") > scale
    focused.send_keys(Keys.ENTER)
    assert page.script("return shown.point") >= 0
    assert page.find("#along").is_enabled()


def test_the_atlas_interpolates_between_two_places(page: Page) -> None:
    ends = []
    for button, at in (("#a", (200, 300)), ("#b", (500, 600))):
        page.script("reach(arguments[0])", at)
        ends.append(page.latents())
        page.find(button).click()
    page.script("const a = $('along'); a.value = 0.25; a.dispatchEvent(new Event('input'))")
    assert page.latents() == pytest.approx(0.75 * ends[0] + 0.25 * ends[1], abs=1e-5)
    page.settle()
    frames = page.script("return [...document.querySelectorAll('#film canvas')].length")
    assert frames == 8
    assert page.pixels("#film canvas:last-child").any()
    page.find("#play").click()
    until(lambda: page.latents() != pytest.approx(0.75 * ends[0] + 0.25 * ends[1], abs=0.01))
    page.find("#play").click()
    assert page.text("#play") == "Play"


def test_a_narrow_window_has_no_horizontal_scroll(page: Page) -> None:
    page.window(390, 844)
    until(lambda: page.script("return box.width") <= 390)
    assert page.script("return document.documentElement.scrollWidth") <= 390
    assert page.find(".pair").rect["y"] + page.find(".pair").rect["height"] < 844


def test_the_atlas_is_dark_if_the_browser_prefers_dark(page: Page) -> None:
    luminance = {}
    for scheme in ("light", "dark"):
        wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
        for of in ("color", "backgroundColor"):
            text = page.script(f"return getComputedStyle(document.body).{of}")
            luminance[scheme, of] = sum(map(int, text[4:-1].split(",")[:3]))
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert luminance["light", "color"] < 200 < 600 < luminance["light", "backgroundColor"]
    assert luminance["dark", "backgroundColor"] < 200 < 600 < luminance["dark", "color"]


@pytest.mark.parametrize(("latent_dim", "num_sliders"), [(1, 1), (20, 12)])
def test_each_slider_moves_the_latents_along_its_direction(
    browser: webdriver.Chrome, tmp_path: Path, latent_dim: int, num_sliders: int
) -> None:
    given = space(latent_dim, (8, 8, 1))
    program = DecoderProgram.of(of_the_book(latent_dim, (8, 8, 1)))
    (tmp_path / "atlas.html").write_text(given.page(program))
    page = Page(browser)
    browser.get_log("browser")
    page.open(tmp_path / "atlas.html")
    sliders = page.driver.find_elements(By.CSS_SELECTOR, "#sliders input")
    assert len(sliders) == num_sliders
    for number, slider in enumerate(sliders):
        before = page.latents()
        direction = page.script("return data.sliders[arguments[0]].direction", number)
        slider.send_keys(Keys.END)
        moved = page.latents() - before
        assert moved == pytest.approx(np.dot(moved, direction) * np.array(direction), abs=1e-4)
        assert np.linalg.norm(moved) > 0.1
    for mode in ("images", "decoded"):
        page.script(f"document.querySelector('[value={mode}]').click()")
        page.settle()
    assert browser.get_log("browser") == []


def test_an_atlas_without_a_decoder_shows_images(browser: webdriver.Chrome, tmp_path: Path) -> None:
    given = space(3, (8, 8, 3))
    (tmp_path / "atlas.html").write_text(given.page(None))
    page = Page(browser)
    browser.get_log("browser")
    page.open(tmp_path / "atlas.html")
    assert not page.driver.find_elements(By.CSS_SELECTOR, "#decoded, #line, #sliders")
    point = page.alone()
    page.moved(*page.place(point)).click().perform()
    assert (page.pixels("#real") == given.images[point]).all()
    assert browser.get_log("browser") == []
