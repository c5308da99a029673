"""Colours of classes and lines, for figures and for the atlas.

Classes get the colours that look most different: each next one is the colour farthest from all
before it. Its distance to another is the least of three in OKLab (Ottosson 2020): as most people
see it, and as people without red or without green cones do (Machado et al. 2009).
"""

import numpy as np

BLUE, RED = "#3080d0", "#c81020"  # the first two colours; lines of figures have them, too
UNLABELLED = "#a3abb8"  # images without a class
PAPERS = "#ffffff", "#0f1319"  # behind the colours: light, and dark as in the style of the atlas

MAX_DIFFERENT = 200  # then colours repeat: nobody could tell more of them apart
STEP = 8  # between the levels of red, green and blue that are tried, of 256
LIGHTNESS = 0.44, 0.84  # in OKLab
CHROMA = 0.07, 0.2  # in OKLab: no greys, and nothing that glares
USUAL = 0.6  # weight of distances that everybody sees; those with two cones are smaller

LINEAR_TO_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
CONES_TO_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
# Linear RGB as it looks without one kind of cone.
WITHOUT_RED = (
    (0.152286, 1.052583, -0.204868),
    (0.114503, 0.786281, 0.099216),
    (-0.003882, -0.048116, 1.051998),
)
WITHOUT_GREEN = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.011820, 0.042940, 0.968881),
)


def class_colours(num: int) -> list[str]:
    """Return a colour for each class, such as "#3080d0". The first do not depend on `num`."""
    colours = _candidates()
    seen = views(colours)
    chosen = [BLUE, RED]
    least = np.full(len(colours), np.inf)  # distance to the nearest chosen colour
    for colour in (*PAPERS, UNLABELLED, *chosen):
        least = np.minimum(least, _distances(seen, views(_rgb(colour))))
    while len(chosen) < min(num, MAX_DIFFERENT):
        farthest = least.round(6).argmax()  # processors differ in the last digits
        chosen.append("#{:02x}{:02x}{:02x}".format(*colours[farthest]))
        least = np.minimum(least, _distances(seen, seen[:, farthest, None]))
    return [chosen[label % MAX_DIFFERENT] for label in range(num)]


def views(colours: np.ndarray) -> np.ndarray:
    """Return how RGB colours, whole numbers [N, 3], look in three ways: OKLab, float64 [3, N, 3].

    The ways are with all cones, without red and without green ones.
    """
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    ways = (np.eye(3), np.array(WITHOUT_RED), np.array(WITHOUT_GREEN))
    looks = np.stack([(linear @ way.T).clip(0, 1) for way in ways])
    return np.asarray(np.cbrt(looks @ np.transpose(LINEAR_TO_CONES)) @ np.transpose(CONES_TO_OKLAB))


def _candidates() -> np.ndarray:
    """The colours that a class may have: int64 [N, 3]."""
    levels = np.arange(0, 256, STEP)
    colours = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, *hue = views(colours)[0].T
    kept = _within(lightness, *LIGHTNESS) & _within(np.hypot(*hue), *CHROMA)
    return np.asarray(colours[kept])


def _within(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.asarray((low <= values) & (values <= high))


def _distances(seen: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The distance of each of the colours [3, N, 3] to one colour [3, 1, 3]: float64 [N]."""
    ways = np.linalg.norm(seen - colour, axis=-1)
    ways[0] *= USUAL
    return np.asarray(ways.min(axis=0))


def _rgb(colour: str) -> np.ndarray:
    return np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)]])
