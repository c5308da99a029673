"""The pages of the server in a real browser, used with a pointer, a keyboard and files."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from checkouts import NAME, Project
from latentworks.preprocess import over_background
from servers import server_of, until

pytestmark = pytest.mark.system

# The pixels of an image as the browser decoded them; empty while no image is loaded.
PIXELS = """
const canvas = document.createElement("canvas"), given = arguments[0];
canvas.width = given.naturalWidth;
canvas.height = given.naturalHeight;
if (!canvas.width) return [];
const context = canvas.getContext("2d");
context.drawImage(given, 0, 0);
return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
"""
# Drop a file on an element. The test chooses the file in an input of its own.
DROP = """
const input = document.createElement("input"), target = arguments[0];
Object.assign(input, { type: "file", id: "dropped" });
input.addEventListener("change", () => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(input.files[0]);
  for (const name of ["dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(name, { dataTransfer, bubbles: true, cancelable: true }));
  }
  input.remove();
});
document.body.append(input);
"""
FIRST = f"{NAME} version 1 · 8 \u00d7 8 grey images · 2 latents"
ARROWS = {
    "right": (Keys.ARROW_RIGHT, 0, 1),
    "left": (Keys.ARROW_LEFT, 0, -1),
    "up": (Keys.ARROW_UP, 1, 1),
    "down": (Keys.ARROW_DOWN, 1, -1),
}  # key, the latent that the key moves, and the direction


class Page:
    """A page in a browser: its visible state, and actions on it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, path: str = "/") -> None:
        self.driver.get(f"{self.url}{path}")

    def window(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return self.find(css).text

    def script(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def pixels(self, css: str = "#decoded") -> list[int]:
        return self.script(PIXELS, self.find(css))

    def pointer(self) -> ActionChains:
        return ActionChains(self.driver, duration=0)

    def is_settled(self) -> bool:
        """Return True if the page shows 24 samples and a decoded image."""
        return len(self.all("#samples img")) == 24 and any(self.pixels())

    def becomes_another(self, act: Callable[[], Any], css: str = "#decoded") -> list[int]:
        """Do `act`, wait until another picture is at `css`, and return its pixels."""
        before = self.pixels(css)
        act()
        return until(lambda: (now := self.pixels(css)) != before and now)

    def asked(self) -> list[str]:
        """The addresses that the browser requested since the last call."""
        entries = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        sent = [
            entry["params"] for entry in entries if entry["method"] == "Network.requestWillBeSent"
        ]
        return [each["request"]["url"] for each in sent]


@pytest.fixture(scope="module")
def url(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that follows an alias which a test moves."""
    with server_of(project.server, tmp_path_factory.mktemp("serving"), "--follow-any") as url:
        yield url


@pytest.fixture
def page(browser: webdriver.Chrome, url: str) -> Page:
    page = Page(browser, url)
    page.window(1280, 900)
    page.open()
    until(page.is_settled)
    return page


@pytest.fixture(scope="module")
def wide(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server whose model has four latents."""
    folder = tmp_path_factory.mktemp("wide")
    checkout = Project(project.copy(folder / "checkout").path, project.server)
    checkout.edit("params.yaml", f"model_name: {NAME}", "model_name: wide")
    checkout.edit("params.yaml", "latent_dim: 2", "latent_dim: 4")
    for stage in ("train", "evaluate", "export"):
        checkout.run("dvc", "repro", stage)
    checkout.ours("register")
    MlflowClient(project.server).set_registered_model_alias("wide", "champion", "1")
    with server_of(project.server, folder / "home", "--model", "wide", "--follow-any") as url:
        yield url


@pytest.fixture
def picture(project: Project, tmp_path: Path) -> Path:
    """A test image, as a file."""
    images = np.load(project.path / "data/prepared/images.npy", mmap_mode="r")
    path = tmp_path / "digit.png"
    Image.fromarray(images[-1][..., 0]).save(path)
    return path


def latents(text: str) -> list[float]:
    """Read the numbers of `z = (0.50, -1.00)` from a text that contains it."""
    _, _, numbers = text.partition("z = (")
    return [float(number) for number in numbers.partition(")")[0].split(",")]


# --- two latents: the plane ----------------------------------------------------------------------


def test_pages_load_without_errors_and_ask_only_their_server(
    browser: webdriver.Chrome, url: str
) -> None:
    page = Page(browser, url)
    page.asked()
    browser.get_log("browser")
    for path, is_there in (("/", page.is_settled), ("/docs", lambda: page.all("details"))):
        page.open(path)
        until(is_there)
        asked = [address for address in page.asked() if not address.startswith(("blob:", "data:"))]
        assert f"{url}{path}" in asked
        assert all(address.startswith(f"{url}/") for address in asked), asked
        assert browser.get_log("browser") == []


def test_the_page_names_the_served_version(page: Page) -> None:
    assert page.text("#about") == FIRST
    assert page.text("#fault") == ""
    assert page.script("return document.documentElement.lang") == "en"


def test_the_decoded_image_follows_the_pointer(page: Page) -> None:
    canvas = page.find("#space canvas")
    page.becomes_another(lambda: page.pointer().move_to_element(canvas).perform())
    middle = latents(page.text("#point"))
    move_right = page.pointer().move_to_element_with_offset(canvas, 100, 0)
    shown = page.becomes_another(move_right.perform)
    right = until(lambda: (z := latents(page.text("#point"))) != middle and z)
    assert right[0] > middle[0]
    assert right[1] == pytest.approx(middle[1], abs=0.02)
    answer = requests.post(f"{page.url}/decode", json={"inputs": [right]}, timeout=10)
    expected = np.array(answer.json()["outputs"], float).ravel()
    assert np.array(shown).reshape(-1, 4)[:, 0] == pytest.approx(expected, abs=4)  # z is rounded


def test_a_finger_drags_the_point(page: Page) -> None:
    box = page.find("#space canvas").rect
    at = [
        {"x": box["x"] + box["width"] * part, "y": box["y"] + box["height"] / 2}
        for part in (0.2, 0.7)
    ]

    def touch(kind: str, points: list[dict[str, float]]) -> None:
        event = {"type": kind, "touchPoints": points}
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    page.becomes_another(lambda: touch("touchStart", at[:1]))
    page.becomes_another(lambda: touch("touchMove", at[1:]))
    touch("touchEnd", [])


def test_the_decoded_image_is_of_the_last_of_many_fast_moves(page: Page) -> None:
    """The page shows the last point, however many came before."""
    canvas = page.find("#space canvas")
    last = page.pointer().move_to_element_with_offset(canvas, 116, 77)
    picture = page.becomes_another(last.perform)
    expected = page.text("#point")
    page.becomes_another(page.pointer().move_to_element(canvas).perform)
    moves = page.pointer()
    for step in range(60):
        moves.move_to_element_with_offset(canvas, -120 + 4 * step, -100 + 3 * step)
    moves.perform()
    until(lambda: page.text("#point") == expected)
    until(lambda: page.pixels() == picture)


@pytest.mark.parametrize(("key", "axis", "sign"), ARROWS.values(), ids=ARROWS)
def test_arrow_keys_move_the_point(page: Page, key: str, axis: int, sign: int) -> None:
    focused = page.find("body")
    for _ in range(20):  # fewer elements of the page take the focus
        focused.send_keys(Keys.TAB)
        focused = page.driver.switch_to.active_element
        if focused.tag_name == "canvas":
            break
    assert focused.tag_name == "canvas"
    assert page.script("return document.activeElement.getAttribute('aria-label')")
    before = latents(page.text("#point"))
    page.becomes_another(lambda: page.pointer().send_keys(key).perform())
    after = until(lambda: (z := latents(page.text("#point"))) != before and z)
    assert (after[axis] - before[axis]) * sign > 0
    assert after[1 - axis] == before[1 - axis]


def test_the_page_draws_new_samples_and_shows_the_latents_of_each(page: Page) -> None:
    def sources() -> list[str]:
        return page.script(
            "return [...document.querySelectorAll('#samples img')].map((i) => i.src)"
        )

    before, seed = sources(), page.text("#seed")
    page.find("#draw").click()
    after = until(lambda: (now := sources()) != before and len(now) == 24 and now)
    assert not set(before) & set(after)
    assert page.text("#seed") != seed
    tiles = page.all("#samples button")
    page.becomes_another(tiles[0].click)
    first = page.text("#point")
    tiles[1].send_keys(Keys.ENTER)
    until(lambda: page.text("#point") != first)


@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_an_uploaded_image_is_reconstructed_and_scored(page: Page, picture: Path, how: str) -> None:
    if how == "dropped":
        page.script(DROP, page.find("#drop"))
    chooser = page.find("#file" if how == "chosen" else "#dropped")
    shown = page.becomes_another(lambda: chooser.send_keys(str(picture)), "#again")
    answer = requests.post(f"{page.url}/reconstruct", data=picture.read_bytes(), timeout=10)
    assert answer.headers["Content-Type"] == "image/png"
    content = requests.post(
        f"{page.url}/reconstruct",
        data=picture.read_bytes(),
        headers={"Accept": "application/json"},
        timeout=10,
    ).json()
    assert shown[::4] == np.array(content["outputs"]).ravel().tolist()
    assert page.pixels("#given")[::4] == np.asarray(Image.open(picture)).ravel().tolist()
    until(lambda: "of 100 test images" in page.text("#score"))
    place = requests.post(f"{page.url}/encode", data=picture.read_bytes(), timeout=10)
    expected = pytest.approx(place.json()["outputs"][0], abs=0.006)  # the page shows two digits
    assert latents(page.text("#place")) == expected
    until(lambda: latents(page.text("#point")) == expected)


def test_transparent_pixels_are_shown_as_the_model_sees_them(page: Page, tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 200, np.uint8)  # red under all pixels, with more and more alpha
    pixels[..., 1:3] = 40
    pixels[..., 3] = np.arange(64).reshape(8, 8) * 4
    Image.fromarray(pixels).save(tmp_path / "see-through.png")
    chooser = page.find("#file")
    page.becomes_another(lambda: chooser.send_keys(str(tmp_path / "see-through.png")), "#again")
    background = requests.get(f"{page.url}/version", timeout=10).json()["background"]
    shown = np.reshape(page.pixels("#given"), (8, 8, 4))
    assert (shown[..., 3] == 255).all()
    # The browser rounds colours that are multiplied by alpha.
    np.testing.assert_allclose(shown[..., :3], over_background(pixels, background), atol=2)


def test_a_file_that_is_no_picture_gets_an_error_message(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "not.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    page.find("#file").send_keys(str(path))
    assert "cannot be used" in until(lambda: page.text("#fault"))
    assert not page.find("#pair").is_displayed()
    page.becomes_another(page.all("#samples button")[3].click)
    assert page.text("#fault") == ""


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_narrow_window_has_no_horizontal_scroll(page: Page, picture: Path, path: str) -> None:
    page.window(390, 844)
    page.open(path)
    until(page.is_settled if path == "/" else lambda: page.all("details"))
    if path == "/":
        page.becomes_another(lambda: page.find("#file").send_keys(str(picture)), "#again")
    else:
        page.script("document.querySelectorAll('details').forEach((each) => each.open = true)")
    assert page.script("return document.documentElement.scrollWidth") <= 390
    assert page.script("return document.documentElement.scrollHeight") > 844


def test_the_page_is_dark_if_the_browser_prefers_dark(page: Page) -> None:
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


# --- changes at the server -----------------------------------------------------------------------


def test_an_open_page_names_the_new_champion(
    page: Page, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.server)  # MLflow looks for the model there
    client = MlflowClient(project.server)
    first = client.get_model_version(NAME, "1")
    client.create_model_version(NAME, first.source, first.run_id, first.tags)
    page.script("document.title = 'still open'")
    for number, said in (("2", FIRST.replace("version 1", "version 2")), ("1", FIRST)):
        client.set_registered_model_alias(NAME, "champion", number)
        until(lambda said=said: page.text("#about") == said)
    assert page.driver.title == "still open"  # the page was not loaded again


def test_the_page_waits_while_the_server_is_busy(
    browser: webdriver.Chrome, project: Project, tmp_path: Path
) -> None:
    """The page reports the wait, asks again when it may, and is complete after the other calls."""
    over = threading.Event()
    with server_of(project.server, tmp_path / "home", "--max-waiting", "1") as url:

        def crowd() -> None:
            while not over.is_set():
                requests.post(f"{url}/sample", json={"num": 10_000}, timeout=60)

        others = [threading.Thread(target=crowd) for _ in range(2)]
        for other in others:
            other.start()
        try:
            page = Page(browser, url)
            page.open()
            until(lambda: "calls are waiting already" in page.text("#fault"))
        finally:
            over.set()
            for other in others:
                other.join()
        until(page.is_settled)
        assert page.text("#about") == FIRST
        assert page.text("#fault") == ""
    until(lambda: page.text("#about") == "The server does not answer.")


def test_every_operation_can_be_tried_on_the_docs_page(page: Page) -> None:
    page.open("/docs")
    operations = until(lambda: page.all("section > details"))
    answers = {}
    for operation in operations:
        operation.find_element(By.TAG_NAME, "summary").click()
        name = operation.find_element(By.CSS_SELECTOR, "summary code").text
        operation.find_element(By.TAG_NAME, "button").click()
        answers[name] = until(
            lambda operation=operation: operation.find_elements(By.CLASS_NAME, "answer")
        )[0]
    assert len(answers) == 14
    for name, answer in answers.items():
        assert answer.find_element(By.CLASS_NAME, "note").text.startswith("200"), (
            name,
            answer.text,
        )
    assert f"{NAME}/1" in answers["POST /encode"].text
    sheet = answers["GET /sample"].find_element(By.TAG_NAME, "img")
    assert until(lambda: page.script("return arguments[0].naturalWidth", sheet)) == 32
    operations[0].find_element(By.TAG_NAME, "textarea").send_keys("?")
    operations[0].find_element(By.TAG_NAME, "button").click()
    # Find and read the note in one step, since the page removes the former answer meanwhile.
    note = "return arguments[0].querySelector('.note')?.textContent ?? ''"
    until(lambda: "400" in page.script(note, operations[0]))


# --- more latents: sliders -----------------------------------------------------------------------


def test_each_slider_moves_one_latent(browser: webdriver.Chrome, wide: str) -> None:
    page = Page(browser, wide)
    page.open()
    until(page.is_settled)
    assert page.text("#about") == "wide version 1 · 8 \u00d7 8 grey images · 4 latents"
    assert not page.all("#space canvas")
    sliders = page.all("#space input[type=range]")
    assert len(sliders) == 4
    for number, slider in enumerate(sliders):
        assert slider.accessible_name == f"latent {number}"
        before = latents(page.text("#point"))
        key = Keys.HOME if before[number] > 0 else Keys.END
        page.becomes_another(lambda slider=slider, key=key: slider.send_keys(key))
        after = latents(page.text("#point"))
        assert [n for n in range(4) if after[n] != before[n]] == [number]
        assert page.all("#space label span")[number].text == f"{after[number]:.2f}"
    values = [slider.get_attribute("value") for slider in sliders]
    page.becomes_another(page.all("#samples button")[5].click)
    assert [slider.get_attribute("value") for slider in sliders] != values
