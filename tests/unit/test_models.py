"""The default model equals the book's layer by layer; other settings have their stated effects."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from scipy import stats

from checkouts import ROOT
from families import NUM_CLASSES, OF_KIND, autoencoder, every_family
from latentworks import params
from latentworks.artifacts.model import read_model, write_model
from latentworks.engine.backend import tf
from latentworks.errors import DataError, UnsafeModel
from latentworks.models.config import ModelConfig, VAEConfig
from latentworks.models.vae import kl_divergence
from latentworks.sections import Params
from latentworks.system import disk

SEED = autoencoder(filters=(32, 64, 128))


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_the_default_model_has_the_layers_of_the_book() -> None:
    assert params.load(Params, ROOT / "params.yaml").model == SEED
    model = SEED.build((32, 32, 1))

    def summary(part: keras.Model) -> list[tuple[str, int]]:
        return [(type(layer).__name__, layer.count_params()) for layer in part.layers[1:]]

    # Layers and counts as the book prints them: 96 770 and 246 273 parameters.
    assert summary(model.encoder) == [
        ("Conv2D", 320),
        ("Conv2D", 18_496),
        ("Conv2D", 73_856),
        ("Flatten", 0),
        ("Dense", 4_098),
    ]
    assert summary(model.decoder) == [
        ("Dense", 6_144),
        ("Reshape", 0),
        ("Conv2DTranspose", 147_584),
        ("Conv2DTranspose", 73_792),
        ("Conv2DTranspose", 18_464),
        ("Conv2D", 289),
    ]
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        if type(layer).__name__.startswith("Conv"):
            config = layer.get_config()
            last = layer is model.decoder.layers[-1]
            assert config["kernel_size"] == (3, 3)
            assert config["strides"] == ((1, 1) if last else (2, 2))
            assert config["padding"] == "same"
            assert config["activation"] == ("sigmoid" if last else "relu")


SHAPES = [(28, 28, 1), (30, 30, 3), (33, 17, 1), (8, 8, 3), (64, 64, 3)]


def inputs(model: Any, num: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """The inputs of a model (with labels if the model takes them), then the images, the labels."""
    batch, labels = images(num, *model.image_shape), np.arange(num) % NUM_CLASSES
    return ((batch, labels) if model.num_classes else batch), batch, labels


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("architecture", ["plain", "fast", "residual"])
def test_decoded_images_have_the_shape_of_the_encoded_images(
    shape: tuple[int, int, int], architecture: str
) -> None:
    model = autoencoder(architecture=architecture, latent_dim=5, filters=(4, 8, 8)).build(shape)
    batch = images(3, *shape)
    latents = model.encode(batch)
    assert latents.shape == (3, 5)
    decoded = model.decode(latents)
    assert decoded.shape == (3, *shape)
    assert 0 <= float(np.min(decoded)) <= float(np.max(decoded)) <= 1
    np.testing.assert_array_equal(model(batch), decoded)


def latent_dim(config: Any, shape: tuple[int, int, int]) -> int:
    """The number of latents of an image. Codes are on a grid, of a place for 4 x 4 pixels."""
    if config.kind != "codes":
        return int(config.latent_dim)
    return math.ceil(shape[0] / 4) * math.ceil(shape[1] / 4) * len(config.levels)


@every_family
@pytest.mark.parametrize("shape", [(9, 7, 1), (16, 16, 3)], ids=str)
def test_every_family_encodes_and_decodes(config: Any, shape: tuple[int, int, int]) -> None:
    model = config.build(shape, NUM_CLASSES)
    called, batch, labels = inputs(model, 4)
    for given in (labels, None):
        latents = model.encode(batch, given)
        decoded = model.decode(latents, given)
        assert latents.shape == (4, latent_dim(config, shape))
        assert decoded.shape == model(called).shape == (4, *shape)
        np.testing.assert_array_equal(model.encode(batch, given), latents)  # no random draw


@every_family
def test_the_graphs_of_a_model_give_the_outputs_of_the_model(config: Any) -> None:
    model = config.build((8, 8, 1), NUM_CLASSES)
    _, batch, labels = inputs(model, 3)
    graphs, latents = model.graphs(), model.encode(batch, labels)
    known = model.num_classes > 0
    given, classes = keras.ops.convert_to_tensor(batch), keras.ops.convert_to_tensor(labels)
    encoded = graphs["encoder"]([given, classes] if known else given)
    decoded = graphs["decoder"]([latents, classes] if known else latents)
    np.testing.assert_array_equal(encoded, latents)
    np.testing.assert_array_equal(decoded, model.decode(latents, labels))


def multiplications(model: keras.Model) -> int:
    """The number of multiplications that encode and decode one image."""
    total = 0
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        if layer.weights:
            transposed = isinstance(layer, keras.layers.Conv2DTranspose)
            places = (layer.input if transposed else layer.output).shape[1:-1]
            total += math.prod(layer.weights[0].shape) * math.prod(places)
    return total


def test_fast_needs_a_quarter_and_residual_five_times_the_multiplications() -> None:
    counts = {
        name: multiplications(SEED.model_copy(update={"architecture": name}).build((32, 32, 1)))
        for name in ("plain", "fast", "residual")
    }
    assert counts["fast"] / counts["plain"] == pytest.approx(0.25, abs=0.01)
    assert counts["residual"] / counts["plain"] == pytest.approx(5, abs=0.2)


def test_an_untrained_residual_block_is_the_identity() -> None:
    model = autoencoder(architecture="residual").build((8, 8, 1))
    blocks = [layer for layer in model.encoder.layers if layer.name.endswith("_add")]
    assert len(blocks) == 2
    for block in blocks:
        through = keras.Model(model.encoder.input, [block.input[0], block.output])
        np.testing.assert_array_equal(*through(images(2, 8, 8, 1) / 255))


# --- terms of the loss ---------------------------------------------------------------------------


def loss_of(model: Any, called: Any, training: bool) -> float:
    predicted = model(called, training=training)
    return float(model.compute_loss(x=called, y_pred=predicted, training=training))


def test_latent_l2_adds_the_squared_norm_of_the_latents_to_the_loss() -> None:
    regular = autoencoder(latent_l2=3.0).build((8, 8, 1))
    batch = images(5, 8, 8, 1)
    z = np.asarray(regular.encode(batch), np.float64)
    bare = float(np.mean(keras.losses.binary_crossentropy(batch / 255.0, regular(batch))))
    expected = bare + 3 * (z**2).sum(axis=1).mean() / 2 / 64
    # Float32 against float64 over 320 pixels.
    assert loss_of(regular, batch, training=True) == pytest.approx(expected, 1e-5)


def test_latent_noise_is_added_in_training_alone() -> None:
    noisy = autoencoder(latent_noise=1.0, latent_l2=0.01).build((8, 8, 1))
    batch = images(5, 8, 8, 1)
    np.testing.assert_array_equal(noisy(batch, training=False), noisy.decode(noisy.encode(batch)))
    assert not np.array_equal(noisy(batch, training=True), noisy(batch, training=True))


def test_kl_divergence_agrees_with_numerical_integration() -> None:
    mean, log_var = np.float32([[0, 0], [1, -2]]), np.float32([[0, 0], [0.5, -1]])
    ours = np.asarray(kl_divergence(mean, log_var))
    assert ours[0] == 0
    # By integration: the sum over independent latents of E[log q - log p].
    x = np.linspace(-20, 20, 200_001)
    q = [stats.norm(m, np.exp(v / 2)) for m, v in zip(mean[1], log_var[1], strict=True)]
    logs = [each.pdf(x) * (each.logpdf(x) - stats.norm.logpdf(x)) for each in q]
    assert ours[1] == pytest.approx(sum(np.trapezoid(log, x) for log in logs), rel=1e-5)


def test_beta_weighs_the_kl_loss_and_rises_during_the_warm_up() -> None:
    model = VAEConfig(**{**OF_KIND["vae"].model_dump(), "beta": 2.0, "kl_warmup_steps": 10}).build(
        (8, 8, 1)
    )
    batch = images(6, 8, 8, 1)
    z_mean, z_log_var = model.encoder(batch / np.float32(255))
    divergence = float(np.mean(kl_divergence(z_mean, z_log_var))) / 64
    model.compile(optimizer="sgd")
    model.optimizer.build(model.trainable_variables)
    for step, weight in ((0, 0.0), (5, 1.0), (10, 2.0), (99, 2.0)):
        model.optimizer.iterations.assign(step)
        model(batch, training=True)
        assert float(model.losses[0]) == pytest.approx(weight * divergence)
    # Validation uses the full beta from the first step.
    model.optimizer.iterations.assign(0)
    model(batch, training=False)
    assert float(model.losses[0]) == pytest.approx(2 * divergence)


def test_the_vae_draws_latents_around_z_mean_and_encodes_to_z_mean() -> None:
    model = OF_KIND["vae"].build((8, 8, 1))
    batch = np.repeat(images(1, 8, 8, 1), 4000, axis=0)
    z_mean, z_log_var = (np.asarray(part[:1]) for part in model.encoder(batch / np.float32(255)))
    drawn = np.asarray(model._sampled(*model.encoder(batch / np.float32(255)), training=False))
    # Five standard errors of the mean and of the standard deviation of 4000 draws.
    spread = np.exp(z_log_var / 2)
    assert (np.abs(drawn.mean(axis=0) - z_mean) < 5 * spread / np.sqrt(4000)).all()
    assert (np.abs(drawn.std(axis=0) - spread) < 5 * spread / np.sqrt(8000)).all()
    # The same batch, since float32 sums have another order in a batch of another size.
    means, _ = model.encoder(batch / np.float32(255))
    np.testing.assert_array_equal(model.encode(batch), means)


def test_each_adversarial_loss_has_gradients_for_its_own_side_alone() -> None:
    weight = 50.0
    family = OF_KIND["adversarial"].model_copy(update={"adversarial_weight": weight})
    model = family.build((8, 8, 1))
    batch = images(6, 8, 8, 1)
    drawn = keras.random.normal((6, model.latent_dim), seed=0)
    model.seeds.state.assign([0, 0])  # the model draws the same
    with tf.GradientTape(persistent=True) as tape:
        loss = model.compute_loss(x=batch, y_pred=model(batch, training=True))
        z = model.encode(batch)
        bare = model._reconstruction_loss(batch, model.decode(z))
        of_latents, of_drawn = (tf.nn.sigmoid(model.discriminator(each)) for each in (z, drawn))
        deception = -tf.reduce_mean(tf.math.log(of_latents)) / 64
        likelihood = tf.math.log(of_drawn) + tf.math.log(1 - of_latents)
        cross_entropy = -tf.reduce_mean(likelihood) / 2
        deceiving = bare + weight * deception
    assert float(loss) == pytest.approx(float(bare), 1e-6)  # both have gradients and no value
    for part, alone in (
        (model.encoder, deceiving),
        (model.decoder, bare),
        (model.discriminator, cross_entropy),
    ):
        ours, theirs = (tape.gradient(each, part.trainable_variables) for each in (loss, alone))
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)  # rounding of float32
        assert any(np.abs(each).max() > 1e-3 for each in ours)


def test_codes_use_most_values_of_each_number() -> None:
    keras.utils.set_random_seed(1)
    model = OF_KIND["codes"].model_copy(update={"levels": (8, 6, 5)}).build((16, 16, 1))
    model.compile(optimizer=keras.optimizers.Adam(0.002))
    batch = images(64, 16, 16, 1) // 8  # dark: the encoder's numbers begin near 0
    model.fit(batch, epochs=30, verbose=0)
    numbers = np.asarray(model.encode(batch)).reshape(-1, 3)
    used = [len(np.unique(number)) for number in numbers.T]
    assert all(some >= few for some, few in zip(used, (6, 4, 4), strict=True)), used


def test_a_label_of_minus_one_counts_as_no_label() -> None:
    model = OF_KIND["conditional"].build((8, 8, 1), NUM_CLASSES)
    batch = images(NUM_CLASSES, 8, 8, 1)
    unknown, known = np.full(NUM_CLASSES, -1), np.arange(NUM_CLASSES)
    np.testing.assert_array_equal(model.encode(batch, unknown), model.encode(batch))
    z = np.zeros((NUM_CLASSES, 2), np.float32)
    np.testing.assert_array_equal(model.decode(z, unknown), model.decode(z))
    decoded = np.asarray(model.decode(z, known))
    assert all(not np.array_equal(decoded[0], other) for other in decoded[1:])
    assert not np.array_equal(model.encode(batch, known), model.encode(batch))


def test_a_conditional_model_needs_labels() -> None:
    with pytest.raises(DataError, match="conditional needs images with labels"):
        OF_KIND["conditional"].build((8, 8, 1), 0)


def test_the_loss_compares_images_scaled_to_zero_to_one() -> None:
    model = SEED.build((32, 32, 1))
    batch = images(4, 32, 32, 1)
    target, output = batch / 255.0, np.asarray(model(batch), dtype=np.float64)
    expected = -np.mean(target * np.log(output) + (1 - target) * np.log(1 - output))
    # Float32 against float64 over 4096 pixels.
    assert float(model.compute_loss(x=batch, y_pred=model(batch))) == pytest.approx(expected, 1e-5)


@every_family
def test_a_model_file_is_repeatable_and_gives_the_model_back(config: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    model = config.build((16, 16, 1), NUM_CLASSES)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_model(tmp_path / name, model, config)
    assert disk.file_digest(tmp_path / "first/model.keras") == disk.file_digest(
        tmp_path / "second/model.keras"
    )
    assert sorted(file.name for file in (tmp_path / "first").iterdir()) == [
        "config.json",
        "model.keras",
    ]
    again = read_model(tmp_path / "first", ModelConfig)
    _, batch, labels = inputs(model, 2)
    latents = model.encode(batch, labels)
    np.testing.assert_array_equal(again.encode(batch, labels), latents)
    np.testing.assert_array_equal(again.decode(latents, labels), model.decode(latents, labels))
    assert again.latent_dim == latent_dim(config, (16, 16, 1))
    assert again.image_shape == (16, 16, 1)
    assert again.num_classes == model.num_classes


def test_a_model_file_of_another_family_is_refused(tmp_path: Path) -> None:
    plain, variational = OF_KIND["autoencoder"], OF_KIND["vae"]
    write_model(tmp_path, plain.build((8, 8, 1)), variational)
    with pytest.raises(UnsafeModel, match="do not describe a model of this project"):
        read_model(tmp_path, ModelConfig)
