"""An atlas in a browser, and inputs for one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from families import autoencoder
from latentworks.plots.atlas import atlas
from latentworks.plots.decoder_program import DecoderProgram
from servers import until

NAMES = ["circle", "</script><b>square</b>", "triangle"]
FACTS = {"model": "small"}


@dataclass(frozen=True)
class Space:
    """The inputs of an atlas."""

    z: np.ndarray  # float32 [N, D]
    images: np.ndarray  # uint8 [N, H, W, C]
    errors: np.ndarray  # float64 [N]
    labels: np.ndarray | None  # int64 [N]

    def page(self, program: DecoderProgram | None) -> str:
        return atlas(
            program, self.z, self.images, self.errors, self.labels, NAMES, "Latents", FACTS
        )


def space(latent_dim: int, shape: tuple[int, int, int], num: int = 60) -> Space:
    """Random images at random places of latent space."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, (num, latent_dim)).astype(np.float32)
    images = rng.integers(0, 256, (num, *shape), dtype=np.uint8)
    return Space(z, images, rng.permutation(num) / num, np.arange(num) % 3)


def of_the_book(latent_dim: int, shape: tuple[int, int, int]) -> Any:
    return autoencoder(filters=(32, 64, 128), latent_dim=latent_dim).build(shape).decoder


class Page:
    """An atlas in a browser: its visible state, and actions on it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        self.driver.get(path.as_uri())
        until(lambda: self.script("return document.body.dataset.ready !== undefined"))
        self.settle()

    def window(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def script(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def settle(self) -> None:
        """Wait until the page has decoded and drawn everything."""
        until(lambda: self.script("return !decoding.job && !decoding.others.length && !waiting"))

    def find(self, css: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return self.find(css).text

    def pixels(self, css: str) -> np.ndarray:
        """The pixels of a canvas: int64 [h, w, 3]."""
        found = self.script(
            "const {width, height} = arguments[0], pen = arguments[0].getContext('2d');"
            "return [height, width, [...pen.getImageData(0, 0, width, height).data]]",
            self.find(css),
        )
        return np.reshape(found[2], (found[0], found[1], 4))[..., :3]

    def moved(self, right: float, down: float) -> ActionChains:
        """A pointer that moves to a place of the map, in pixels."""
        canvas = self.find("#map")
        box = canvas.rect
        pointer = ActionChains(self.driver, duration=0)
        return pointer.move_to_element_with_offset(
            canvas, round(right - box["width"] / 2), round(down - box["height"] / 2)
        )

    def place(self, point: int) -> list[float]:
        """The place of an image on the map, in pixels."""
        return self.script(
            "return toScreen(points[2 * arguments[0]], points[2 * arguments[0] + 1])", point
        )

    def alone(self) -> int:
        """The image whose point is farthest from all others, so that a pointer meets no other."""
        at = np.array([self.place(point) for point in range(60)])
        apart = np.linalg.norm(at[:, None] - at, axis=-1) + 1000 * np.eye(len(at))
        inside = (at > 80).all(axis=1) & (at < 500).all(axis=1)
        return int((apart.min(axis=1) * inside).argmax())

    def latents(self) -> np.ndarray:
        return np.array(self.script("return [...shown.z]"), np.float64)
