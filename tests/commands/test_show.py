"""The result of a checkout on the command line, from `latentworks repro` to its first samples."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from checkouts import Checkout, Project
from servers import closed_port


@pytest.fixture(scope="module")
def own(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A checkout with a result that is not registered, in a store of its own."""
    return Project.copied(finished, tmp_path_factory.mktemp("own") / "checkout")


def test_the_screen_shows_scores_pictures_and_the_next_commands(own: Project) -> None:
    shown = own.ours("show")
    assert shown.startswith("autoencoder of npz: 8x8x1 images, 2 latents\n")
    for name in ("reconstruction error (mse)", "Fréchet distance", "latents in use"):
        assert f"\n{name}  " in shown
    assert "Pictures: reports/figures\n" in shown
    assert "open reports/atlas.html in a browser" in shown
    assert "Registry: not registered\n" in shown
    assert "  latentworks sample --num 64 samples.png  " in shown
    assert "  latentworks register  " in shown
    # The tests' checkouts were committed before their stages ran.
    assert "git commit --message Train dvc.lock reports" in shown


def test_programs_get_the_same_as_json(own: Project) -> None:
    shown = json.loads(own.ours("show", "--json"))
    assert shown["metrics"]["latents.active_units"] == 2
    assert 0 < shown["mean_image_mse"] < 1
    assert (shown["version"], shown["champion"]) == (None, False)
    assert shown["next"][1:] == ["latentworks register", "latentworks promote"]
    assert shown["uncommitted"] == ["dvc.lock", "reports"]


def test_a_champion_is_served_next(project: Project) -> None:
    shown = project.ours("show")
    assert "version 1; it is champion\n" in shown
    assert "\n  latentworks serve  " in shown
    assert json.loads(project.ours("show", "--json"))["champion"]


def test_a_poor_result_and_changed_params_are_named(own: Project, tmp_path: Path) -> None:
    poor = Project.copied(own, tmp_path / "poor")
    poor.edit("params.yaml", "    mse: 0.5  #", "    mse: 0.01  #")
    poor.edit("params.yaml", "epochs: 4", "epochs: 5")
    shown = poor.ours("show")
    assert " better than the mean image. Try this: train longer" in shown
    assert "params.yaml has changed since: `latentworks plan` shows what would run." in shown


def test_a_dead_server_is_told_in_short(own: Project) -> None:
    dead = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{closed_port()}"}
    assert (
        "Registry: unknown, since MLflow did not answer"
        in own.run(*("latentworks", "show"), **dead).stdout
    )
    (said,) = own.run("latentworks", "history", expected=69, **dead).stderr.splitlines()
    assert said.endswith(
        " failed: no connection: Connection refused. Try again when MLflow answers."
    )


def test_without_a_result_the_error_names_the_cure(untouched: Checkout, tmp_path: Path) -> None:
    checkout = Project.copied(untouched, tmp_path / "checkout")
    assert checkout.ours("show", expected=1).startswith("Nothing to show: ")
    assert "models/servable is missing. Run `make repro`" in checkout.ours(
        "sample", "samples.png", expected=3
    )


def test_samples_are_drawn_into_a_grid_or_a_folder(own: Project, tmp_path: Path) -> None:
    grid, again, folder = tmp_path / "grid.png", tmp_path / "again.png", tmp_path / "each"
    assert own.ours("sample", "--num", "9", "--seed", "1", str(grid)).endswith("--seed 1\n")
    own.ours("sample", "--num", "9", "--seed", "1", str(again))
    assert grid.read_bytes() == again.read_bytes()
    own.ours("sample", "--num", "3", str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["0000.png", "0001.png", "0002.png"]
    said = own.ours("sample", "--label", "3", str(grid), expected=5)
    assert said == "label cannot be used: this model has no classes. Leave label out.\n"


def test_pictures_are_reconstructed_and_encoded(own: Project, tmp_path: Path) -> None:
    folder, pairs, table = tmp_path / "in", tmp_path / "pairs.png", tmp_path / "latents.csv"
    own.ours("sample", "--num", "3", str(folder))
    own.ours("reconstruct", str(folder / "0000.png"), str(folder / "0001.png"), str(pairs))
    with Image.open(pairs) as picture:
        assert picture.size == (18, 18)  # two columns, two rows, and gaps of 2 pixels
    own.ours("encode", str(folder), str(table))
    assert pd.read_csv(table)["file"].tolist() == sorted(map(str, folder.iterdir()))
    assert "the .png file to write" in own.ours("reconstruct", str(folder), "x.jpg", expected=5)
