"""Picture files: read in the shape of a model's images, and written alone or as a grid."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from latentworks.datasets import image_folder
from latentworks.datasets.links import Links
from latentworks.datasets.rejects import REASONS
from latentworks.datasets.source import FirstFrame, Reject
from latentworks.errors import InputError
from latentworks.grid import grid
from latentworks.preprocess import prepare_image
from latentworks.serving.inputs import MAX_NUM
from latentworks.serving.servable import BATCH_SIZE, Interface
from latentworks.system import disk

PNG = ".png"
GAP = 2  # pixels between the images of a grid
MIN_COLUMNS = 10  # of pairs, if there are so many


def check_target(path: Path) -> None:
    """Raise InputError unless a path is a .png file or a folder, which need not exist."""
    if path.suffix != PNG and path.suffix and not path.is_dir():
        raise InputError(f"Expected a .png file or a folder for the images. Received: {path}.")


def check_file(path: Path) -> None:
    """Raise InputError unless a path has the ending of a PNG file."""
    if path.suffix != PNG:
        raise InputError(f"The last argument is the .png file to write. Received: {path}.")


def read(paths: Sequence[Path], interface: Interface) -> np.ndarray:
    """Read pictures as `batches` does, at most MAX_NUM: uint8 [N, H, W, C]."""
    parts: list[np.ndarray] = []
    for _, images in batches(paths, interface):
        parts.append(images)
        if sum(map(len, parts)) > MAX_NUM:
            raise InputError(f"Too many pictures. Expected at most {MAX_NUM}. Name fewer of them.")
    return np.concatenate(parts)


def batches(paths: Sequence[Path], interface: Interface) -> Iterator[tuple[list[str], np.ndarray]]:
    """Read picture files, and those of folders: their names, and prepared images [N, H, W, C].

    Images are uint8, and N is at most BATCH_SIZE. Files of a folder that are no pictures are left
    out. Raises InputError for a named file that cannot be used, and DataError for a folder without
    images.
    """
    pictures = _prepared(_raw(paths), interface)
    is_empty = True
    while batch := list(islice(pictures, BATCH_SIZE)):
        is_empty = False
        yield [name for name, _ in batch], np.stack([image for _, image in batch])
    if is_empty:
        given = ", ".join(map(str, paths[:3]))
        raise InputError(f"No picture found. Expected picture files. Received: {given}.")


def _prepared(
    pictures: Iterator[tuple[str, np.ndarray]], interface: Interface
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each picture in the shape of the model's images: uint8 [H, W, C]."""
    for name, raw in pictures:
        image = prepare_image(
            raw,
            shape=interface.image_shape,
            fit=interface.fit,
            background=interface.background,
            ranges=interface.value_range,
        )
        yield name, image


def _raw(paths: Sequence[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name of each picture, and its pixels as they are in the file."""
    for path in paths:
        if path.is_dir():
            for item in image_folder.load(path).items:
                try:
                    yield str(path / item.name), _pixels(item.read())
                except Reject:
                    continue
            continue
        try:
            links = Links.of(path.resolve().parent)
            yield str(path), _pixels(image_folder.read_image(links, path.name))
        except Reject as reject:
            if not path.exists():
                raise InputError(f"{path}: no such file. Expected a picture file.") from None
            reason = REASONS[reject.code]
            raise InputError(f"{path} {reason.one}. {reason.cure}.") from None


def _pixels(read: np.ndarray | FirstFrame) -> np.ndarray:
    return read.image if isinstance(read, FirstFrame) else read


def write_grid(path: Path, images: np.ndarray) -> None:
    """Write images, uint8 [N, H, W, C], as one PNG file, about as many across as down."""
    _write(path, grid(images, math.ceil(math.sqrt(len(images))), GAP))


def write_each(folder: Path, images: np.ndarray) -> None:
    """Write images, uint8 [N, H, W, C], as the files 0000.png, 0001.png, … of a folder.

    Raises InputError if the folder holds such files already: they would be mixed with these.
    """
    digits = max(4, len(str(len(images) - 1)))
    names = [f"{number:0{digits}}{PNG}" for number in range(len(images))]
    present = next((path for path in folder.glob(f"[0-9]*{PNG}")), None)
    if present is not None:
        raise InputError(f"{folder} holds {present.name} and maybe more. Name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(names, images, strict=True):
        _write(folder / name, image)


def write_pairs(path: Path, originals: np.ndarray, reconstructions: np.ndarray) -> None:
    """Write one PNG file: rows of originals, and below each row its reconstructions.

    Both are uint8 [N, H, W, C].
    """
    columns = min(len(originals), max(MIN_COLUMNS, math.ceil(math.sqrt(2 * len(originals)))))
    both = [_rows(images, columns) for images in (originals, reconstructions)]
    _write(path, grid(np.stack(both, axis=1).reshape(-1, *originals.shape[1:]), columns, GAP))


def _rows(images: np.ndarray, num_columns: int) -> np.ndarray:
    """Split images [N, H, W, C] into rows: [R, num_columns, H, W, C], white at the end."""
    missing = -len(images) % num_columns
    filled = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)), constant_values=255)
    return filled.reshape(-1, num_columns, *images.shape[1:])


def _write(path: Path, pixels: np.ndarray) -> None:
    """Write pixels, uint8 [h, w, 1 or 3], as a PNG file."""
    with disk.replacing(path) as temporary:
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(temporary, "PNG")
