"""The comparison with pythae: its scores are those of `evaluate`, and its table shows them."""

import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import peers_scores
import peers_table
from checkouts import ROOT
from families import autoencoder
from latentworks.artifacts.features import Features, write_features
from latentworks.artifacts.images import Prepared
from latentworks.artifacts.samples import Samples
from latentworks.engine import inference
from latentworks.evaluation import generation
from latentworks.evaluation.features import classifier
from latentworks.metrics.frechet import frechet_distance
from latentworks.preprocess import to_pixels
from peers_program import HASHED, TORCH, Program, num_parameters
from peers_table import DOC, END, OURS, START, Row

SHAPE = (16, 16, 1)
JUDGE = "a network"


def row(library: str, sampler: str, seed: int, frechet: float, **changes: Any) -> Row:
    scores = dict.fromkeys(peers_scores.SHOWN, 0.5) | {"frechet": frechet, "frechet_error": 0.1}
    values: dict[str, Any] = {"scores": {JUDGE: scores}, "fault": "", **changes}
    return Row(library, "a model", "its nets", sampler, seed, 2.0 + seed, **values)


def test_samples_are_scored_as_evaluate_scores_them(tmp_path: Path) -> None:
    """Random images are enough, since both scores are of the same ones."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, *SHAPE), dtype=np.uint8)
    index = pd.DataFrame({"split": ["train"] * 400 + ["test"] * 200})
    data = Prepared(images, index, {"class_names": []})
    samples = images[:300] // 2
    judge = Features("random", [], None, classifier.weights(classifier.build(SHAPE, 0)))
    model = autoencoder(filters=(4,)).build(SHAPE)
    write_features(tmp_path, judge)

    network = classifier.load(SHAPE, judge.weights)
    drawn = Samples(samples, np.zeros((300, 2), np.float32), None)
    expected = generation.compare(partial(classifier.see, network), model, data, drawn)
    see, _ = peers_scores.judges(tmp_path, SHAPE).values()
    pairs = inference.reconstruct(model, images, data.rows("test"))
    again = np.concatenate([to_pixels(images) for _, images in pairs])
    scores = peers_scores.Scorer(see, data, data.rows("test"), len(samples)).score(samples, again)
    assert scores.pop(peers_scores.ERROR) > 0
    assert scores == {name: expected[name] for name in peers_scores.SHOWN}


def test_the_error_of_a_frechet_distance_is_its_deviation_over_new_images() -> None:
    """Of 100 distances, the deviation is known to 7 %, and a jackknife of 10 groups to 24 %, which
    the mean over 20 reduces to 5 %. The jackknife itself is a little too large."""
    rng = np.random.default_rng(0)
    sets = [(rng.normal(0.3, 1, (500, 4)), rng.normal(0, 1, (500, 4))) for _ in range(100)]
    deviation = np.std([frechet_distance(*both) for both in sets], ddof=1)
    errors = [peers_scores.frechet_error(*both) for both in sets[:20]]
    assert np.mean(errors) == pytest.approx(deviation, rel=0.25)


def test_the_table_has_the_mean_of_the_seeds_and_the_best_first() -> None:
    rows = [
        *(row("pythae", "normal", seed, 8 + seed) for seed in range(3)),
        *(row(OURS, "mixture", seed, 2 + seed) for seed in range(3)),
    ]
    text = peers_table.tables(rows)
    ours, pythae = re.findall(r"^\| (?:latentworks|pythae) .*$", text, flags=re.MULTILINE)
    # Student's t for two degrees of freedom is 4.303, and the deviation of the seeds is 1.
    half = np.hypot(4.303 / np.sqrt(3), 1.96 * 0.1)
    assert ours == (
        f"| latentworks | a model | its nets | mixture | 3.0 | 3 | 3.00 ± {half:.2f} "
        "| 0.5 | 0.5 | 0.5 | 0.5 |"
    )
    assert "| 9.00 ±" in pythae
    assert "is 0.33 times the best of the peer, 9.00; goal: at most 0.5 times; reached." in text
    assert "missed." in peers_table.tables([rows[0], row(OURS, "mixture", 0, 4.1)])


def test_a_sampler_that_could_not_be_fitted_is_named_with_the_reason() -> None:
    fault = row("pythae", "mixture", 0, 1.0, scores={}, fault="too few latents")
    text = peers_table.tables([row("pythae", "normal", 0, 8.0), fault])
    assert "- pythae, a model, its nets, mixture: too few latents" in text
    assert "No comparison" in text


def test_one_seed_has_the_error_of_its_images_alone() -> None:
    assert peers_table.half_width([3.0], [0.1]) == pytest.approx(0.196, abs=1e-3)


def test_the_document_keeps_its_text_around_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "peers.md"
    text = (ROOT / DOC).read_text(encoding="utf-8")
    assert text.count(START) == text.count(END) == 1
    path.write_text(text, encoding="utf-8")
    for new in ("first", "second"):
        peers_table.write_document(path, new)
    before, after = text.split(START)[0], text.split(END)[1]
    assert path.read_text(encoding="utf-8") == f"{before}{START}\n\nsecond\n\n{END}{after}"


def test_the_peer_is_locked_without_addresses_and_by_hash_but_for_torch() -> None:
    lock = (ROOT / HASHED).read_text()
    assert "://" not in lock
    pins = re.findall(r"^([a-z0-9-]+)==([^\s;]+).*\\\n    --hash=sha256:", lock, flags=re.MULTILINE)
    assert len(pins) == len(re.findall(r"^[a-z]", lock, flags=re.MULTILINE))
    assert dict(pins)["pythae"] == "0.1.2"
    assert "torch" not in dict(pins)
    assert "torch==2.13.0" in (ROOT / TORCH).read_text().splitlines()


def test_a_failed_program_of_the_peer_names_its_log(tmp_path: Path) -> None:
    """This environment has no torch, so that the program cannot start."""
    folder = tmp_path / "work"
    folder.mkdir()
    program = Program(Path(sys.executable), ROOT, "VAE", "default", folder, 1)
    with pytest.raises(SystemExit, match=r"pythae's VAE failed. See .*log.txt"):
        program.decode()
    assert "No module named" in (tmp_path / "log.txt").read_text()


def test_the_nets_of_the_recipes_have_the_parameters_of_their_layers() -> None:
    """`fast`: three convolutions, three transposed ones, and dense layers around 64 latents."""
    convolutions = 9 * 64 + 64 + 4 * 64 * 128 + 128 + 4 * 128 * 256 + 256
    transposed = 9 * 256 * 128 + 128 + 9 * 128 * 64 + 64 + 16 * 64 + 1
    dense = 4096 * 64 + 64 + 64 * 4096 + 4096
    found = num_parameters(ROOT, "RAE_L2", (32, 32, 1))
    assert found == convolutions + transposed + dense
