"""Samplers: the properties of every sampler, then those of each kind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import TypeAdapter
from scipy import stats

from latentworks.artifacts.samples import Sampler, read_sampler, write_sampler
from latentworks.config import Config
from latentworks.errors import DataError, ParamsError
from latentworks.params import parse
from latentworks.samplers.config import (
    ClassGaussianMixtureConfig,
    GaussianConfig,
    GaussianMixtureConfig,
    LearnedConfig,
    SampleConfig,
    SamplerConfig,
    StandardNormalConfig,
    UniformBoxConfig,
)

KNOBS = {"num_components": 3}  # small values for the params of the samplers in the union

MEMBERS = get_args(get_args(SamplerConfig)[0])
CONFIGS = [
    member(
        kind=get_args(member.model_fields["kind"].annotation)[0],
        **{name: KNOBS[name] for name in member.model_fields if name != "kind"},
    )
    for member in MEMBERS
    if member is not LearnedConfig  # nothing is fitted: see test_priors.py
]
every_sampler = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
every_fitted_sampler = pytest.mark.parametrize(
    "config",
    [config for config in CONFIGS if config.kind != "standard_normal"],
    ids=lambda config: config.kind,
)


@pytest.fixture(scope="module")
def latents() -> np.ndarray:
    """Latents in three blobs of different shapes, so that no sampler fits them by accident."""
    rng = np.random.default_rng(0)
    means = np.array([[0, 0, 5], [8, 0, 5], [0, -6, 5]])
    spreads = np.array([[1, 0.5, 1], [0.3, 2, 1], [1, 1, 0.1]])
    blobs = rng.standard_normal((3, 400, 3)) * spreads[:, None] + means[:, None]
    return blobs.reshape(-1, 3).astype(np.float32)


# --- every member of the union -------------------------------------------------------------------


def fit(config: Any, latents: np.ndarray, seed: int = 0) -> Any:
    """Fit a sampler to latents of two classes, or of one class if the latents are few."""
    labels = np.arange(len(latents)) % (2 if len(latents) > 10 else 1)
    return config.fit(latents, labels, seed)


@every_sampler
@pytest.mark.parametrize("num", [0, 1, 257])
def test_samples_are_finite_latents(config: Any, latents: np.ndarray, num: int) -> None:
    sampled = fit(config, latents).sample(num, np.random.default_rng(0))
    assert sampled.shape == (num, 3)
    assert sampled.dtype == np.float32
    assert np.isfinite(sampled).all()


@every_sampler
def test_equal_seeds_draw_equal_latents(config: Any, latents: np.ndarray) -> None:
    draws = [
        fit(config, latents, seed=1).sample(100, np.random.default_rng(seed)) for seed in (2, 2, 3)
    ]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


@every_sampler
def test_a_sampler_read_from_disk_draws_the_same_latents(
    config: Any, latents: np.ndarray, tmp_path: Path
) -> None:
    sampler: Sampler = fit(config, latents)
    write_sampler(tmp_path, sampler, config)
    again = read_sampler(tmp_path, SamplerConfig)
    draws = [each.sample(500, np.random.default_rng(7)) for each in (sampler, again)]
    assert np.array_equal(*draws)
    assert type(again) is type(sampler)


@every_sampler
def test_equal_fits_give_equal_bytes(config: Any, latents: np.ndarray, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_sampler(tmp_path / name, fit(config, latents, seed=5), config)
    first, second = ((tmp_path / name / "sampler.npz").read_bytes() for name in ("first", "second"))
    assert first == second


@every_fitted_sampler
def test_samples_have_nearly_the_mean_of_the_latents(config: Any, latents: np.ndarray) -> None:
    sampled = fit(config, latents).sample(5000, np.random.default_rng(0))
    # Even the centre of the box is within half its width of the mean. 4 standard deviations are
    # far outside of the box.
    assert (np.abs(sampled.mean(axis=0) - latents.mean(axis=0)) < 4 * latents.std(axis=0)).all()
    # In the data and in the samples, the third latent is 5 on average and never below 0.
    assert sampled[:, 2].mean() == pytest.approx(5, abs=0.5)


@every_sampler
def test_every_sampler_accepts_labels(config: Any, latents: np.ndarray) -> None:
    labels = np.repeat([0, 1, -1], 400)  # the last 400 latents have no known class
    sampled = config.fit(latents, labels, seed=0).sample(10, np.random.default_rng(0))
    assert sampled.shape == (10, 3)


@every_sampler
def test_the_density_integrates_to_one(config: Any, latents: np.ndarray) -> None:
    plane = latents[:, :2]
    sampler = fit(config, plane)
    low, high = plane.min(axis=0) - 8, plane.max(axis=0) + 8
    sides = [np.linspace(*ends, 801)[:-1] for ends in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    area = np.prod((high - low) / 800)
    # 1%: the edges of a box fall between the points of the grid, whose distance is 1/250 of the
    # width of the box.
    assert np.exp(sampler.log_density(points)).sum() * area == pytest.approx(1, abs=0.01)


@every_sampler
def test_latents_are_likelier_than_points_far_away(config: Any, latents: np.ndarray) -> None:
    sampler = fit(config, latents)
    assert (sampler.log_density(latents) > sampler.log_density(latents + 100)).all()


@every_fitted_sampler
def test_a_constant_latent_stays_constant(config: Any, latents: np.ndarray) -> None:
    flat = latents.copy()
    flat[:, 1] = 2.5
    sampler = fit(config, flat)
    sampled = sampler.sample(1000, np.random.default_rng(0))
    # The regularisation leaves a standard deviation of 1/1000; none of 1000 draws is 6 of these
    # away.
    assert np.abs(sampled[:, 1] - 2.5).max() < 0.006
    assert np.isfinite(sampler.log_density(flat)).all()


@every_fitted_sampler
@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_samples_scale_with_the_latents(config: Any, latents: np.ndarray, factor: float) -> None:
    draws = [
        fit(config, z).sample(1000, np.random.default_rng(0))
        for z in (latents, latents * np.float32(factor))
    ]
    # 1e-3: the different rounding of float32 latents moves a fitted mixture by no more.
    assert np.allclose(draws[0], draws[1] / factor, rtol=1e-3, atol=1e-3)


@every_sampler
def test_a_sampler_fits_as_few_latents_as_it_has_components(
    config: Any, latents: np.ndarray
) -> None:
    sampled = fit(config, latents[:3]).sample(10, np.random.default_rng(0))
    assert np.isfinite(sampled).all()


@every_sampler
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_latents_that_are_not_finite_are_refused(
    config: Any, latents: np.ndarray, bad: float
) -> None:
    broken = latents.copy()
    broken[[3, 5], 0] = bad
    with pytest.raises(DataError, match=r"Received: 2 of 1200 latents with NaN or infinity"):
        fit(config, broken)


@every_sampler
def test_an_empty_set_of_latents_is_refused(config: Any) -> None:
    with pytest.raises(DataError, match="at least 1"):
        fit(config, np.zeros((0, 2), np.float32))


@every_sampler
def test_a_sampler_config_is_the_same_after_json(config: Any) -> None:
    assert TypeAdapter(SamplerConfig).validate_json(config.model_dump_json()) == config


# --- each kind -----------------------------------------------------------------------------------


def test_uniform_box_samples_fill_the_range_of_the_latents(latents: np.ndarray) -> None:
    sampler = UniformBoxConfig(kind="uniform_box").fit(latents, None, seed=0)
    sampled = sampler.sample(20_000, np.random.default_rng(0))
    low, high = latents.min(axis=0), latents.max(axis=0)
    assert (sampled >= low).all()
    assert (sampled <= high).all()
    # 20 000 uniform draws come within a thousandth of each end, with a probability of 1 - e^-20.
    assert np.allclose(sampled.min(axis=0), low, atol=1e-3 * (high - low).max())
    assert np.allclose(sampled.max(axis=0), high, atol=1e-3 * (high - low).max())
    for k in range(3):
        test = stats.kstest(sampled[:, k], stats.uniform(low[k], high[k] - low[k]).cdf)
        assert test.pvalue > 1e-4


def test_the_gaussian_has_the_mean_and_covariance_of_the_latents(latents: np.ndarray) -> None:
    sampler = GaussianConfig(kind="gaussian").fit(latents, None, seed=0)
    covariance = np.cov(latents.T, ddof=0)
    assert np.allclose(sampler.mean, latents.mean(axis=0), atol=1e-5)
    # 1e-4 of the variances (up to 15): one hundred times the regularisation.
    assert np.allclose(sampler.cholesky @ sampler.cholesky.T, covariance, atol=1e-4 * 15)
    sampled = sampler.sample(200_000, np.random.default_rng(0))
    # The error of a covariance from 200 000 draws is 15 * sqrt(2 / 200 000) = 0.05. The
    # tolerance is 4 of these.
    assert np.allclose(np.cov(sampled.T), covariance, atol=0.2)


def test_the_gaussian_density_equals_that_of_scipy(latents: np.ndarray) -> None:
    sampler = GaussianConfig(kind="gaussian").fit(latents, None, seed=0)
    expected = stats.multivariate_normal(sampler.mean, sampler.cholesky @ sampler.cholesky.T)
    assert np.allclose(sampler.log_density(latents), expected.logpdf(latents))


def test_the_mixture_finds_the_blobs(latents: np.ndarray) -> None:
    sampler = GaussianMixtureConfig(kind="gaussian_mixture", num_components=3).fit(latents, None, 0)
    order = np.argsort(sampler.means[:, 0] - sampler.means[:, 1] / 2)  # 0, 3 and 8 in the blobs
    # A mean of 400 draws with a standard deviation of 2 is off by 0.1. A weight of 1/3 is exact,
    # since the blobs do not overlap.
    expected = [[0, 0, 5], [0, -6, 5], [8, 0, 5]]
    assert np.allclose(sampler.means[order], expected, atol=0.4)
    assert np.allclose(sampler.weights, 1 / 3, atol=0.01)
    assert sampler.weights.sum() == pytest.approx(1)


def test_the_mixture_samples_its_components_by_weight(latents: np.ndarray) -> None:
    uneven = np.concatenate([latents[:400], latents[400:500], latents[800:]])
    config = GaussianMixtureConfig(kind="gaussian_mixture", num_components=3)
    sampled = config.fit(uneven, None, seed=0).sample(20_000, np.random.default_rng(0))
    # Only the second blob has a first latent above 5. A share of 1/9 in 20 000 samples has an
    # error of 0.002.
    assert (sampled[:, 0] > 5).mean() == pytest.approx(1 / 9, abs=0.01)


def test_the_mixture_density_is_the_weighted_sum_of_scipys_gaussians(latents: np.ndarray) -> None:
    sampler = GaussianMixtureConfig(kind="gaussian_mixture", num_components=3).fit(latents, None, 0)
    parts = zip(sampler.weights, sampler.means, sampler.choleskys, strict=True)
    densities = [w * stats.multivariate_normal(m, c @ c.T).pdf(latents) for w, m, c in parts]
    assert np.allclose(np.exp(sampler.log_density(latents)), np.sum(densities, axis=0))


def test_more_components_give_the_latents_a_higher_likelihood(latents: np.ndarray) -> None:
    likelihoods = [
        GaussianMixtureConfig(kind="gaussian_mixture", num_components=num)
        .fit(latents, None, seed=0)
        .log_density(latents)
        .mean()
        for num in (1, 3)
    ]
    gaussian = GaussianConfig(kind="gaussian").fit(latents, None, seed=0)
    assert likelihoods[0] == pytest.approx(gaussian.log_density(latents).mean(), abs=1e-6)
    assert likelihoods[1] > likelihoods[0] + 1  # nats per latent, since the blobs are far apart


FITTING = """
import hashlib, sys
import numpy as np
from latentworks.samplers.config import GaussianConfig, GaussianMixtureConfig

rng = np.random.default_rng(0)
z = (rng.standard_normal((20_000, 16)) @ rng.standard_normal((16, 16))).astype(np.float32)
sampler = GaussianMixtureConfig(kind="gaussian_mixture", num_components=10).fit(z, None, 0)
wide = (rng.standard_normal((5_000, 128)) @ rng.standard_normal((128, 128))).astype(np.float32)
single = GaussianConfig(kind="gaussian").fit(wide, None, 0)
mixed = GaussianMixtureConfig(kind="gaussian_mixture", num_components=2).fit(wide, None, 0)
arrays = sampler.means, sampler.choleskys, single.cholesky, mixed.choleskys
print(hashlib.sha256(b"".join(each.tobytes() for each in arrays)).hexdigest())
"""


def test_a_mixture_has_the_same_bytes_on_a_machine_with_more_processors() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", FITTING],
            env={**os.environ, "OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2", "16")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("copies", [1, 100])
def test_too_few_latents_for_the_mixture_are_refused(latents: np.ndarray, copies: int) -> None:
    config = GaussianMixtureConfig(kind="gaussian_mixture", num_components=10)
    with pytest.raises(DataError) as caught:
        config.fit(np.tile(latents[:4], (copies, 1)), None, seed=0)
    assert str(caught.value) == (
        "gaussian_mixture needs at least num_components latents. Expected >= 10. "
        "Received: 4 distinct latents. Lower sample.sampler.num_components."
    )


def test_held_out_latents_decide_on_the_number_of_components(
    latents: np.ndarray,
) -> None:
    numbers = [1, 3, 200]  # too few for three blobs, one for each, too many for 1200 latents
    config = GaussianMixtureConfig(kind="gaussian_mixture", num_components=numbers)
    chosen = config.fit(latents, None, seed=0)
    three = GaussianMixtureConfig(kind="gaussian_mixture", num_components=3)
    expected = three.fit(latents, None, seed=0)  # on all latents
    for name, array in expected.state().items():
        assert np.array_equal(chosen.state()[name], array)


def test_more_components_than_latents_are_never_chosen(latents: np.ndarray) -> None:
    config = GaussianMixtureConfig(kind="gaussian_mixture", num_components=[2, 3, 11])
    chosen = config.fit(latents[::100], None, seed=0)  # 12 latents, one or two held out
    assert len(chosen.state()["weights"]) in {2, 3}
    with pytest.raises(DataError, match=r"Expected >= 2. Received: 1 distinct"):
        config.fit(latents[:1], None, seed=0)


@pytest.mark.parametrize("num_components", [1, [1, 3]])
def test_samples_of_a_class_with_one_image_are_near_its_latents(
    latents: np.ndarray, num_components: int | list[int]
) -> None:
    config = ClassGaussianMixtureConfig(
        kind="class_gaussian_mixture", num_components=num_components
    )
    labels = np.zeros(1200, np.int64)
    labels[7] = 1
    drawn = config.fit(latents, labels, seed=0).sample_of(
        np.ones(50, int), np.random.default_rng(0)
    )
    assert np.abs(drawn - latents[7]).max() < 0.01  # 10 standard deviations of 1/1000


def test_the_standard_normal_equals_that_of_scipy(latents: np.ndarray) -> None:
    sampler = StandardNormalConfig(kind="standard_normal").fit(latents, None, seed=0)
    expected = stats.multivariate_normal(np.zeros(3), np.eye(3))
    assert np.allclose(sampler.log_density(latents), expected.logpdf(latents))
    sampled = sampler.sample(20_000, np.random.default_rng(0))
    for k in range(3):
        assert stats.kstest(sampled[:, k], stats.norm().cdf).pvalue > 1e-4
    # A correlation of 20 000 draws is off by 0.007. The tolerance is 5 of these.
    assert np.allclose(np.corrcoef(sampled.T), np.eye(3), atol=0.035)


def test_samples_of_a_class_follow_the_latents_of_the_class(latents: np.ndarray) -> None:
    labels = np.repeat([4, 7, -1], 400)  # the third blob has no label
    config = ClassGaussianMixtureConfig(kind="class_gaussian_mixture", num_components=2)
    sampler = config.fit(latents, labels, seed=0)
    for label, blob in ((4, latents[:400]), (7, latents[400:800])):
        alone = GaussianMixtureConfig(kind="gaussian_mixture", num_components=2)
        expected = alone.fit(blob, None, seed=0)
        assert np.allclose(sampler.of_class(label).log_density(blob), expected.log_density(blob))
        sampled = sampler.of_class(label).sample(1000, np.random.default_rng(0))
        # The largest standard deviation is 2, so a mean of 1000 draws is off by 0.06.
        assert np.allclose(sampled.mean(axis=0), blob.mean(axis=0), atol=0.3)
    # Without a class, the unlabelled blob, at -6 in the second latent, is never drawn.
    assert sampler.sample(1000, np.random.default_rng(0))[:, 1].mean() > -1


def test_each_class_is_sampled_by_its_share_of_the_images(latents: np.ndarray) -> None:
    labels = np.repeat([0, 1], [900, 300])
    config = ClassGaussianMixtureConfig(kind="class_gaussian_mixture", num_components=3)
    sampler = config.fit(latents, labels, seed=0)
    assert sampler.weights[sampler.classes == 1].sum() == pytest.approx(0.25)


def test_a_class_that_is_missing_or_too_small_is_refused(latents: np.ndarray) -> None:
    config = ClassGaussianMixtureConfig(kind="class_gaussian_mixture", num_components=5)
    with pytest.raises(
        DataError, match=r"^Class 1: gaussian_mixture needs .* Expected >= 5.*\[1, 10\]"
    ):
        config.fit(latents[:10], np.repeat([0, 1], [8, 2]), seed=0)
    several = ClassGaussianMixtureConfig(kind="class_gaussian_mixture", num_components=[1, 5])
    assert set(several.fit(latents[:10], np.repeat([0, 1], [8, 2]), seed=0).classes) == {0, 1}
    sampler = config.fit(latents, np.zeros(1200, np.int64), seed=0)
    with pytest.raises(DataError, match=r"Expected one of: 0\. Received: 3"):
        sampler.of_class(3)


@pytest.mark.parametrize("labels", [None, np.full(1200, -1)])
def test_the_class_mixture_refuses_images_without_labels(
    latents: np.ndarray, labels: np.ndarray | None
) -> None:
    config = ClassGaussianMixtureConfig(kind="class_gaussian_mixture", num_components=2)
    with pytest.raises(DataError, match="needs images with labels"):
        config.fit(latents, labels, seed=0)


# --- the section `sample` of params.yaml ---------------------------------------------------------


class Sections(Config):
    sample: SampleConfig


def test_the_sample_section_of_params_is_parsed() -> None:
    sampler = {"kind": "gaussian_mixture", "num_components": 50}
    section = {"sample": {"num_images": 10_000, "sampler": sampler}}
    assert parse(Sections, section, "params.yaml").sample.sampler == GaussianMixtureConfig(
        kind="gaussian_mixture", num_components=50
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"num_images": 0, "sampler": {"kind": "gaussian"}}, "num_images"),
        ({"num_images": 1_000_001, "sampler": {"kind": "gaussian"}}, "num_images"),
        ({"num_images": 10, "sampler": {"kind": "gausian"}}, "Did you mean gaussian?"),
        ({"num_images": 10, "sampler": {"kind": "gaussian_mixture"}}, "num_components is missing"),
        ({"num_images": 10, "sampler": {"kind": "gaussian", "num_components": 3}}, "not a known"),
        *(
            (
                {"num_images": 10, "sampler": {"kind": "gaussian_mixture", "num_components": num}},
                said,
            )
            for num, said in (
                (0, "num_components should be greater than or equal to 1. Received: 0."),
                (1001, "num_components should be less than or equal to 1000. Received: 1001."),
                (2.5, "num_components should be a valid integer. Received: 2.5."),
                ([3], "num_components should be two or more whole numbers from 1 to 1000"),
                ([3, 0], "num_components should be two or more whole numbers from 1 to 1000"),
            )
        ),
    ],
)
def test_a_wrong_sample_section_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse(Sections, {"sample": section}, "params.yaml")
    assert message in str(caught.value)


def test_the_sampler_config_does_not_import_numpy() -> None:
    code = "import sys, latentworks.samplers.config; print('numpy' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"
