"""The gate promotes a model that is better beyond chance and worse in no metric. It says why."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from checkouts import ROOT
from latentworks import params
from latentworks.config import Config
from latentworks.errors import LatentworksError, ParamsError
from latentworks.promotion.decision import METRICS, FirstLimits, Margins, PromotionConfig, decide
from latentworks.promotion.scores import Score, Scores
from latentworks.registry.tables import decision as table

NUM_IMAGES, NUM_REPLICATES = 400, 1000
RESAMPLES = np.random.default_rng(0).integers(NUM_IMAGES, size=(NUM_REPLICATES, NUM_IMAGES))
# How hard each image is for any model. So the errors of two models on an image are alike.
HARD = np.random.default_rng(1).gamma(2, 0.01, NUM_IMAGES)


def mean(each: np.ndarray, reference: float) -> Score:
    """Return the score of a metric that is a mean over test images."""
    return Score(float(each.mean()), each[RESAMPLES].mean(axis=1), reference)


def scores(
    mse: float = 1, distance: float = 1, active: float = 2, memorisation: float = 1
) -> Scores:
    """Return the scores of a model. The arguments are multiples of 0.02, 0.05, 1 and 0.8."""
    return Scores(
        "data",
        "scorer",
        {
            "mse": mean(HARD * mse, 0.07),
            "sliced_wasserstein": mean(HARD * 2.5 * distance, 0.005),
            "active_units": Score(active, None, 2.0),
            "memorisation": mean(HARD * 40 * memorisation, 1.0),
        },
        size_mb=1.5,
        latency_ms={"1": 0.4, "32": 2.5},
    )


CHAMPION = scores()


def config(**changes: object) -> PromotionConfig:
    margins = {"mse": 0.02, "sliced_wasserstein": 0.1, "active_units": 0.5, "memorisation": 0.1}
    first = {"mse": 0.5, "sliced_wasserstein": 20, "active_units": 0.5, "memorisation": 0.5}
    sections = {"model_name": "digits", "metric": "mse", "margins": margins, "first": first}
    return PromotionConfig.model_validate(sections | changes)


def with_metric(model: Scores, name: str, score: Score) -> Scores:
    return replace(model, metrics={**model.metrics, name: score})


def without(model: Scores, name: str) -> Scores:
    kept = {metric: score for metric, score in model.metrics.items() if metric != name}
    return replace(model, metrics=kept)


def verdicts(challenger: Scores, champion: Scores | None, **changes: object) -> dict[str, str]:
    decision = decide(challenger, champion, config(**changes))
    return {row.metric: row.verdict for row in decision.rows}


# --- against a champion --------------------------------------------------------------------------


def test_every_metric_has_a_margin_and_a_limit() -> None:
    assert [*Margins.model_fields] == [*FirstLimits.model_fields] == [*METRICS]
    assert {*get_args(PromotionConfig.model_fields["metric"].annotation)} == {*METRICS}


def test_a_model_better_beyond_chance_is_promoted() -> None:
    decision = decide(scores(mse=0.9), CHAMPION, config())
    assert decision.promoted
    value = CHAMPION.metrics["mse"].value
    assert decision.reason.startswith(
        f"mse {0.9 * value:.4g} against {value:.4g}, better by 10.0 % (95 % band 9."
    )
    assert decision.reason.endswith(" %); nothing else is worse beyond its margin")
    assert [row.metric for row in decision.rows] == [*METRICS]
    row = decision.rows[0]
    assert row.verdict == "better"
    assert row.gain == pytest.approx(10)
    assert row.band is not None
    assert row.band[0] < row.gain < row.band[1]


def test_the_reason_says_that_reconstructions_are_hardly_better_than_the_mean_image() -> None:
    # The mean image has an mse of 0.07, of which a first model may have half.
    remark = "; its reconstructions are hardly better than the mean image"
    poor, better = scores(mse=2.5), scores(mse=2)
    promoted = decide(better, poor, config())
    assert promoted.promoted
    assert promoted.reason.endswith(f"beyond its margin{remark}")
    refused = decide(poor, better, config())
    assert not refused.promoted
    assert refused.reason.endswith(remark)
    assert remark not in decide(scores(mse=1.7), poor, config()).reason


def test_an_equal_model_does_not_replace_the_champion() -> None:
    for metric in METRICS:
        decision = decide(CHAMPION, CHAMPION, config(metric=metric))
        assert not decision.promoted
        assert decision.reason.startswith(f"{metric} is not better")


def test_a_model_better_within_chance_is_refused() -> None:
    noise = np.random.default_rng(2).normal(0, 0.01, NUM_IMAGES)
    noise -= noise.mean() + 1e-4  # a gain of 0.0001; chance makes up to 0.001
    near = with_metric(CHAMPION, "mse", mean(HARD + noise, 0.07))
    decision = decide(near, CHAMPION, config())
    assert decision.rows[0].verdict == "not better"
    assert not decision.promoted
    assert "mse is not better beyond chance: " in decision.reason
    assert ", better by 0." in decision.reason
    # The same gain is beyond chance if both models err on the same images.
    even = with_metric(CHAMPION, "mse", mean(HARD - 1e-4, 0.07))
    assert decide(even, CHAMPION, config()).promoted


def test_a_model_worse_beyond_chance_is_refused_and_called_worse() -> None:
    decision = decide(scores(mse=1.1), CHAMPION, config())
    assert decision.rows[0].verdict == "worse"
    assert "mse is worse: " in decision.reason
    assert ", worse by 10.0 % (95 % band 9." in decision.reason


@pytest.mark.parametrize(
    ("name", "within", "beyond"),
    [
        ("sliced_wasserstein", {"distance": 1.09}, {"distance": 1.11}),
        ("memorisation", {"memorisation": 0.91}, {"memorisation": 0.89}),
        ("active_units", {"active": 1}, {"active": 0}),  # the margin is half of 2
    ],
)
def test_other_metrics_may_be_worse_within_their_margins(
    name: str, within: dict[str, float], beyond: dict[str, float]
) -> None:
    decision = decide(scores(mse=0.9, **within), CHAMPION, config())
    assert decision.promoted, decision.reason
    assert {row.metric: row.verdict for row in decision.rows}[name] == "ok"
    refused = decide(scores(mse=0.9, **beyond), CHAMPION, config())
    assert not refused.promoted
    assert refused.reason.startswith(f"{name} is worse beyond its margin: ")
    assert refused.rows[0].verdict == "better"


def test_rounding_does_not_change_the_verdict_at_a_margin() -> None:
    margins = {**config().margins.model_dump(), "active_units": 0.07}
    champion = with_metric(CHAMPION, "active_units", Score(100.0, None, 100.0))
    assert 100 - 93 < 0.07 * 100  # 7.000000000000001; and 1 - 0.93 is 0.06999999999999995
    for active, verdict in [(93.0, "ok"), (92.0, "worse")]:
        challenger = with_metric(scores(mse=0.9), "active_units", Score(active, None, 100.0))
        assert verdicts(challenger, champion, margins=margins)["active_units"] == verdict
    margins["active_units"] = 0.29  # 0.29 * 100 is below 29
    challenger = with_metric(scores(mse=0.9), "active_units", Score(71.0, None, 100.0))
    assert verdicts(challenger, champion, margins=margins)["active_units"] == "ok"


def test_the_reason_names_every_metric_that_failed() -> None:
    bad = scores(mse=1, distance=1.5, active=0, memorisation=0.3)
    reason = decide(bad, CHAMPION, config()).reason
    assert [part.split()[0] for part in reason.split("; ")] == [*METRICS]
    assert len(reason.splitlines()) == 1
    assert not reason.endswith(".")


def test_the_declared_metric_must_get_better() -> None:
    better = scores(memorisation=1.2)
    assert not decide(better, CHAMPION, config()).promoted
    assert decide(better, CHAMPION, config(metric="memorisation")).promoted
    # The margin of the declared metric does not count. Here, the margin of mse does.
    worse = scores(memorisation=1.2, mse=1.03)
    assert not decide(worse, CHAMPION, config(metric="memorisation")).promoted


def test_any_improvement_counts_in_a_metric_without_replicates() -> None:
    assert decide(scores(active=3), CHAMPION, config(metric="active_units")).promoted
    refused = decide(scores(active=2), CHAMPION, config(metric="active_units"))
    assert refused.reason == "active_units is not better: 2 against 2"


def test_a_gain_over_a_score_of_0_has_no_percentage() -> None:
    champion = scores(active=0)
    decision = decide(scores(active=2), champion, config(metric="active_units"))
    assert decision.promoted
    assert decision.reason.startswith("active_units 2 against 0; ")
    assert {row.metric: row.gain for row in decision.rows}["active_units"] is None
    table(decision)


def test_the_gate_ignores_size_and_latency() -> None:
    heavy = replace(scores(mse=0.9), size_mb=1e6, latency_ms={"1": 1e6})
    assert decide(heavy, CHAMPION, config()).promoted


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", METRICS)
def test_a_model_with_a_score_that_is_not_finite_is_never_promoted(
    name: str, broken: float
) -> None:
    good = scores(mse=0.5, distance=0.5, memorisation=2).metrics[name]
    some = None if good.replicates is None else np.where(np.arange(1000) == 7, broken, 0.0)
    for fault in [
        replace(good, value=broken),
        replace(good, reference=broken),
        *([] if some is None else [replace(good, replicates=some)]),
    ]:
        bad = with_metric(scores(mse=0.5, active=3), name, fault)
        champion = with_metric(CHAMPION, name, fault)
        for pair in [(bad, CHAMPION), (bad, None), (scores(mse=0.5), champion), (bad, champion)]:
            for metric in ("mse", name):
                decision = decide(*pair, config(metric=metric))
                assert not decision.promoted
                assert f"{name} of the " in decision.reason
                assert "is not a finite number" in decision.reason
                assert "nan" in table(decision)


def test_the_95_percent_band_promotes_one_of_forty_equal_models() -> None:
    """Two models have the same true error. Each of the 1000 test sets has other images."""
    rng = np.random.default_rng(0)
    num_trials, promoted = 1000, 0
    for _ in range(num_trials):
        hard = rng.gamma(2, 0.01, NUM_IMAGES)
        first, second = (hard * rng.uniform(0.5, 1.5, NUM_IMAGES) for _ in range(2))
        challenger = with_metric(CHAMPION, "mse", mean(first, 0.07))
        champion = with_metric(CHAMPION, "mse", mean(second, 0.07))
        promoted += decide(challenger, champion, config()).promoted
    # One side of the band is 2.5 %, so 25 are expected, with a binomial deviation of 4.9. The
    # tolerance is 4 deviations.
    assert 5 <= promoted <= 45


# --- a first model -------------------------------------------------------------------------------


def test_a_first_model_within_its_limits_is_promoted() -> None:
    decision = decide(CHAMPION, None, config())
    assert decision.promoted
    assert decision.reason.startswith("a first model, within its limits: mse 0.0")
    assert decision.rows[0].reference == pytest.approx(0.07)
    assert decision.rows[0].limit == pytest.approx(0.035)
    assert set(verdicts(CHAMPION, None).values()) == {"ok"}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("mse", scores(mse=3.5)),  # the mse of the mean image
        ("sliced_wasserstein", scores(distance=2.5)),
        ("active_units", scores(active=0)),
        ("memorisation", scores(memorisation=0.5)),
    ],
)
def test_a_first_model_beyond_a_limit_is_refused(name: str, model: Scores) -> None:
    decision = decide(model, None, config())
    assert not decision.promoted
    assert decision.reason.startswith(f"{name} is not within its limit: ")
    assert ";" not in decision.reason


def test_a_first_model_without_a_reference_is_refused() -> None:
    score = replace(CHAMPION.metrics["mse"], reference=None)
    assert not decide(with_metric(CHAMPION, "mse", score), None, config()).promoted


# --- scores that cannot be compared --------------------------------------------------------------


@pytest.mark.parametrize("what", ["data", "scorer"])
def test_scores_of_other_data_or_another_scorer_are_an_error(what: str) -> None:
    other = replace(scores(mse=0.5), **{what: "other"})
    with pytest.raises(LatentworksError, match=f"with the same {what}. Received: other and {what}"):
        decide(other, CHAMPION, config())


def test_both_models_may_lack_memorisation() -> None:
    better, champion = without(scores(mse=0.5), "memorisation"), without(CHAMPION, "memorisation")
    assert decide(better, champion, config()).promoted
    assert decide(champion, None, config()).promoted
    assert "memorisation" not in verdicts(better, champion)
    with pytest.raises(LatentworksError, match="The challenger has no score for memorisation"):
        decide(better, champion, config(metric="memorisation"))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_that_one_of_the_models_lacks_is_an_error(name: str) -> None:
    with pytest.raises(LatentworksError, match=f"The champion has no score for {name}"):
        decide(scores(mse=0.5), without(CHAMPION, name), config())
    with pytest.raises(LatentworksError, match=f"The challenger has no score for {name}"):
        decide(without(scores(mse=0.5), name), CHAMPION, config())


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(LatentworksError, match="no rule for the metric sharpness"):
        decide(with_metric(CHAMPION, "sharpness", Score(1.0)), None, config())


def test_replicates_that_cannot_be_paired_are_an_error() -> None:
    score = CHAMPION.metrics["mse"]
    for replicates in (None, np.zeros(7)):
        other = with_metric(CHAMPION, "mse", replace(score, replicates=replicates))
        with pytest.raises(LatentworksError, match="replicates of mse cannot be paired"):
            decide(other, CHAMPION, config())


# --- table and JSON ------------------------------------------------------------------------------


@pytest.mark.parametrize("champion", [CHAMPION, None])
def test_the_table_is_aligned_markdown(champion: Scores | None) -> None:
    lines = table(decide(scores(mse=0.9, distance=1.5), champion, config())).splitlines()
    assert len({len(line) for line in lines}) == 1
    bars = [[place for place, sign in enumerate(line) if sign == "|"] for line in lines]
    assert all(each == bars[0] for each in bars)
    heads, rule = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:2])
    assert set("".join(rule)) == {"-", ":"}
    assert ("better by" in heads) == (champion is not None)
    assert len(lines) == 2 + len(METRICS)


def test_scores_survive_a_round_trip_through_json() -> None:
    odd = with_metric(CHAMPION, "mse", Score(np.nan, np.array([1 / 3, np.inf, -np.inf]), None))
    for model in (CHAMPION, odd):
        read = Scores.from_json(json.loads(json.dumps(model.to_json(), allow_nan=False)))
        assert read == model
        assert read.latency_ms == model.latency_ms
    assert odd != CHAMPION
    assert replace(CHAMPION, latency_ms={}) == CHAMPION
    assert replace(CHAMPION, size_mb=2) != CHAMPION


# --- params.yaml ---------------------------------------------------------------------------------


class Section(Config):
    promotion: PromotionConfig


def test_params_yaml_has_a_margin_and_a_limit_for_every_metric() -> None:
    section = params.load(Section, ROOT / "params.yaml").promotion
    assert list(section.margins.model_dump()) == list(section.first.model_dump()) == [*METRICS]
    assert section.metric in METRICS


def test_the_committed_model_is_within_the_committed_limits() -> None:
    section = params.load(Section, ROOT / "params.yaml").promotion
    measured = {"mse": (0.0216, 0.0663), "sliced_wasserstein": (0.0585, 0.00576)}
    measured |= {"active_units": (2, 2), "memorisation": (0.784, 1)}
    scored = {name: Score(value, None, best) for name, (value, best) in measured.items()}
    model = replace(CHAMPION, metrics=scored)
    assert decide(model, None, section).promoted


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("metric: mse", "metric: mes", "promotion.metric should be one of: mse, sliced_wass"),
        ("metric: mse", "metric: mes", "Received: 'mes'. Did you mean mse?"),
        ("    mse: 0.02", "    mse: -0.02", "promotion.margins.mse should be greater than or eq"),
        ("    mse: 0.02", "    msee: 0.02", "promotion.margins.msee is not a known key. Did you"),
        ("    mse: 0.5", "    mse: 1.5", "promotion.first.mse should be less than or equal to 1"),
        ("    mse: 0.5", "    mse: .nan", "promotion.first.mse should be a finite number"),
        ("model_name: ", "model_name: -", "promotion.model_name should match pattern"),
        ("model_name: ", "model_name: a/", "promotion.model_name should match pattern"),
        ("model_name: ", f"model_name: {'a' * 100}", "promotion.model_name should match pattern"),
    ],
)
def test_faults_in_the_promotion_params_are_named(tmp_path, old: str, new: str, fault: str) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    with pytest.raises(ParamsError) as caught:
        params.load(Section, tmp_path / "params.yaml")
    assert fault in str(caught.value)


def test_the_gate_imports_no_heavy_packages() -> None:
    program = (
        "import sys, latentworks.promotion.decision\n"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'pandas', 'sklearn', 'scipy', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"
