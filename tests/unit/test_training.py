"""Training is repeatable, goes on after an interruption, and refuses a loss that diverges."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from checkouts import ROOT, environment
from families import FAMILIES, NUM_CLASSES, OF_KIND, autoencoder, every_family
from latentworks.engine import refinement, training
from latentworks.engine.backend import tf
from latentworks.engine.batches import Batches
from latentworks.engine.checkpoint import Checkpoint, Epoch, Progress
from latentworks.engine.detail import Detail
from latentworks.engine.discriminator import WithDiscriminator
from latentworks.errors import ParamsError, TrainingError
from latentworks.models.config import RefineConfig, TrainConfig

SMALL = autoencoder(filters=(4,))
CONFIG = TrainConfig(
    epochs=4,
    batch_size=16,
    learning_rate=0.01,
    warmup_steps=3,
    schedule="cosine",
    patience=2,
    num_threads=1,
)


class Killed(Exception):
    pass


class Cut(Checkpoint):
    """The checkpoint of a training that is killed once it has saved `rounds` rounds."""

    rounds = 0

    def save(self, model: keras.Model, state: Any) -> None:
        super().save(model, state)
        if len(state.epochs) == self.rounds:
            raise Killed


def blobs(num: int, seed: int) -> np.ndarray:
    """Smooth 8x8 images that a small model can learn: uint8 [num, 8, 8, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8]
    centre = rng.uniform(1, 7, (num, 2, 1, 1))
    distance = (x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2
    return (255 * np.exp(-distance / 4)).astype(np.uint8)[..., None]


def train(
    path: Path,
    config: TrainConfig = CONFIG,
    validation: bool = True,
    report: Callable[[Epoch], None] = lambda epoch: None,
    initial_seed: int = 0,
    family: Any = SMALL,
    killed_after: int = 0,
) -> tuple[keras.Model, Progress]:
    """Train; `killed_after` rounds of the second phase, if there are so many, raise Killed."""
    keras.utils.set_random_seed(initial_seed)
    model = family.build((8, 8, 1), NUM_CLASSES)
    images = blobs(120, seed=1)
    labels = np.arange(120) % (NUM_CLASSES + 1) - 1 if model.num_classes else None
    batches = Batches(images, np.arange(100), config.batch_size, 5, labels)
    held_out = Batches(images, np.arange(100, 120), 8, None, labels)
    checkpoint = Checkpoint(path, "fingerprint")
    validated = held_out if validation else None
    progress = training.fit(model, batches, validated, config, checkpoint, report)
    if config.refine is not None:
        second = Cut(path.with_suffix(".second.npz"), f"fingerprint {config.refine}")
        second.rounds = killed_after
        num_epochs = len(progress.epochs)
        progress.epochs += refinement.refine(
            model, batches, validated, config.refine, num_epochs, second, report
        )
    return model, progress


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("family", [SMALL, *FAMILIES], ids=lambda config: config.kind)
def test_interrupted_training_ends_with_the_same_weights(
    tmp_path: Path, family: Any, validation: bool
) -> None:
    whole, expected = train(tmp_path / "whole.npz", validation=validation, family=family)

    def kill(epoch: Epoch) -> None:
        if epoch["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        train(tmp_path / "cut.npz", validation=validation, report=kill, family=family)
    # Initial weights and random state differ here: all that matters is in the checkpoint.
    resumed, progress = train(
        tmp_path / "cut.npz", validation=validation, initial_seed=99, family=family
    )
    assert progress.epochs == expected.epochs
    assert len(progress.epochs) == 4
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    model, progress = train(tmp_path / "c.npz")

    def fail(epoch: Epoch) -> None:
        pytest.fail("trained again")

    again, same = train(tmp_path / "c.npz", report=fail, initial_seed=7)
    assert same.epochs == progress.epochs
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


GROWN = {"epochs": 6, "schedule": "constant", "patience": 9}
OTHERS = {  # trainings of another number of epochs, whose first steps are others
    "cosine": {**GROWN, "schedule": "cosine"},
    "a warm-up that is a share": {**GROWN, "warmup_steps": None, "warmup": 0.2},
    "fewer epochs": {**GROWN, "epochs": 3},
}


def test_more_epochs_with_a_constant_rate_go_on_from_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.model_copy(update=GROWN)
    seen: list[float] = []
    whole, expected = train(tmp_path / "whole.npz", config)
    train(tmp_path / "c.npz", config.model_copy(update={"epochs": 4}))
    grown, progress = train(
        tmp_path / "c.npz", config, report=lambda epoch: seen.append(epoch["epoch"]), initial_seed=7
    )
    assert "train: goes on after epoch 4 of 6\n" in capsys.readouterr().out
    assert seen == [5, 6]
    assert progress.epochs == expected.epochs
    for ours, theirs in zip(grown.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", OTHERS)
def test_more_epochs_start_again_if_their_first_steps_are_others(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIG.model_copy(update=OTHERS[kind])
    whole, _ = train(tmp_path / "whole.npz", config)
    train(tmp_path / "c.npz", config.model_copy(update={"epochs": 4}))
    model, progress = train(tmp_path / "c.npz", config)
    said = "has 4 already" if kind == "fewer epochs" else "is of 4 epochs"
    assert f"train: starts from the first epoch. The checkpoint {said}" in capsys.readouterr().out
    assert len(progress.epochs) == config.epochs
    for ours, theirs in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_warm_up_is_a_share_of_all_steps(tmp_path: Path) -> None:
    # 4 epochs of 7 steps: a tenth is 3 steps.
    shares = CONFIG.model_copy(update={"warmup_steps": None, "warmup": 0.1})
    family = OF_KIND["vae"].model_copy(update={"kl_warmup_steps": None, "kl_warmup": 0.1})
    model, progress = train(tmp_path / "shares.npz", shares, family=family)
    steps, expected = train(tmp_path / "steps.npz", family=OF_KIND["vae"])
    assert progress.epochs == expected.epochs
    for ours, theirs in zip(model.get_weights(), steps.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_checkpoint_is_deleted_once_dvc_has_recorded_the_model(tmp_path: Path) -> None:
    train(tmp_path / "c.npz")
    checkpoint = Checkpoint(tmp_path / "c.npz", "fingerprint")
    checkpoint.forget_finished("md5")  # killed before the model was written
    assert checkpoint.path.exists()
    # DVC was killed before it recorded the MD5 of the model.
    for recorded in (None, "that of an earlier model"):
        checkpoint.became("md5")
        checkpoint.forget_finished(recorded)
        assert checkpoint.path.exists()
    checkpoint.became("md5")
    checkpoint.forget_finished("md5")
    assert not checkpoint.path.exists()


def test_sigterm_waits_for_the_checkpoint() -> None:
    heard: list[str] = []
    former = signal.signal(signal.SIGTERM, lambda *_: heard.append("end"))
    try:
        with training.undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            heard.append("saved")
        assert heard == ["saved", "end"]
    finally:
        signal.signal(signal.SIGTERM, former)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "other"])
def test_a_damaged_or_foreign_checkpoint_is_ignored(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.npz"
    expected, _ = train(path)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0xFF
    elif damage == "empty":
        content.clear()
    elif damage == "text":
        content[:] = b"not a zip file"
    path.write_bytes(content)
    fingerprint = "another training" if damage == "other" else "fingerprint"
    assert Checkpoint(path, fingerprint).restore(SMALL.build((8, 8, 1)), Progress) is None
    if damage != "other":
        again, progress = train(path)
        assert len(progress.epochs) == 4
        for ours, theirs in zip(again.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_training_stops_early_and_keeps_the_best_weights(tmp_path: Path) -> None:
    # A rate so high that the validation loss soon stops falling.
    config = CONFIG.model_copy(
        update={"epochs": 60, "learning_rate": 0.3, "schedule": "constant", "warmup_steps": 0}
    )
    model, progress = train(tmp_path / "c.npz", config)
    losses = [epoch["val_loss"] for epoch in progress.epochs]
    best = int(np.argmin(losses))
    assert progress.best_epoch == best
    assert len(losses) == best + 1 + config.patience < config.epochs
    images = blobs(120, seed=1)[100:]
    loss = float(model.compute_loss(x=images, y_pred=model(images)))
    # The same weights; only the order of the float32 sums differs.
    assert loss == pytest.approx(losses[best], rel=1e-4)


def test_patience_begins_after_the_warm_up_of_the_kl_loss(tmp_path: Path) -> None:
    config = CONFIG.model_copy(
        update={"epochs": 60, "learning_rate": 0.03, "schedule": "constant", "warmup_steps": 0}
    )
    rising = {"beta": 1000.0, "kl_warmup_steps": 20 * 7}  # 20 epochs of 7 steps
    family = OF_KIND["vae"].model_copy(update=rising)
    _, progress = train(tmp_path / "c.npz", config, family=family)
    losses = [epoch["val_loss"] for epoch in progress.epochs]
    waited = [epoch - int(np.argmin(losses[: epoch + 1])) for epoch in range(20)]
    assert max(waited) >= config.patience  # otherwise training would end in the warm-up
    assert len(losses) == max(20, progress.best_epoch) + 1 + config.patience


def test_a_kl_warm_up_as_long_as_the_training_is_refused(tmp_path: Path) -> None:
    family = OF_KIND["vae"].model_copy(update={"kl_warmup_steps": 28})
    with pytest.raises(ParamsError, match=r"^model.kl_warmup_steps .* 4 epochs. Received: 28"):
        train(tmp_path / "c.npz", family=family)


def test_training_without_validation_keeps_the_weights_of_the_last_epoch(tmp_path: Path) -> None:
    _, progress = train(tmp_path / "c.npz", validation=False)
    assert [set(epoch) for epoch in progress.epochs] == [{"epoch", "loss", "learning_rate"}] * 4
    assert progress.best_epoch == 3
    assert progress.kept == []


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    rate = training.learning_rate(CONFIG, steps_per_epoch=7)
    rates = [float(rate(step)) for step in range(29)]
    np.testing.assert_allclose(rates[:4], [0, 0.01 / 3, 0.02 / 3, 0.01], rtol=1e-5)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[28] == pytest.approx(0, abs=1e-9)
    plain = CONFIG.model_copy(update={"schedule": "constant", "warmup_steps": 0})
    assert training.learning_rate(plain, 7) == 0.01
    constant = training.learning_rate(CONFIG.model_copy(update={"schedule": "constant"}), 7)
    assert float(constant(20)) == pytest.approx(0.01)
    with pytest.raises(ParamsError, match=r"less than the 28 steps of 4 epochs. Received: 28"):
        training.learning_rate(CONFIG.model_copy(update={"warmup_steps": 28}), 7)


def test_a_loss_of_nan_stops_the_training_with_an_error(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = SMALL.build((8, 8, 1))
    weights = model.get_weights()
    weights[-1][:] = np.nan  # the bias of the output layer
    model.set_weights(weights)
    batches = Batches(blobs(20, 1), np.arange(20), 16, seed=0)
    checkpoint = Checkpoint(tmp_path / "c.npz", "x")
    with pytest.raises(TrainingError, match=r"diverged: loss is nan in epoch 1, step 1\."):
        training.fit(model, batches, None, CONFIG, checkpoint, lambda epoch: None)


def test_batches_hold_each_image_once_in_an_order_from_seed_and_epoch() -> None:
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    rows = np.arange(5, 45)
    batches = Batches(images, rows, batch_size=16, seed=3)

    def seen(epoch: int) -> list[int]:
        batches.shuffle(epoch)
        assert [len(batches[number][0]) for number in range(len(batches))] == [16, 16, 8]
        return [int(v) for n in range(len(batches)) for v in batches[n][0].ravel()]

    first, second = seen(0), seen(1)
    assert sorted(first) == sorted(second) == list(range(5, 45))
    assert first != second
    assert first == seen(0)


# --- the second phase ----------------------------------------------------------------------------

REFINE = RefineConfig(steps=75, learning_rate=0.003, energy=1.0, moments=0.5, features=0.1)
REFINED = CONFIG.model_copy(update={"epochs": 12, "refine": REFINE})
OPPOSED = REFINE.model_copy(update={"discriminator": 0.1})


def detail_lost(model: Any) -> tuple[float, float]:
    """The energy that reconstructions lack, and their mean squared error."""
    images = blobs(120, seed=1)[100:]
    found = np.asarray(model.decode(model.encode(images)))
    energy = Detail(1, [images]).distances(images.astype(np.float32) / 255, found).energy
    return float(energy), float(np.mean((images / 255 - found) ** 2))


def test_the_second_phase_brings_detail_back(tmp_path: Path) -> None:
    plain, _ = train(tmp_path / "plain.npz", REFINED.model_copy(update={"refine": None}))
    shutil.copy(tmp_path / "plain.npz", tmp_path / "refined.npz")
    refined, progress = train(tmp_path / "refined.npz", REFINED)
    assert [each["epoch"] for each in progress.epochs] == [*range(1, 16)]
    (energy, before), (less, after) = detail_lost(plain), detail_lost(refined)
    assert less < 0.8 * energy
    assert after < 1.1 * before


def test_without_steps_the_second_phase_changes_nothing(tmp_path: Path) -> None:
    none = RefineConfig(steps=0, learning_rate=0.1, energy=1, moments=1, features=1)
    plain, _ = train(tmp_path / "plain.npz")
    same, _ = train(tmp_path / "same.npz", CONFIG.model_copy(update={"refine": none}))
    for ours, theirs in zip(same.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("refine", "family", "schedule", "validation", "kills"),
    [
        (REFINE, SMALL, "constant", False, (1, 2)),
        (OPPOSED, SMALL, "constant", False, (1, 2)),
        *((REFINE, family, "cosine", True, (1,)) for family in FAMILIES),
        *((OPPOSED, family, "cosine", True, (1,)) for family in FAMILIES),
    ],
    ids=lambda value: "discriminator" if value is OPPOSED else getattr(value, "kind", ""),
)
def test_an_interrupted_second_phase_ends_with_the_same_weights(
    tmp_path: Path,
    refine: RefineConfig,
    family: Any,
    schedule: str,
    validation: bool,
    kills: tuple[int, ...],
) -> None:
    """`kills`: the rounds after which the phase is killed. Initial weights differ each time."""
    config = CONFIG.model_copy(
        update={"epochs": 2, "schedule": schedule, "warmup_steps": 0, "refine": refine}
    )
    whole, expected = train(tmp_path / "whole.npz", config, validation, family=family)
    shutil.copy(tmp_path / "whole.npz", tmp_path / "cut.npz")  # the end of the first phase
    for rounds in kills:
        with pytest.raises(Killed):
            train(
                *(tmp_path / "cut.npz", config, validation),
                initial_seed=rounds,
                family=family,
                killed_after=rounds,
            )
    resumed, progress = train(
        tmp_path / "cut.npz", config, validation, initial_seed=9, family=family
    )
    assert progress.epochs == expected.epochs
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_family
def test_a_discriminator_is_no_part_of_the_model(tmp_path: Path, config: Any) -> None:
    refined = CONFIG.model_copy(update={"epochs": 2, "refine": REFINE})
    without, expected = train(tmp_path / "without.npz", refined, family=config)
    shutil.copy(tmp_path / "without.npz", tmp_path / "with.npz")
    refined = refined.model_copy(update={"refine": OPPOSED})
    model, progress = train(tmp_path / "with.npz", refined, family=config)
    assert progress.epochs[-1].keys() == expected.epochs[-1].keys()
    assert progress.epochs[:2] == expected.epochs[:2]
    ours, theirs = model.get_weights(), without.get_weights()
    assert [each.shape for each in ours] == [each.shape for each in theirs]
    assert any((one != other).any() for one, other in zip(ours, theirs, strict=True))
    model.save(tmp_path / "model.keras")
    without.save(tmp_path / "without.keras")
    members = [paths_in(tmp_path / f"{name}.keras") for name in ("model", "without")]
    assert members[0] == members[1]


def paths_in(path: Path) -> list[str]:
    """The paths of all weights in a `.keras` file."""
    found: list[str] = []
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file:
        h5py.File(file).visit(found.append)
    return [name for name in found if "optimizer" not in name]


def test_each_loss_of_a_discriminator_reaches_its_own_side_alone() -> None:
    """The gradients are those of the two losses, each computed alone; the value is 0."""
    model = SMALL.build((8, 8, 1))
    both = WithDiscriminator(model)
    images = blobs(16, seed=2)
    targets = images.astype(np.float32) / 255
    sides = model.trainable_variables, both.discriminator.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        found = model(images)
        added = both.added(targets, found, 0.5)
        fooled = -0.5 * tf.reduce_mean(both.discriminator(found))
        of_images, of_others = both.discriminator(targets), both.discriminator(found)
        hinge = tf.reduce_mean(tf.nn.relu(1 - of_images)) + tf.reduce_mean(
            tf.nn.relu(1 + of_others)
        )
    assert float(added) == pytest.approx(0, abs=1e-6)
    for variables, alone in zip(sides, (fooled, hinge), strict=True):
        ours, theirs = tape.gradient(added, variables), tape.gradient(alone, variables)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)  # rounding of float32
        assert any(np.abs(each).max() > 1e-4 for each in ours)


def test_a_discriminator_draws_from_no_random_state() -> None:
    model = SMALL.build((8, 8, 1))
    weights = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        state = random.getstate()
        weights.append(WithDiscriminator(model).discriminator.get_weights())
        assert random.getstate() == state
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_second_phase_that_diverges_is_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = REFINE.model_copy(update={"moments": 1e38})
    plain, _ = train(tmp_path / "plain.npz")
    shutil.copy(tmp_path / "plain.npz", tmp_path / "same.npz")
    same, progress = train(tmp_path / "same.npz", CONFIG.model_copy(update={"refine": far}))
    said = capsys.readouterr().out
    assert "the second phase was undone: Training diverged: loss is" in said
    assert "Lower train.refine.learning_rate." in said
    assert len(progress.epochs) == 4
    for ours, theirs in zip(same.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_second_phase_of_a_vae_has_its_whole_weight_of_the_kl_divergence() -> None:
    model = OF_KIND["vae"].model_copy(update={"beta": 2.0, "kl_warmup_steps": 100}).build((8, 8, 1))
    model.compile(optimizer="adam")
    assert float(model._weight(True)) == 0
    model.refinement = lambda images, others: 0.0
    assert float(model._weight(True)) == 2


def test_without_its_weight_an_adversarial_autoencoder_is_a_plain_one(tmp_path: Path) -> None:
    without = OF_KIND["adversarial"].model_copy(update={"adversarial_weight": 0.0})
    ours, same = train(tmp_path / "adversarial.npz", family=without)
    plain, progress = train(tmp_path / "plain.npz", family=autoencoder())
    for part in ("encoder", "decoder"):
        pairs = zip(getattr(ours, part).weights, getattr(plain, part).weights, strict=True)
        for weight, other in pairs:  # equal but for the rounding of float32
            np.testing.assert_allclose(weight.numpy(), other.numpy(), rtol=0, atol=1e-6)
    for epoch, expected in zip(same.epochs, progress.epochs, strict=True):
        assert epoch == pytest.approx(expected, abs=1e-6)


def distance_to_normal(model: Any) -> float:
    """The largest error of mean and covariance of the training images' latents, against N(0, I)."""
    z = np.asarray(model.encode(blobs(120, seed=1)[:100]), np.float64)
    errors = z.mean(axis=0), np.cov(z.T) - np.eye(z.shape[1])
    return max(float(np.abs(error).max()) for error in errors)


def test_adversarial_latents_become_normal_and_stay_so_in_the_second_phase(tmp_path: Path) -> None:
    first = CONFIG.model_copy(update={"epochs": 50})
    second = first.model_copy(update={"refine": REFINE})
    found = []
    for weight in (0.0, 1.0):
        changes = {"adversarial_weight": weight, "discriminator_width": 64}
        family = OF_KIND["adversarial"].model_copy(update=changes)
        path = tmp_path / f"{weight}.npz"
        model, _ = train(path, first, validation=False, family=family)
        found.append(distance_to_normal(model))
    refined, progress = train(path, second, validation=False, family=family)
    assert progress.epochs[-1]["phase"] == 2  # it was not undone
    assert not np.array_equal(*(each.discriminator.get_weights()[0] for each in (model, refined)))
    found.append(distance_to_normal(refined))
    without, after_the_first, after_the_second = found
    # Measured 1.8, 0.26 and 0.29. The deviation of a variance from 100 latents is 0.14.
    assert without > 1
    assert max(after_the_first, after_the_second) < without / 2


def test_rounds_have_a_fixed_length_and_rows_in_equal_numbers() -> None:
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    for batch_size in (16, 4096):
        rounds = Batches(images, np.arange(40), batch_size, 3, np.arange(40)).of_length(5)
        rounds.shuffle(0)
        pairs = [rounds[number][0] for number in range(5)]
        seen = np.concatenate([labels for _, labels in pairs])
        assert len(rounds) == 5
        assert len(seen) == 5 * min(batch_size, 40)
        assert np.ptp(np.bincount(seen, minlength=40)) <= 1
        assert all((given.ravel() == labels).all() for given, labels in pairs)


def test_a_sample_of_batches_is_spread_over_all_rows() -> None:
    images = np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1)
    batches = Batches(images, np.arange(200), 16, 3)
    seen = np.concatenate([*batches.sample(101).pictures()]).ravel()
    assert len(set(seen)) == 101
    assert (seen < 100).sum() == pytest.approx(50, abs=15)
    # Folders of images are in the order of their classes; a batch must not hold one class alone.
    assert np.ptp(next(batches.sample(101).pictures()).ravel()) > 100
    np.testing.assert_array_equal(seen, np.concatenate([*batches.sample(101).pictures()]).ravel())


def test_detail_is_measured_alike_in_batches_of_any_size() -> None:
    images = np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), np.uint8)
    whole, single = Detail(3, [images]), Detail(3, [image[None] for image in images])
    for ours, theirs in zip(whole.scales, single.scales, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_an_unused_colour_does_not_outweigh_the_others() -> None:
    images = np.random.default_rng(0).random((16, 16, 16, 3)).astype(np.float32)
    images[..., 2] = 0
    detail = Detail(3, [(255 * images).astype(np.uint8)])
    slightly = images.copy()
    slightly[..., 2] = 0.01
    blurred = (images + np.roll(images, 1, 1)) / 2
    less, more = (detail.distances(images, each).moments for each in (slightly, blurred))
    assert float(less) < 0.1 * float(more)


def test_another_second_phase_keeps_the_first(tmp_path: Path) -> None:
    train(tmp_path / "c.npz", REFINED)
    other = REFINED.model_copy(update={"refine": REFINE.model_copy(update={"steps": 50})})
    whole, expected = train(tmp_path / "whole.npz", other)
    reported: list[float] = []
    again, progress = train(
        tmp_path / "c.npz", other, report=lambda epoch: reported.append(epoch["epoch"])
    )
    assert reported == [14]  # the last round, and no epoch of the first phase
    assert progress.epochs == expected.epochs
    for ours, theirs in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_second_phase_that_ruins_the_images_is_undone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = RefineConfig(steps=75, learning_rate=0.3, energy=0, moments=0, features=0)
    config = CONFIG.model_copy(update={"epochs": 30, "patience": 30})
    plain, _ = train(tmp_path / "plain.npz", config)
    shutil.copy(tmp_path / "plain.npz", tmp_path / "same.npz")
    for shares, cure in (
        ({"energy": 1.0, "moments": 1e4}, "train.refine.energy or train.refine.moments"),
        ({"discriminator": 1e4}, "train.refine.discriminator"),
    ):
        refined = config.model_copy(update={"refine": far.model_copy(update=shares)})
        same, progress = train(tmp_path / "same.npz", refined)
        said = capsys.readouterr().out
        assert "the second phase was undone: mse" in said
        assert f"Lower {cure}." in said
        assert len(progress.epochs) == 30
        for ours, theirs in zip(same.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_distances_of_detail_are_0_for_equal_images_and_grow_with_blur() -> None:
    sharp = np.random.default_rng(0).random((8, 16, 16, 3)).astype(np.float32)
    detail = Detail(3, [(255 * sharp).astype(np.uint8)])
    assert {*map(float, detail.distances(sharp, sharp))} == {0.0}
    blurred = (sharp + np.roll(sharp, 1, 1)) / 2
    softer = (blurred + np.roll(blurred, 1, 2)) / 2
    less, more = (map(float, detail.distances(sharp, each)) for each in (blurred, softer))
    assert all(0 < a < b for a, b in zip(less, more, strict=True))


def test_a_pattern_that_all_images_share_is_seen_in_the_moments() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((64, 16, 16, 1)).astype(np.float32) / 2 + 0.25
    detail = Detail(1, [(255 * images).astype(np.uint8)])
    checkerboard = np.where(np.indices((16, 16)).sum(0) % 2, 0.1, -0.1).astype(np.float32)
    noise = rng.choice(np.array([0.1, -0.1], np.float32), images.shape)
    shared = detail.distances(images, images + checkerboard[..., None])
    random = detail.distances(images, images + noise)
    assert float(shared.moments) > 5 * float(random.moments)


# --- threads -------------------------------------------------------------------------------------

ENCODING = """
import hashlib
import numpy as np
from latentworks.engine import inference
CONFIGURE
from families import autoencoder
network = autoencoder(filters=(32, 64, 128)).build((32, 32, 1), 0)
images = np.random.default_rng(0).integers(0, 256, (600, 32, 32, 1), np.uint8)
z = np.concatenate([*inference.encode(network, images, np.arange(600))])
decoded = np.concatenate([*inference.decode(network, z)])
print(hashlib.sha256(z.tobytes() + decoded.tobytes()).hexdigest())
"""


@pytest.mark.cold
def test_inference_gives_the_same_bytes_on_a_machine_with_more_processors() -> None:
    """The variable is TensorFlow's default number of threads, else that of the processors."""

    def digests(configure: str) -> list[str]:
        script = ENCODING.replace("CONFIGURE", configure)
        path = f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}"
        return [
            subprocess.run(
                [sys.executable, "-c", script],
                env=environment(PYTHONPATH=path, TF_NUM_INTRAOP_THREADS=number),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            for number in ("1", "16")
        ]

    one, sixteen = digests("import keras; keras.utils.set_random_seed(0)")
    assert one != sixteen  # else this test shows nothing
    one, sixteen = digests("inference.configure()")
    assert one == sixteen


@pytest.mark.parametrize("stage", ["features", "train", "encode", "sample", "evaluate", "export"])
def test_every_stage_with_a_network_fixes_its_threads(stage: str) -> None:
    source = (ROOT / f"src/latentworks/stages/{stage}.py").read_text()
    body = source.partition("def main(")[2]
    assert re.search(r"^    (backend|inference)\.configure\(", body, re.MULTILINE)
