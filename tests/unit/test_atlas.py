"""The file of the latent atlas, and the program that decodes in it."""

import json

import pytest

from atlas_page import of_the_book, space
from latentworks.plots.decoder_program import DecoderProgram, UnknownLayer


def test_equal_inputs_give_equal_bytes_and_class_names_are_escaped() -> None:
    given = space(5, (9, 7, 3))
    page = given.page(None)
    assert page == given.page(None)
    assert page != space(5, (9, 7, 3), 61).page(None)
    assert "<b>square" not in page
    assert "http:" not in page
    assert "https:" not in page


def test_images_of_more_than_12_million_pixels_are_shrunk() -> None:
    given = space(2, (64, 32, 1), 6000)  # 12.3 million pixels
    start = given.page(None)
    sprite = json.loads(start.partition('id="data">')[2].partition("</script>")[0])["sprite"]
    assert (sprite["height"], sprite["width"]) == (32, 16)


def test_a_decoder_program_has_the_weights_and_ordered_steps_of_keras() -> None:
    decoder = of_the_book(2, (30, 30, 1))
    program = DecoderProgram.of(decoder)
    once = ["conv_transpose", "activate"]
    steps = [step["operation"] for step in program.steps]
    assert steps == ["dense", *once, *once, *once, "conv", "activate", "pad"]
    assert program.weights.size == decoder.count_params()
    assert program.inputs == {"latents": 2}
    assert program.image_shape == (30, 30, 1)


def test_the_error_for_an_unknown_layer_names_the_layer() -> None:
    from keras import Model, layers

    latents = layers.Input((2,), name="latents")
    x = layers.Reshape((4, 4, 1))(layers.Dense(16)(latents))
    smooth = layers.UpSampling2D(interpolation="bilinear", name="smooth")(x)
    for last, name in (
        (smooth, r"smooth \(UpSampling2D\)"),
        (layers.Softmax(name="odd")(x), r"odd \(Softmax\)"),
        (layers.Activation("mish", name="fish")(x), r"fish \(Activation\)"),
        (x * 2, r"multiply \(Multiply\)"),
    ):
        with pytest.raises(UnknownLayer, match=name):
            DecoderProgram.of(Model(latents, last))
