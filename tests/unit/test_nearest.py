"""`nearest_images` finds the same training images as a search over all differences."""

from pathlib import Path

import numpy as np
import pytest

from latentworks.metrics.nearest import CHUNK_BYTES, nearest_images


def noise(num: int, side: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(num).integers(0, 256, (num, side, side, channels), dtype=np.uint8)


@pytest.mark.parametrize(("num", "side", "channels"), [(50, 8, 1), (1500, 64, 3)])
def test_nearest_images_equal_those_of_a_full_search(
    num: int, side: int, channels: int, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", noise(num, side, channels))
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert (images.nbytes > 2 * CHUNK_BYTES) == (num == 1500)  # one chunk for 50, several for 1500
    queries = noise(7, side, channels)
    rows = np.arange(1, num, 2)
    found, distances = nearest_images(queries, images, rows, 3)
    for i, query in enumerate(queries):
        differences = (images[rows] / 255.0 - query / 255.0).reshape(len(rows), -1)
        full = np.linalg.norm(differences, axis=1)
        nearest = np.argsort(full)[:3]
        assert found[i].tolist() == rows[nearest].tolist()
        assert distances[i] == pytest.approx(full[nearest])
    assert (found.dtype, distances.dtype) == (np.int64, np.float32)


def test_copies_are_at_distance_zero_in_the_order_of_their_rows() -> None:
    images = noise(900, 100)  # larger than a chunk
    images[880] = images[20] = images[10]
    found, distances = nearest_images(images[[10]], images, np.arange(15, 900), 2)
    assert found.tolist() == [[20, 880]]
    assert distances.tolist() == [[0, 0]]


def test_all_images_are_found_if_fewer_exist_than_requested() -> None:
    images = noise(2, 8)
    found, distances = nearest_images(noise(4, 8), images, np.array([1, 0]), 3)
    assert np.sort(found).tolist() == 4 * [[0, 1]]
    assert distances.shape == (4, 2)
    assert (np.diff(distances) >= 0).all()
