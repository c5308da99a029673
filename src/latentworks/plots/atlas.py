"""The latent atlas: an HTML page that maps images in latent space, and decodes in the browser."""

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from latentworks.plots.decoder_program import DecoderProgram
from latentworks.plots.palette import UNLABELLED, class_colours
from latentworks.plots.plane import Plane
from latentworks.plots.tiles import fitted

FOLDER = Path(__file__).parent / "atlas_page"
MAX_PIXELS = 12_000_000  # of all images together, which are shrunk until they fit
BATCH = 500  # images that are shrunk at once
BATCH_BYTES = 2**26
MAX_SLIDERS = 12  # directions of latent space, of the largest variance


def atlas(
    program: DecoderProgram | None,
    z: np.ndarray,
    images: np.ndarray,
    errors: np.ndarray,
    labels: np.ndarray | None,
    class_names: Sequence[str],
    title: str,
    facts: Mapping[str, str],
) -> str:
    """Make a self-contained HTML file: latents as points, their images, and the decoder.

    `program` is the decoder, or None if a browser cannot run it. `z` is float32 [N, D], `images`
    uint8 [N, H, W, C], `errors` the mean squared error of each reconstruction, float [N], and
    `labels` int64 [N], -1 for none. `facts` appear under the title. Equal inputs give equal bytes.
    """
    plane = Plane.of(z)
    shown = {
        "title": title,
        "facts": dict(facts),
        "axes": plane.names,
        "origin": plane.origin.tolist(),
        "directions": plane.directions.tolist(),
        "sliders": _sliders(z, plane),
        "classes": _classes(labels, class_names),
        "unlabelled": UNLABELLED,
        "points": _base64(plane.project(z).astype("<f4")),
        "errors": _base64(errors.astype("<f4")),
        "labels": _base64((np.full(len(z), -1) if labels is None else labels).astype("<i4")),
        "latents": _quantised(z),
        "sprite": _sprite(images),
        "program": None if program is None else _program(program),
    }
    return _filled(title, shown)


def _filled(title: str, shown: Mapping[str, object]) -> str:
    """Fill the page with its styles, its scripts and its data."""
    parts = {
        file.stem: file.read_text(encoding="utf-8")
        for file in FOLDER.iterdir()
        if file.suffix in (".js", ".css")
    }
    parts["title"] = escape(title)
    # The name of a class may hold "</script>", which would end the script.
    parts["data"] = json.dumps(shown, separators=(",", ":")).replace("<", "\\u003c")
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)


def _sliders(z: np.ndarray, plane: Plane) -> list[dict[str, object]]:
    """The directions of the sliders, with the range of the images along each.

    Up to two latents are the directions themselves; of more, the principal components are.
    """
    directions = np.eye(z.shape[1])
    names = [f"z{number}" for number in range(len(directions))]
    if len(directions) > 2:
        centred = z - plane.origin
        vectors = np.linalg.eigh(centred.T @ centred)[1].T[::-1]  # largest variance first
        others = vectors[2:MAX_SLIDERS]
        largest = np.abs(others).argmax(axis=1)[:, None]
        others = others * np.sign(np.take_along_axis(others, largest, axis=1))  # as in Plane.of
        directions = np.concatenate([plane.directions, others])
        names = [f"component {number + 1}" for number in range(len(directions))]
    along = (z - plane.origin) @ directions.T
    low, high = np.percentile(along, [0.5, 99.5], axis=0).round(4)
    return [
        {"name": name, "direction": vector.tolist(), "low": float(a), "high": float(b)}
        for name, vector, a, b in zip(names, directions, low, high, strict=True)
    ]


def _classes(labels: np.ndarray | None, class_names: Sequence[str]) -> list[dict[str, object]]:
    """The classes in the order of their labels, then images without a label, if any."""
    if labels is None:
        return []
    colours = class_colours(len(class_names))
    named = [*zip(range(len(class_names)), class_names, colours, strict=False)]
    named += [(-1, "no label", UNLABELLED)] if (labels < 0).any() else []
    return [
        {"label": label, "name": name, "colour": colour, "count": int((labels == label).sum())}
        for label, name, colour in named
    ]


def _quantised(z: np.ndarray) -> dict[str, object]:
    """Latents rounded to 65 536 steps of their ranges, far finer than any visible change."""
    low, high = z.min(axis=0).astype(np.float64), z.max(axis=0).astype(np.float64)
    step = np.where(high > low, high - low, 1) / 65535
    values = np.rint((z - low) / step).astype("<u2")
    return {"low": low.tolist(), "step": step.tolist(), "values": _base64(values)}


def _sprite(images: np.ndarray) -> dict[str, object]:
    """All images in one PNG, row by row, with about as many rows as columns."""
    num, height, width, _ = images.shape
    side = max(height, width)
    while num * height * width * (side / max(height, width)) ** 2 > MAX_PIXELS:
        side //= 2
    step = max(1, min(BATCH, BATCH_BYTES // images[0].size))
    cells = np.concatenate(
        [fitted(images[start : start + step], side) for start in range(0, num, step)]
    )
    cells = cells[..., : images.shape[3]]
    height, width, channels = cells.shape[1:]
    columns = int(np.ceil(np.sqrt(num)))
    rows = -(-num // columns)
    cells = np.pad(cells, ((0, rows * columns - num), (0, 0), (0, 0), (0, 0)))
    whole = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    whole = whole.reshape(rows * height, columns * width, channels)
    file = io.BytesIO()
    Image.fromarray(whole.squeeze(2) if channels == 1 else whole).save(file, "PNG")
    content = base64.b64encode(file.getvalue()).decode()
    return {"columns": columns, "height": height, "width": width, "png": content}


def _program(program: DecoderProgram) -> dict[str, object]:
    return {
        "inputs": program.inputs,
        "image_shape": program.image_shape,
        "steps": program.steps,
        "weights": _base64(program.weights.astype("<f4")),
    }


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()
