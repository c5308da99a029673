"""Every raw image is brought to one shape, and its split depends on its pixels alone."""

import hashlib
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentworks.datasets.split import content_id, split_of
from latentworks.preprocess import (
    Fit,
    over_background,
    prepare_image,
    scaled,
    to_uint8,
    with_channels,
)


def constant(height: int, width: int, *pixel: int) -> np.ndarray:
    return np.full((height, width, len(pixel)), pixel, dtype=np.uint8)


def test_16_bit_values_are_rounded_not_clipped_or_truncated() -> None:
    every_value = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    expected = np.round(every_value / 257).astype(np.uint8)
    np.testing.assert_array_equal(to_uint8(every_value), expected)


def test_the_hidden_colour_of_a_transparent_pixel_does_not_show() -> None:
    image = np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [255, 0, 0, 51]]], dtype=np.uint8)
    over = over_background(image, background=100)
    assert over.tolist() == [[[100, 100, 100], [255, 0, 0], [131, 80, 80]]]


def test_grey_with_alpha_is_blended_with_the_background() -> None:
    image = np.array([[[200, 0], [200, 255]]], dtype=np.uint8)
    assert over_background(image, background=7).tolist() == [[[7], [200]]]


@pytest.mark.parametrize(
    ("pixel", "luma"),
    [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((255, 255, 255), 255)],
)
def test_grey_is_computed_from_rgb_by_itu_r_601(pixel: tuple[int, int, int], luma: int) -> None:
    grey = with_channels(constant(2, 3, *pixel), channels=1)
    assert grey.shape == (2, 3, 1)
    assert np.unique(grey).tolist() == [luma]


def test_rgb_from_grey_repeats_the_grey_channel() -> None:
    assert with_channels(constant(1, 1, 9), channels=3).tolist() == [[[9, 9, 9]]]


@pytest.mark.parametrize("side", [27, 28])
def test_pad_centres_a_small_image_and_keeps_its_pixels(side: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 1), dtype=np.uint8)
    prepared = prepare_image(image, shape=(32, 32, 1), fit="pad", background=3)
    np.testing.assert_array_equal(prepared[2 : 2 + side, 2 : 2 + side], image)
    assert np.count_nonzero(prepared != 3) == np.count_nonzero(image != 3)


@pytest.mark.parametrize("fit", ["pad", "resize"])
def test_shrinking_a_large_image_keeps_its_aspect_ratio(fit: Fit) -> None:
    image = constant(40, 80, 200)
    prepared = prepare_image(image, shape=(20, 20, 1), fit=fit, background=10)[..., 0]
    assert np.unique(prepared[5:15]).tolist() == [200]
    assert np.unique(np.delete(prepared, np.s_[5:15], axis=0)).tolist() == [10]


def test_resize_enlarges_a_small_image_and_pad_does_not() -> None:
    image = constant(4, 8, 200)
    up = prepare_image(image, shape=(16, 16, 1), fit="resize", background=0)
    same = prepare_image(image, shape=(16, 16, 1), fit="pad", background=0)
    assert np.count_nonzero(up) == 8 * 16
    assert np.count_nonzero(same) == 4 * 8


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((64, 64, 1), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = scaled(stripes, (16, 16), "resize")
    assert np.abs(small[2:-2, 2:-2].astype(int) - 128).max() <= 2  # mean: 128; aliased: 0 or 255


def test_the_background_fills_the_padding_and_transparent_pixels() -> None:
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    prepared = prepare_image(clear, shape=(16, 16, 3), fit="pad", background=128)
    assert np.unique(prepared).tolist() == [128]


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    raw_channels=st.integers(1, 4),
    deep=st.booleans(),
    frame=st.tuples(st.sampled_from([8, 31, 32]), st.sampled_from([8, 17, 32])),
    channels=st.sampled_from([1, 3]),
    fit=st.sampled_from(get_args(Fit)),
)
def test_every_raw_image_gets_the_same_shape(
    height: int,
    width: int,
    raw_channels: int,
    deep: bool,
    frame: tuple[int, int],
    channels: int,
    fit: Fit,
) -> None:
    rng = np.random.default_rng(height * width)
    dtype = np.uint16 if deep else np.uint8
    shape = (height, width, raw_channels)
    image = rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    prepared = prepare_image(image, shape=(*frame, channels), fit=fit, background=0)
    assert prepared.shape == (*frame, channels)
    assert prepared.dtype == np.uint8


def test_an_extremely_wide_image_keeps_one_row_of_pixels() -> None:
    image = constant(1, 5000, 255)
    prepared = prepare_image(image, shape=(16, 16, 1), fit="pad", background=0)
    assert np.count_nonzero(prepared) == 16


# --- frames that are not square, and crop --------------------------------------------------------


@pytest.mark.parametrize(
    ("fit", "height", "width"),
    [("pad", 10, 20), ("resize", 12, 24), ("crop", 24, 24)],
)
def test_an_image_is_scaled_by_both_sides_of_the_frame(fit: Fit, height: int, width: int) -> None:
    prepared = prepare_image(constant(10, 20, 200), shape=(24, 24, 1), fit=fit, background=9)
    assert np.count_nonzero(prepared == 200) == height * width
    tall = prepare_image(constant(20, 10, 200), shape=(30, 24, 1), fit=fit, background=9)
    assert np.count_nonzero(tall == 200) == {"pad": 200, "resize": 30 * 15, "crop": 720}[fit]


@pytest.mark.parametrize("fit", get_args(Fit))
def test_an_image_in_the_shape_of_the_frame_keeps_its_pixels(fit: Fit) -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 17, 3), dtype=np.uint8)
    prepared = prepare_image(image, shape=(24, 17, 3), fit=fit, background=0)
    np.testing.assert_array_equal(prepared, image)


def test_crop_keeps_the_centre_of_a_wide_and_of_a_high_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 51, 1), dtype=np.uint8)
    cropped = prepare_image(image, shape=(20, 21, 1), fit="crop", background=0)
    np.testing.assert_array_equal(cropped, image[:, 15:36])
    high = prepare_image(image.swapaxes(0, 1), shape=(21, 20, 1), fit="crop", background=0)
    np.testing.assert_array_equal(high.swapaxes(0, 1), cropped)


@pytest.mark.parametrize(("height", "width"), [(60, 91), (91, 60), (20, 25), (70, 40)])
def test_crop_scales_both_sides_alike_and_leaves_out_equal_parts(height: int, width: int) -> None:
    y, x = np.indices((height, width))
    ramp = np.stack([y * 255 / height, x * 255 / width], axis=0)[..., None]  # grows by equal steps
    frame = (24, 32)
    scale = max(24 / height, 32 / width)
    for axis, part in enumerate(ramp):
        seen = scaled(np.rint(part).astype(np.uint8), frame, "crop").astype(float)[..., 0]
        steps = np.diff(seen.mean(axis=1 - axis))[4:-4]  # the filter repeats pixels at the edges
        length = (height, width)[axis]
        # Rounding moves the ends of 15 or more steps by at most a grey value each.
        assert steps.mean() == pytest.approx(255 / length / scale, abs=0.15)
        middle = 255 * (length - 1) / 2 / length
        assert seen.mean() == pytest.approx(middle, abs=1)


@pytest.mark.parametrize(
    ("height", "width", "frame"),
    [(1, 5000, (16, 16)), (5000, 1, (8, 1024)), (1, 1, (1024, 8)), (3, 4999, (1024, 8))],
)
def test_crop_leaves_no_margin_in_an_extreme_image(
    height: int, width: int, frame: tuple[int, int]
) -> None:
    image = constant(height, width, 200)
    prepared = prepare_image(image, shape=(*frame, 1), fit="crop", background=0)
    assert prepared.shape == (*frame, 1)
    assert (prepared == 200).all()


def test_content_id_depends_on_shape_and_bytes() -> None:
    flat, tall = constant(2, 8, 1), constant(8, 2, 1)
    assert content_id(flat) == content_id(flat.copy())
    assert len({content_id(flat), content_id(tall), content_id(flat + 1)}) == 3
    assert len(content_id(flat)) == 32
    assert int(content_id(flat), 16) >= 0


def test_content_id_does_not_depend_on_memory_layout() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert content_id(image[::-1]) == content_id(np.ascontiguousarray(image[::-1]))


IDS = [hashlib.sha256(str(number).encode()).hexdigest()[:32] for number in range(20_000)]


def test_splits_have_the_requested_fractions() -> None:
    splits = [split_of(image_id, val_fraction=0.25, test_fraction=0.2) for image_id in IDS]
    # Each count is binomial, with a standard deviation below 60 of 20 000: five of these are 0.015.
    assert splits.count("test") / len(IDS) == pytest.approx(0.2, abs=0.015)
    assert splits.count("val") / len(IDS) == pytest.approx(0.8 * 0.25, abs=0.015)


def test_val_fraction_0_gives_no_val_images() -> None:
    assert {split_of(image_id, 0, 0.1) for image_id in IDS} == {"train", "test"}


def test_val_fraction_does_not_change_the_test_split() -> None:
    test = {image_id for image_id in IDS if split_of(image_id, 0, 0.1) == "test"}
    assert test == {image_id for image_id in IDS if split_of(image_id, 0.5, 0.1) == "test"}
