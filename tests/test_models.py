"""The model of the seed, exactly, and what follows from other settings."""

from pathlib import Path

import keras
import numpy as np
import pytest

from conftest import ROOT
from latentworks import artifacts, params
from latentworks.cli import Params
from latentworks.models.config import AutoencoderConfig, ModelConfig

SEED = AutoencoderConfig(
    kind="autoencoder", latent_dim=2, filters=(32, 64, 128), loss="binary_crossentropy"
)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_default_is_the_system_of_the_book() -> None:
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


@pytest.mark.parametrize("shape", [(28, 28, 1), (30, 30, 3), (33, 17, 1), (8, 8, 3), (64, 64, 3)])
@pytest.mark.parametrize("loss", ["binary_crossentropy", "mean_squared_error"])
def test_any_image_shape_comes_back_as_it_was(shape: tuple[int, int, int], loss: str) -> None:
    config = SEED.model_copy(update={"loss": loss, "latent_dim": 5, "filters": (4, 8, 8)})
    model = config.build(shape)
    batch = images(3, *shape)
    latents = model.encode(batch)
    assert latents.shape == (3, 5)
    decoded = model.decode(latents)
    assert decoded.shape == (3, *shape)
    assert 0 <= float(np.min(decoded)) <= float(np.max(decoded)) <= 1
    np.testing.assert_array_equal(model(batch), decoded)


def test_loss_is_that_of_the_images_in_zero_to_one() -> None:
    model = SEED.build((32, 32, 1))
    batch = images(4, 32, 32, 1)
    target, output = batch / 255.0, np.asarray(model(batch), dtype=np.float64)
    expected = -np.mean(target * np.log(output) + (1 - target) * np.log(1 - output))
    # Float32 against float64 over 4096 pixels.
    assert float(model.compute_loss(x=batch, y_pred=model(batch))) == pytest.approx(expected, 1e-5)


def test_file_gives_the_model_back_and_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    config = SEED.model_copy(update={"filters": (4, 8), "latent_dim": 3})
    keras.utils.set_random_seed(1)
    model = config.build((16, 16, 1))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        artifacts.write_model(tmp_path / name, model, config)
    assert artifacts.file_digest(tmp_path / "first/model.keras") == artifacts.file_digest(
        tmp_path / "second/model.keras"
    )
    assert sorted(file.name for file in (tmp_path / "first").iterdir()) == [
        "config.json",
        "model.keras",
    ]
    again = artifacts.read_model(tmp_path / "first", ModelConfig)
    batch = images(2, 16, 16, 1)
    np.testing.assert_array_equal(again(batch), model(batch))
    assert again.latent_dim == 3
    assert again.image_shape == (16, 16, 1)
