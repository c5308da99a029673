"""Each figure shows the right pixels, points, names and numbers."""

import re
from collections.abc import Callable
from itertools import combinations
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from latentworks import plots
from latentworks.plots.page import WIDTH
from latentworks.plots.palette import BLUE, PAPERS, RED, UNLABELLED, class_colours, views
from latentworks.plots.plane import Plane
from latentworks.plots.tiles import GAP, fitted

NAMES = [f"class {label}" for label in range(10)]


def canvas(figure: Figure) -> np.ndarray:
    """The pixels of the figure as saved: uint8 [h, w, 3]."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def count(figure: Figure, colour: tuple[int, int, int]) -> int:
    """The number of pixels of the figure that have exactly this colour."""
    return int((canvas(figure) == colour).all(axis=-1).sum())


def places(figure: Figure, image: np.ndarray, zoom: int) -> list[tuple[int, int]]:
    """The tops and lefts of the image in the figure: uint8 [H, W, C], enlarged by `zoom`."""
    large = np.broadcast_to(image, (*image.shape[:2], 3)).repeat(zoom, 0).repeat(zoom, 1)
    height, width = large.shape[:2]
    drawn = canvas(figure)
    corners = np.argwhere((drawn == large[0, 0]).all(axis=-1)).tolist()
    return [
        (top, left)
        for top, left in corners
        if np.array_equal(drawn[top : top + height, left : left + width], large)
    ]


def shows(figure: Figure, image: np.ndarray, zoom: int) -> bool:
    return len(places(figure, image, zoom)) > 0


def photos(num: int, side: int = 16, channels: int = 1) -> np.ndarray:
    """Random images, so that none is found by accident. Their first pixels have rare values."""
    rng = np.random.default_rng(num)
    images = rng.integers(60, 200, (num, side, side, channels), dtype=np.uint8)
    images[:, 0, 0] = np.arange(num)[:, None] % 50
    return images


def decode(z: np.ndarray) -> np.ndarray:
    """Decode latents to grey images. The grey is the first latent, in fiftieths."""
    return np.broadcast_to((z[:, :1] / 50).clip(0, 1), (len(z), 64)).reshape(-1, 8, 8, 1)


def grey(value: int) -> tuple[int, int, int]:
    return value, value, value


both_kinds = pytest.mark.parametrize("channels", [1, 3])


# --- colours -------------------------------------------------------------------------------------


# Distances in OKLab: with all cones, without red and without green ones. Ten colours of Petroff
# (2021), made for the colour-blind, have 0.090, 0.061 and 0.084.
@pytest.mark.parametrize(("num", "least"), [(10, (0.15, 0.09, 0.09)), (20, (0.1, 0.06, 0.06))])
def test_classes_have_different_colours_for_the_colour_blind_too(
    num: int, least: tuple[float, ...]
) -> None:
    colours = [*class_colours(num), UNLABELLED]
    looks = views(np.array([mpl.colors.to_rgb(colour) for colour in colours]) * 255)
    apart = np.linalg.norm(looks[:, :, None] - looks[:, None], axis=-1) + np.eye(num + 1)
    assert (apart.min(axis=(1, 2)) > least).all()
    papers = views(np.array([mpl.colors.to_rgb(paper) for paper in PAPERS]) * 255)
    assert np.linalg.norm(looks[:, :, None] - papers[:, None], axis=-1).min() > 0.1


def test_a_class_keeps_its_colour_if_others_are_added() -> None:
    assert class_colours(0) == []
    assert class_colours(2) == [BLUE, RED]
    assert class_colours(300)[:20] == class_colours(20)
    assert len(set(class_colours(200))) == 200


# --- tile ----------------------------------------------------------------------------------------


@both_kinds
def test_tile_sets_images_row_by_row(channels: int) -> None:
    images = photos(5, channels=channels)
    picture = plots.tile(images, num_columns=3)
    step = 16 + GAP
    assert picture.shape == (2 * step - GAP, 3 * step - GAP, 3)
    assert picture.dtype == np.uint8
    for i, image in enumerate(images):
        top, left = i // 3 * step, i % 3 * step
        assert (picture[top : top + 16, left : left + 16] == image).all()
    assert (picture[:16, 16:step] == 255).all()
    assert (picture[step:, 2 * step :] == 255).all()  # the empty place is white


def test_tile_takes_floats_and_fewer_images_than_columns() -> None:
    picture = plots.tile(np.full((2, 4, 6, 1), 0.5, np.float32), num_columns=10)
    assert picture.shape == (4, 2 * 6 + GAP, 3)
    assert (picture[:, :6] == 128).all()


# --- images --------------------------------------------------------------------------------------


@both_kinds
def test_samples_are_drawn_in_order_with_crisp_pixels(channels: int) -> None:
    images = photos(300, side=32, channels=channels)
    figure = plots.samples(images, "300 samples")
    assert texts(figure)[:2] == ["300 samples", "170 of 300, not hand-picked."]
    picture = figure.axes[0].get_images()[0].get_array()
    assert np.array_equal(picture[:64:2, :64:2], np.broadcast_to(images[0], (32, 32, 3)))
    assert shows(figure, images[0], zoom=2)
    assert shows(figure, images[169], zoom=2)
    assert canvas(figure).shape[1] == WIDTH


@pytest.mark.parametrize(("num", "zoom"), [(1, 16), (2, 16), (18, 11), (60, 6)])
def test_few_samples_are_drawn_larger(num: int, zoom: int) -> None:
    images = photos(num)
    figure = plots.samples(images, "few")
    assert texts(figure)[1] == f"{num} of {num}, not hand-picked."
    assert shows(figure, images[-1], zoom)


def test_large_images_are_shrunk_to_means_of_their_pixels() -> None:
    images = photos(40)
    large = images.repeat(10, axis=1).repeat(10, axis=2)  # a side has 160 pixels, and 132 fit
    assert shows(plots.samples(large, "large"), images[7], zoom=5)


@pytest.mark.parametrize("shape", [(1024, 8), (8, 1024)], ids=str)
def test_an_image_that_is_far_longer_than_wide_is_drawn(shape: tuple[int, int]) -> None:
    image = np.full((1, *shape, 1), 90, np.uint8)
    for side in (64, 200):
        drawn = fitted(image, side)
        assert (drawn == 90).all()
        assert 1 <= min(drawn.shape[1:3]) <= max(drawn.shape[1:3]) <= side
    figure = plots.data_profile(
        np.broadcast_to(image, (40, *shape, 1)), index([0, 1] * 20), profile(40, ["a", "b"])
    )
    canvas(figure)


@both_kinds
@pytest.mark.parametrize("num", [1, 7, 200])
def test_reconstructions_are_drawn_under_their_originals(channels: int, num: int) -> None:
    originals = np.full((num, 32, 32, channels), 40, np.uint8)
    figure = plots.reconstructions(originals, np.full(originals.shape, 0.5, np.float32))
    assert texts(figure)[0] == f"Reconstructions: mean squared error {(0.5 - 40 / 255) ** 2:.4f}"
    drawn = canvas(figure)
    above, below = (np.argwhere((drawn == value).all(axis=-1)) for value in (40, 128))
    side = {1: 256, 7: 160, 200: 64}[num]
    assert len(above) == len(below) == min(num, 85) * side**2
    assert (below[0] - above[0]).tolist() == [side + GAP // 2, 0]


def test_interpolations_go_from_one_original_to_the_other() -> None:
    starts, ends = (
        np.array([[10.0, 0], [20, 0]], np.float32),
        np.array([[30, 0], [40, 0]], np.float32),
    )
    start_images, end_images = photos(2, side=8), photos(4, side=8)[2:]
    figure = plots.interpolations(decode, starts, ends, start_images, end_images, num_steps=5)
    assert "2-dimensional" in texts(figure)[0]
    assert texts(figure)[2:] == ["original", "0%", "25%", "50%", "75%", "100%", "original"]
    for z in (10, 15, 20, 25, 30, 35, 40):  # the latents on the two lines
        shown = 2 if 20 <= z <= 30 else 1
        assert count(figure, grey(round(z / 50 * 255))) >= shown * 128**2
    for image in (*start_images, *end_images):
        assert shows(figure, image, zoom=16)


def test_a_single_interpolation_is_drawn_in_rgb() -> None:
    def decode_rgb(z: np.ndarray) -> np.ndarray:
        return np.concatenate([decode(z), 0 * decode(z), 1 - decode(z)], axis=-1)

    images = photos(2, channels=3)
    start, end = np.zeros((1, 3), np.float32), np.full((1, 3), 50, np.float32)
    figure = plots.interpolations(decode_rgb, start, end, images[:1], images[1:], num_steps=2)
    assert count(figure, (0, 0, 255)) == count(figure, (255, 0, 0)) == 128**2


@both_kinds
@pytest.mark.parametrize(("num_classes", "side"), [(2, 128), (10, 64)])
def test_each_class_has_a_row_of_its_samples(num_classes: int, side: int, channels: int) -> None:
    labels = np.arange(200) % num_classes
    images = np.broadcast_to((40 + 20 * labels)[:, None, None, None], (200, 32, 32, channels))
    figure = plots.class_samples(images.astype(np.uint8), labels, NAMES[:num_classes])
    assert texts(figure)[0] == "Samples of each class"
    assert texts(figure)[2:] == NAMES[:num_classes]
    num_columns = {128: 7, 64: 14}[side]
    assert f"Up to {num_columns} of each" in texts(figure)[1]
    drawn = canvas(figure)
    for label, text in enumerate(figure.texts[2:]):
        found = np.argwhere((drawn == 40 + 20 * label).all(axis=-1))
        assert len(found) == num_columns * side**2
        top, bottom = found[0][0], found[-1][0]
        assert top < len(drawn) - text.get_window_extent().y0 < bottom  # the name is beside the row


def test_class_samples_draw_only_24_of_100_classes() -> None:
    labels = np.repeat(np.arange(1, 100), 2)  # the first class has no samples
    figure = plots.class_samples(photos(198), labels, [f"class {i}" for i in range(100)])
    assert texts(figure)[0] == "Samples of 24 of 100 classes"
    assert "Up to 2 of each" in texts(figure)[1]
    assert "Classes left out: 76." in texts(figure)[1]
    assert texts(figure)[2:] == [f"class {i}" for i in range(1, 25)]


@both_kinds
@pytest.mark.parametrize(("num", "shown", "zoom"), [(1, 1, 10), (5, 5, 10), (40, 20, 6)])
def test_nearest_images_are_drawn_below_their_sample(
    num: int, shown: int, zoom: int, channels: int
) -> None:
    images = photos(num, channels=channels)
    found = photos(2 * num + 50, channels=channels)[: 2 * num].reshape(num, 2, *images.shape[1:])
    distances = 1 + np.arange(2 * num).reshape(num, 2) / 4
    figure = plots.nearest_neighbours(images, found, distances, typical=2.5)
    assert texts(figure)[0] == f"Training images most like {shown} sample{'s' * (num > 1)}"
    nearest = distances[:shown, 0]
    assert f"1.00 to {nearest.max():.2f}, median {np.median(nearest):.2f}" in texts(figure)[1]
    assert "(of test images 2.50)" in texts(figure)[1]
    for i in (0, shown - 1):
        column = [place for each in (images[i], *found[i]) for place in places(figure, each, zoom)]
        tops, lefts = zip(*column, strict=True)
        assert len(column) == 3
        assert tops == tuple(sorted(tops))
        assert len(set(lefts)) == 1
        assert f"{distances[i, 1]:.2f}" in texts(figure)


# --- latent space --------------------------------------------------------------------------------


def latents(num: int, latent_dim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((num, latent_dim)) * np.linspace(10, 1, latent_dim) + 25
    return z.astype(np.float32), rng.integers(0, 10, num)


def points(figure: Figure) -> np.ndarray:
    (scatter,) = figure.axes[0].collections
    return np.asarray(scatter.get_offsets())


def test_two_latents_are_drawn_without_projection() -> None:
    z, labels = latents(500, 2)
    figure = plots.latent_scatter(z, labels, NAMES)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z0", "z1")
    assert texts(figure)[0] == "500 latents of 2 dimensions"
    assert np.allclose(np.sort(points(figure), axis=0), np.sort(z, axis=0))


def test_points_have_the_colour_of_their_class() -> None:
    z, labels = latents(500, 2)
    figure = plots.latent_scatter(z, labels, NAMES)
    (scatter,) = figure.axes[0].collections
    legend = dict(zip(texts(figure)[3::3], figure.texts[2::3], strict=True))
    assert list(legend) == NAMES
    colour_of = {tuple(point): label for point, label in zip(z.tolist(), labels, strict=True)}
    for point, colour in zip(points(figure).tolist(), scatter.get_facecolors(), strict=True):
        name = NAMES[colour_of[tuple(point)]]
        assert mpl.colors.to_rgb(legend[name].get_color()) == pytest.approx(tuple(colour[:3]))
    assert texts(figure)[4::3] == [str(number) for number in np.bincount(labels)]


def test_more_than_two_latents_are_drawn_in_their_principal_plane() -> None:
    z, labels = latents(2000, 16)
    figure = plots.latent_scatter(z, labels, NAMES)
    axes = figure.axes[0]
    variances = np.linalg.eigvalsh(np.cov(z.T))[::-1]
    for k, label in enumerate((axes.get_xlabel(), axes.get_ylabel())):
        share = variances[k] / variances.sum()
        assert label == f"principal component {k + 1} ({share:.0%} of the variance)"
    assert "16 dimensions" in texts(figure)[0]
    # The variances in the plane are the two largest eigenvalues, and its axes do not correlate.
    assert np.allclose(np.cov(points(figure).T), np.diag(variances[:2]), atol=1e-3)


@pytest.mark.parametrize("latent_dim", [2, 3, 16])
def test_projection_inverts_the_lift_from_the_plane(latent_dim: int) -> None:
    plane = Plane.of(latents(300, latent_dim)[0])
    places = np.random.default_rng(0).standard_normal((20, 2))
    # float32 around 25 has steps of 2e-6.
    assert np.allclose(plane.project(plane.lift(places)), places, atol=1e-4)
    assert plane.lift(places).dtype == np.float32


def test_one_latent_is_drawn_at_random_heights() -> None:
    z, labels = latents(300, 1)
    figure = plots.latent_scatter(z, labels, NAMES)
    assert "random heights" in figure.axes[0].get_ylabel()
    assert np.allclose(np.sort(points(figure)[:, 0]), np.sort(z[:, 0]))
    assert len(np.unique(points(figure)[:, 1])) == 300


def test_a_scatter_plot_without_labels_has_no_legend() -> None:
    z, _ = latents(300, 2)
    figure = plots.latent_scatter(z, None, [])
    assert texts(figure) == ["300 latents of 2 dimensions", "Each point is a training image."]
    assert len(points(figure)) == 300


def test_the_legend_counts_points_without_a_label() -> None:
    z, labels = latents(300, 2)
    figure = plots.latent_scatter(z, np.where(labels == 3, -1, labels), NAMES)
    assert texts(figure)[-2:] == ["no label", str((labels == 3).sum())]


def test_100_classes_get_distinct_colours_and_a_short_legend() -> None:
    z, _ = latents(300, 2)
    names = [f"_$name\n{label} that is far too long to fit" for label in range(100)]
    figure = plots.latent_scatter(z, np.arange(300) % 100, names)
    (scatter,) = figure.axes[0].collections
    assert len(np.unique(scatter.get_facecolors(), axis=0)) == 100
    assert re.fullmatch(r"_\$name 0 that.*…", texts(figure)[3])
    assert texts(figure)[-1] == "and 76 more classes"
    canvas(figure)


@pytest.mark.parametrize("num", [1, 2, 70_000])
def test_any_number_of_points_is_drawn(num: int) -> None:
    z, labels = latents(num, 3)
    figure = plots.latent_scatter(z, labels, NAMES)
    assert len(points(figure)) == num
    assert count(figure, (255, 255, 255)) > 0.4 * canvas(figure)[..., 0].size  # not a black blot


def test_the_grid_shows_decoded_images_at_their_places() -> None:
    z, labels = latents(2000, 2)
    figure = plots.latent_grid(decode, z, labels, NAMES, num_side=10)
    low, high = np.percentile(z, [1, 99], axis=0)
    assert figure.axes[0].get_xlim() == pytest.approx((low[0], high[0]))
    assert figure.axes[0].get_ylim() == pytest.approx((low[1], high[1]))
    assert "100 places" in texts(figure)[0]
    overlay = np.asarray(figure.axes[1].get_images()[0].get_array())
    cells = overlay.reshape(10, 90, 10, 90, 4)[:, 45, :, 45]  # the middles of the cells
    centres = low[0] + (np.arange(10) + 0.5) / 10 * (high[0] - low[0])
    # The tolerance is 1, since the decoder's grey is rounded.
    assert np.allclose(cells[..., 0], (centres / 50).clip(0, 1) * 255, atol=1)
    assert (cells[..., 3] == 255).all()
    assert (overlay[0] == 0).all()  # the points are visible between the images


def test_the_second_axis_of_the_grid_points_upwards() -> None:
    z, _ = latents(2000, 2)
    figure = plots.latent_grid(lambda z: decode(z[:, 1:]), z, None, [], num_side=10)
    overlay = np.asarray(figure.axes[1].get_images()[0].get_array())
    column = overlay.reshape(10, 90, 10, 90, 4)[:, 45, 0, 45, 0].astype(int)
    assert (np.diff(column) < 0).all()


@pytest.mark.parametrize(("latent_dim", "num_images"), [(1, 20), (2, 400), (16, 400)])
@pytest.mark.parametrize("num", [1, 3, 300])
def test_the_grid_takes_any_number_of_latents(latent_dim: int, num_images: int, num: int) -> None:
    z, _ = latents(num, latent_dim)
    seen = []

    def decode_rgb(z: np.ndarray) -> np.ndarray:
        assert z.dtype == np.float32
        assert z.shape[1] == latent_dim
        seen.append(z)
        return np.repeat(decode(z), 3, axis=-1).repeat(8, axis=1).repeat(8, axis=2)  # 64 x 64

    figure = plots.latent_grid(decode_rgb, z, None, [])
    assert len(np.unique(np.concatenate(seen), axis=0)) == num_images
    assert f"{num_images} places" in texts(figure)[0]
    canvas(figure)


def test_traversals_move_one_latent_each_the_strongest_first() -> None:
    evenly = np.linspace(-1, 1, 5001, dtype=np.float32)
    z = np.random.default_rng(0).permuted(np.tile(evenly, (3, 1)), axis=1).T
    z[17] = 0  # the median, at which the other latents stay

    def decode_stripes(z: np.ndarray) -> np.ndarray:
        """Decode each of three latents to a stripe. The first is weak and the last is strong."""
        greys = 0.5 + z * [0.05, 0.25, 0.5]
        return np.broadcast_to(greys.repeat(2, axis=1)[..., None, None], (len(z), 6, 8, 1))

    figure = plots.traversals(decode_stripes, z)
    assert texts(figure)[0] == "Effect of each of the 3 latents on an image"
    assert texts(figure)[4::2] == ["z2", "z1", "z0"]
    assert texts(figure)[5::2] == 3 * ["\N{MINUS SIGN}0.98 to 0.98"]
    for axes, latent, strength in zip(figure.axes, (2, 1, 0), (0.5, 0.25, 0.05), strict=True):
        picture = np.asarray(axes.get_images()[0].get_array())[..., 0] / 255
        stripes = picture[14::28, 56::116]  # the middles; a decoded pixel takes 14
        expected = np.full((3, 9), 0.5)
        expected[latent] += strength * np.linspace(-0.98, 0.98, 9)
        assert np.allclose(stripes, expected, atol=0.003)  # greys are rounded to 1/255


@pytest.mark.parametrize(("num", "latent_dim"), [(1, 2), (3, 64), (50, 1), (200, 1024)])
def test_traversals_take_any_number_of_latents_and_images(num: int, latent_dim: int) -> None:
    z, _ = latents(num, latent_dim)

    def decode_rgb(z: np.ndarray) -> np.ndarray:
        assert z.dtype == np.float32
        assert z.shape[1] == latent_dim
        assert len(z) <= 200  # images in memory at once
        return np.repeat(decode(z[:, ::-1]), 3, axis=-1).repeat(8, axis=1).repeat(8, axis=2)

    figure = plots.traversals(decode_rgb, z)
    assert len(figure.axes) == min(latent_dim, 10)
    seen = latent_dim - 1 if num > 1 else 0  # one image gives no range to move in
    assert texts(figure)[4] == f"z{seen}"
    assert (f"The 10 of {latent_dim:,} latents" in texts(figure)[0]) == (latent_dim > 10)
    canvas(figure)


# --- training and data ---------------------------------------------------------------------------


def epochs(num: int, *, val: bool) -> list[dict[str, float]]:
    rows = [
        {
            "epoch": e,
            "loss": 1 / e,
            "learning_rate": 0.002 / e,
            "val_loss": 0.3 + (e - 4) ** 2 / 100,
        }
        for e in range(1, num + 1)
    ]
    return rows if val else [{k: v for k, v in row.items() if k != "val_loss"} for row in rows]


def test_curves_name_the_best_epoch() -> None:
    figure = plots.curves(epochs(9, val=True))
    assert texts(figure)[:2] == [
        "Best validation loss 0.3000, in epoch 4",
        "Training loss at the end, epoch 9: 0.1111.",
    ]
    losses, rates = figure.axes
    lines = {str(line.get_label()): line for line in losses.get_lines()}
    assert list(lines) == ["training", "validation", "kept"]
    assert np.allclose(lines["training"].get_ydata(), 1 / np.arange(1, 10))
    assert np.allclose(lines["kept"].get_xydata(), [[4, 0.3]])
    assert np.allclose(rates.get_lines()[0].get_ydata(), 0.002 / np.arange(1, 10))
    assert [label.get_text() for label in losses.get_legend().get_texts()] == list(lines)


@pytest.mark.parametrize("val", [True, False])
def test_curves_of_a_second_phase_leave_out_its_training_loss(val: bool) -> None:
    rows = epochs(9, val=val)
    rows += [{**each, "epoch": each["epoch"] + 9, "loss": 99, "phase": 2} for each in rows[:3]]
    figure = plots.curves(rows)
    reached = "Validation loss 0.3100 after" if val else "After"
    assert texts(figure)[0] == f"{reached} 3 rounds of the second phase"
    assert "99" not in texts(figure)[1]
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    drawn = np.array(lines["training"].get_ydata(), float)
    assert np.isnan(drawn[9:]).all()
    assert np.allclose(drawn[:9], 1 / np.arange(1, 10))
    assert ("kept" in lines) == val
    if val:
        assert np.allclose(lines["kept"].get_xydata(), [[12, 0.31]])
    assert figure.axes[0].get_ylim()[1] < 2
    canvas(figure)


@pytest.mark.parametrize("num", [1, 2, 500])
def test_curves_without_validation_mark_the_last_epoch(num: int) -> None:
    figure = plots.curves([{**each, "loss": each["epoch"]} for each in epochs(num, val=False)])
    assert texts(figure)[0] == f"Training loss {num:.4f}, after epoch {num}"
    (kept,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "kept"]
    assert np.allclose(kept.get_xydata(), [[num, num]])
    canvas(figure)
    ticks = figure.axes[1].get_xticks()
    assert (ticks == ticks.astype(int)).all()


def profile(num: int, class_names: list[str], channels: int = 1) -> dict[str, Any]:
    shares = {"train": num - num // 4, "val": 0, "test": num // 4}
    splits: dict[str, Any] = {name: {"images": images} for name, images in shares.items()}
    for split in splits.values():
        if class_names:
            split["classes"] = {name: split["images"] // len(class_names) for name in class_names}
    return {
        "num_images": num,
        "image_shape": [16, 16, channels],
        "class_names": class_names,
        "splits": splits,
        "sizes": [{"height": 20 + i, "width": 30, "images": num // 10} for i in range(10)],
        "brightness": {"mean": 100.4, "std": 50.0, "histogram": [0, *range(15)]},
        "duplicates": 7,
        "rejects": {},
    }


def index(labels: list[int | None]) -> pd.DataFrame:
    return pd.DataFrame({"label": pd.array(labels, dtype="Int64")})


@both_kinds
def test_the_profile_shows_counts_and_examples_of_each_class(channels: int) -> None:
    images = photos(40, channels=channels)
    for label in range(4):
        images[label * 10 : (label + 1) * 10] = 60 + 40 * label
    labels: list[int | None] = [label for label in range(4) for _ in range(10)]
    labels[0] = None
    known = profile(40, ["cat", "dog", "owl", "fox"], channels)
    figure = plots.data_profile(images, index(labels), known)
    assert texts(figure)[0] == "40 images in 4 classes"
    kind = "grey" if channels == 1 else "RGB"
    assert texts(figure)[1] == (
        f"30 train, 0 val, 10 test. 16 x 16 pixels, {kind}. Left out: 7 duplicates, 0 rejected."
    )
    for line, name in enumerate(("cat", "dog", "owl", "fox")):
        at = texts(figure).index(name)
        assert texts(figure)[at + 1 : at + 4] == ["7", "0", "2"]
        assert count(figure, grey(60 + 40 * line)) >= 7 * 64**2  # seven examples of each class


def test_the_profile_shows_brightness_and_sizes() -> None:
    figure = plots.data_profile(photos(40), index([None] * 40), profile(40, []))
    (axes,) = (axes for axes in figure.axes if axes.patches)
    heights = [bar.get_height() for bar in axes.patches]  # type: ignore[attr-defined]
    assert np.allclose(heights, np.array([0, *range(15)]) / sum(range(15)))
    assert "mean 100, standard deviation 50" in texts(figure)
    assert "20 x 30" in texts(figure)
    assert "and other sizes" in texts(figure)


def test_the_profile_says_that_no_image_was_rejected() -> None:
    figure = plots.data_profile(photos(40), index([None] * 40), profile(40, []))
    assert "Nothing: every image can be used." in texts(figure)


def test_the_profile_names_reasons_and_examples_of_rejected_files() -> None:
    known = profile(40, ["a"])
    known["rejects"] = {
        f"reason_{i}": {"images": 10 + i, "examples": [f"$file_{i}.txt", "x" * 100]}
        for i in range(6)
    }
    figure = plots.data_profile(photos(40), index([0] * 40), known)
    assert "75 rejected" in texts(figure)[1]
    at = texts(figure).index("reason_1")
    assert texts(figure)[at + 1] == "11"
    assert re.fullmatch(r"\$file_1.txt, x+…", texts(figure)[at + 2])
    assert texts(figure)[-1] == "and for 2 other reasons"
    canvas(figure)


@both_kinds
@pytest.mark.parametrize("num", [3, 200])
def test_the_profile_without_labels_is_a_grid_of_examples(channels: int, num: int) -> None:
    images = photos(num, channels=channels)
    figure = plots.data_profile(images, index([None] * num), profile(num, [], channels))
    assert texts(figure)[0] == f"{num} images without labels"
    examples = figure.axes[0].get_images()[0].get_array()
    rows, columns = (-(-min(num, 120) // 12), min(num, 12))
    assert examples.shape == (68 * rows - 4, 68 * columns - 4, 3)


@pytest.mark.parametrize("num_classes", [1, 30])
def test_the_profile_takes_empty_classes_and_many_classes(num_classes: int) -> None:
    names = [f"class {i}" for i in range(num_classes)]
    figure = plots.data_profile(photos(10), index([0] * 10), profile(10, names))
    assert "class 0" in texts(figure)
    assert ("and 6 more" in texts(figure)) == (num_classes == 30)
    canvas(figure)


# --- all plots -----------------------------------------------------------------------------------


def boxes(figure: Figure) -> dict[str, Bbox]:
    """The box of each text, with the numbers on the axes among them, and of each picture."""
    figure.canvas.draw()
    written = [*figure.texts]
    for axes in figure.axes:
        if axes.axison:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                written += [axis.label, axis.get_offset_text(), *(tick.label1 for tick in ticks)]
    shown = [text for text in written if text.get_text() and text.get_visible()]
    found = {f"{i} {text.get_text()}": text.get_window_extent() for i, text in enumerate(shown)}
    pictures = [axes for axes in figure.axes if not axes.axison]
    return found | {f"picture {i}": axes.bbox for i, axes in enumerate(pictures)}


LONG_NAMES = [f"Class {i}: WWWWWWWW and on and on" for i in range(15)]


def scatter_of(scale: float, latent_dim: int = 2) -> Figure:
    z, _ = latents(300, latent_dim)
    return plots.latent_scatter((z - 25) * scale, np.arange(300) % 16 - 1, LONG_NAMES)


def crowded_profile() -> Figure:
    known = profile(4_000_000, LONG_NAMES)
    known["splits"]["val"]["classes"] = dict.fromkeys(LONG_NAMES, 123_456)
    known["brightness"]["histogram"] = [1, *[0] * 15]
    known["rejects"] = {"not_an_image" * 3: {"images": 12_345, "examples": ["x" * 200]}}
    return plots.data_profile(photos(40), index([i % 15 for i in range(40)]), known)


def slow_curves() -> Figure:
    rows = [{"epoch": e, "loss": 0.25 + 1e-5 / e, "learning_rate": 1e-5} for e in range(1, 200)]
    return plots.curves(rows)


def class_page(num: int) -> Figure:
    return plots.class_samples(photos(num), np.arange(num) % 15, LONG_NAMES * 2)


def neighbour_page(num: int) -> Figure:
    found = photos(3 * num).reshape(num, 3, 16, 16, 1)
    return plots.nearest_neighbours(photos(num), found, np.full((num, 3), 123.456), 123.456)


FULL_PAGES = {
    "samples of classes": lambda: class_page(300),
    "few samples of classes": lambda: class_page(15),
    "neighbours": lambda: neighbour_page(40),
    "neighbours of one": lambda: neighbour_page(1),
    "traversals": lambda: plots.traversals(decode, latents(300, 16)[0] * -1e6),
    "one traversal": lambda: plots.traversals(decode, latents(300, 1)[0] * -1e-6),
    "small latents": lambda: scatter_of(1e-6),
    "latents": lambda: scatter_of(1),
    "large latents": lambda: scatter_of(900),
    "huge latents": lambda: scatter_of(1e6, latent_dim=16),
    "grid without labels": lambda: plots.latent_grid(decode, latents(99_999, 16)[0], None, []),
    "profile": crowded_profile,
    "curves": slow_curves,
}


@pytest.mark.parametrize("draw", FULL_PAGES.values(), ids=FULL_PAGES)
def test_no_text_is_cut_off_or_covers_another(draw: Callable[[], Figure]) -> None:
    figure = draw()
    page = figure.bbox
    found = boxes(figure)
    for text, box in found.items():
        inside = page.x0 <= box.x0 and page.y0 <= box.y0 and box.x1 <= page.x1 and box.y1 <= page.y1
        assert inside, text
    for one, other in combinations(found, 2):
        # Lines of text may touch, since a box has room for letters such as g.
        assert not found[one].padded(-2).overlaps(found[other].padded(-2)), (one, other)


def test_equal_data_gives_equal_pictures_and_rcparams_stay_unchanged() -> None:
    before = dict(mpl.rcParams)
    z, labels = latents(300, 3)
    figures = [plots.latent_grid(decode, z, labels, NAMES, num_side=5) for _ in range(2)]
    assert np.array_equal(canvas(figures[0]), canvas(figures[1]))
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("num_latents", [1, 2, 16])
def test_drift_page_shows_the_latents_that_moved(num_latents: int) -> None:
    rng = np.random.default_rng(0)
    test = rng.gamma(4, 0.005, 500), rng.normal(size=(500, num_latents))
    new = rng.gamma(4, 0.01, 100), rng.normal(size=(100, num_latents))
    new[1][:, -1] += 5
    worst = rng.integers(256, size=(12, 8, 8, 1), dtype=np.uint8)
    figure = plots.drift("Drift", "100 new images differ", test, new, (worst, 255 - worst))
    errors, latents = figure.axes[:2]
    assert errors.get_legend().get_texts()[1].get_text() == "new (100)"
    names = latents.get_xlabel(), latents.get_ylabel()
    assert f"z{num_latents - 1}" in names
    assert len(figure.axes) == 4
