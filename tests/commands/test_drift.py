"""Comparison of incoming images with the test images of the champion."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from sklearn.datasets import load_digits

from checkouts import HANGS, Checkout, environment
from latentworks.artifacts.images import read_prepared
from latentworks.errors import DataError, RegistryError
from latentworks.monitoring import source
from latentworks.monitoring.check import check
from latentworks.monitoring.drift import DriftConfig, Measured, compare
from latentworks.monitoring.isolated import Isolated
from latentworks.registry import signatures
from latentworks.registry.signatures import Keys
from latentworks.runner.worktree import RETRAINING, Worktree
from latentworks.system import landlock
from servers import prefect_server, until

CONFIG = DriftConfig(min_images=100, max_distance=0.15)


def measured(rng: np.random.Generator, num: int, shift: float = 0.0, dim: int = 2) -> Measured:
    """Draw errors and latents of `num` images; `shift`: standard deviations of the first latent."""
    latents = rng.normal(size=(num, dim)).astype(np.float32)
    latents[:, 0] += shift
    return Measured(rng.gamma(4, 0.005, num).astype(np.float32), latents)


# --- the verdict ---------------------------------------------------------------------------------


def test_images_like_the_test_images_are_no_drift() -> None:
    """At a level of 0.001, 300 checks have 0.3 false alarms on average.

    A false alarm also needs a distance above the limit, which so many images never have by chance.
    """
    rng = np.random.default_rng(0)
    test = measured(rng, 5000)
    found = [compare(test, measured(rng, 300), CONFIG) for _ in range(300)]
    assert sum(each.drifted for each in found) <= 1
    distances = [row.distance for each in found for row in each.rows]
    assert 0.02 < np.median(distances) < 0.08  # 0.83 / sqrt(300), Kolmogorov's median


@pytest.mark.parametrize("dim", [2, 64])
def test_a_shifted_latent_is_drift_and_is_named(dim: int) -> None:
    rng = np.random.default_rng(1)
    found = compare(measured(rng, 5000, dim=dim), measured(rng, 300, 1.0, dim), CONFIG)
    assert found.drifted
    assert "differ in latent z0 (0." in found.reason
    assert [row.verdict for row in found.rows[:2]] == ["ok", "drift"]
    assert found.rows[1].distance == pytest.approx(0.383, abs=0.06)  # 2 Phi(1/2) - 1; 2 std. errors
    assert len(found.rows) == 1 + min(dim, 8)


def test_worse_reconstructions_are_drift() -> None:
    rng = np.random.default_rng(2)
    worse = measured(rng, 300)
    worse = Measured(worse.errors * 1.6, worse.latents)
    found = compare(measured(rng, 5000), worse, CONFIG)
    assert found.drifted
    assert found.reason.startswith("300 new images differ in reconstruction error (0.")


def test_a_significant_but_small_difference_is_no_drift() -> None:
    rng = np.random.default_rng(3)
    found = compare(measured(rng, 10_000), measured(rng, 10_000, 0.2), CONFIG)
    assert found.rows[1].chance < 0.001
    assert not found.drifted


def test_too_few_images_are_no_drift_and_broken_numbers_are() -> None:
    rng = np.random.default_rng(4)
    test = measured(rng, 5000)
    few = compare(test, measured(rng, 99, 5.0), CONFIG)
    assert not few.drifted
    assert few.reason == "99 new images are too few: at least 100 are needed"
    broken = measured(rng, 200)
    broken.errors[3] = np.nan
    found = compare(test, broken, CONFIG)
    assert found.drifted
    assert found.reason == "1 of 200 new images are not reconstructed to finite numbers"


# --- changes of the source -----------------------------------------------------------------------


def test_a_change_of_the_source_is_reported_once_when_complete(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    images = tmp_path / "images"
    images.mkdir()
    checkout.edit("params.yaml", "digits.npz", "../images")
    now = iter(range(1000, 2000, 10))
    told: list[str] = []

    def state(cool_down: float = 0) -> str:
        return source.look(checkout.path, cool_down, next(now), told.append).state

    assert state() == "no change"  # the first look only writes the note
    (images / "a.png").write_bytes(b"1")
    assert state() == "still changing"
    (images / "b.png").write_bytes(b"2")
    assert state() == "still changing"
    assert [state(), state()] == ["changed", "no change"]
    (images / "b.png").write_bytes(b"longer")
    assert [state(1000), state(1000)] == ["still changing", "waiting"]
    assert [state(), state()] == ["changed", "no change"]  # the change was not forgotten
    (images / "a.png").unlink()
    assert [state(), state()] == ["still changing", "changed"]
    assert told == ["../images"] * 3
    (images / "c.png").write_bytes(b"3")
    with Worktree(checkout.path, RETRAINING).held("retrain"):  # the retraining may lack c.png
        assert [state(), state()] == ["still changing", "waiting"]
    assert [state(), state()] == ["changed", "no change"]
    images.rename(tmp_path / "gone")
    with pytest.raises(DataError, match="no such file or folder"):
        state()


def test_a_look_tolerates_files_that_come_and_go(tmp_path: Path) -> None:
    """With rsync, a listed file can be gone when its size is read."""
    for number in range(2000):
        (tmp_path / f"{number}.png").write_bytes(b"1")
    names = [str(tmp_path / f"{number}.png") for number in range(2000)]
    script = (
        "import os, sys\n"
        "while os.getppid() > 1:\n"
        "    for name in sys.argv[1:]: os.rename(name, name + '~'); os.rename(name + '~', name)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, *names]) as process:
        try:
            found = {source.signature(tmp_path) for _ in range(50)}
        finally:
            process.kill()
    assert len(found) > 1  # the files did come and go


def test_images_that_fetch_downloads_never_count_as_changed(
    untouched: Checkout, tmp_path: Path
) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "digits.npz", "data/raw/fashion-mnist")
    checkout.edit("params.yaml", "kind: npz ", "kind: fashion_mnist ")
    told: list[str] = []
    for now in range(3):
        assert source.look(checkout.path, 0, now, told.append).state == "no change"
    assert not told


# --- the whole check -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def champion(champion: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout whose champion knows all digits. `put` writes the images at its dataset.path."""
    checkout = champion.copy(tmp_path_factory.mktemp("champion") / "checkout")
    checkout.edit("params.yaml", "digits.npz", "../images.npz")
    return checkout


def put(champion: Checkout, changed: Callable[[np.ndarray], np.ndarray], again: int = 0) -> None:
    """Write 1200 digits, the other 597 with changes, and the first `again` of these once more."""
    digits = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    others = changed(digits[1200:])
    arrays = {"x_train": np.concatenate([digits[:1200], others, others[:again]])}
    np.savez(champion.path.parent / "images.npz", **arrays)


def alike(images: np.ndarray) -> np.ndarray:
    """Return other images that look the same: one edge pixel is brighter by one grey value."""
    images = images.copy()
    images[:, 0, 0] += 1
    return images


def inverted(images: np.ndarray) -> np.ndarray:
    return 255 - images


def test_new_images_that_look_the_same_are_no_drift(champion: Checkout) -> None:
    put(champion, alike, again=10)
    said = champion.run("latentworks", "drift").stdout
    assert "images.npz: 1,200 known, 597 new, 10 duplicates, 0 rejects" in said
    assert "autoencoder version 1: 597 new images are as the test images" in said
    assert "drift " not in said.replace("drift.png", "")


def test_inverted_images_are_drift(champion: Checkout) -> None:
    put(champion, inverted)
    said = champion.run("latentworks", "drift", expected=8).stdout
    assert "597 new images differ in reconstruction error (1.00), latent" in said
    picture = np.asarray(Image.open(champion.path / "drift.png").convert("RGB"))
    assert picture.shape[1] == 1200
    found = check(champion.path)
    assert found.drifted
    assert found.counts["new"] == 597


@pytest.fixture
def files(champion: Checkout, tmp_path: Path) -> Path:
    """A copy of the champion's files, which a test may change."""
    (folder,) = champion.path.glob(".latentworks/versions/*")
    return shutil.copytree(folder, tmp_path / "files")


def add_code(files: Path, code: str) -> None:
    (module,) = files.glob("code/*/serving/servable.py")
    with module.open("a") as file:
        file.write(f"\n{code}\n")


LANDLOCK = pytest.mark.skipif(landlock.available() < 1, reason="this kernel has no Landlock")


@LANDLOCK
def test_the_code_of_a_version_cannot_write_files(files: Path, tmp_path: Path) -> None:
    written = tmp_path / "written"
    add_code(files, f"open({str(written)!r}, 'w')")
    with pytest.raises(RegistryError, match=r"^it fails: PermissionError: .*Permission denied"):
        Isolated(files, "it")
    assert not written.exists()
    # Without the restriction, the same code writes.
    call = [sys.executable, "-m", "latentworks.monitoring.isolated", str(files)]
    subprocess.run(call, env=environment(), stdin=subprocess.DEVNULL, check=True)
    assert written.exists()


@LANDLOCK
def test_the_code_of_a_version_reads_neither_the_private_key_nor_the_checkout(
    champion: Checkout, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is hidden, although it is beneath the folder of the version, which can be read."""
    keys = files / "of/the/user"
    monkeypatch.setenv(signatures.FOLDER, str(keys))
    Keys.of_user().make()
    beside = keys.parent / "beside"
    beside.write_text("text")
    with Isolated(files, "it") as version:  # as usual
        assert len(version.measure(np.zeros((3, 8, 8, 1), np.uint8)).errors) == 3
    (module,) = files.glob("code/*/serving/servable.py")
    code = module.read_text()
    private, image = keys / signatures.PRIVATE, champion.path / "data/prepared/profile.json"
    for secret in (private, image, champion.path / "dvc.lock", Path.home(), keys):
        reads = "__import__('os').listdir" if secret.is_dir() else "open"
        module.write_text(f"{code}\n{reads}({str(secret)!r})\n")
        with pytest.raises(RegistryError, match=r"^it fails: PermissionError: .*Permission denied"):
            Isolated(files, "it")
        # Without the restriction, the same code reads.
        call = [sys.executable, "-m", "latentworks.monitoring.isolated", str(files)]
        done = subprocess.run(
            call, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
        )
        assert b"image_shape" in done.stdout
    module.write_text(f"{code}\nopen({str(beside)!r})\n")
    with Isolated(files, "it"):
        pass


def test_a_version_that_prints_is_measured_and_one_that_ends_is_reported(files: Path) -> None:
    images = np.zeros((3, 8, 8, 1), np.uint8)
    add_code(files, "print('loaded')")
    with Isolated(files, "it") as version:
        answer = version.measure(images)
    assert [array.shape for array in answer] == [(3,), (3, 2), (3, 8, 8, 1)]
    for code, fault in (
        ("1 / 0", r"ZeroDivisionError: division by zero"),
        ("__import__('os')._exit(1)", r"its process ended among the images"),
    ):
        add_code(files, f"Servable.encode_images = lambda *_: {code}")
        with (
            Isolated(files, "it") as version,
            pytest.raises(RegistryError, match=rf"^it fails: {fault}\.$"),
        ):
            version.measure(images)


def test_images_are_prepared_with_the_range_of_the_version(files: Path) -> None:
    image = np.arange(0, 256, 4, np.uint8).reshape(8, 8, 1)
    deep = image.astype(np.uint16) * 16
    (interface,) = files.glob("artifacts/servable/interface.json")
    fields = json.loads(interface.read_text())
    for ranges, white in (({"uint16": [0, 4080]}, 4080), ({}, 65535)):
        interface.write_text(json.dumps(fields | {"value_range": ranges}))
        with Isolated(files, "it") as version:
            assert (version.about.prepare(image) == image).all()
            expected = np.rint(deep * (255 / white))
            assert (version.about.prepare(deep) == expected).all()


def test_the_data_of_the_champion_comes_from_the_cache(champion: Checkout, tmp_path: Path) -> None:
    """The checkout has prepared other data since the promotion."""
    checkout = champion.copy(tmp_path / "checkout")
    (tmp_path / "images.npz").write_bytes((champion.path.parent / "images.npz").read_bytes())
    checkout.run("dvc", "repro", "prepare")
    prepared = read_prepared(checkout.path / "data/prepared")
    found = check(checkout.path)
    assert found.counts["known"] == 1200 < prepared.profile["num_images"]
    assert (checkout.path / ".latentworks/workspaces/champion").is_dir()


def test_the_drift_flow_reports_drift_and_a_retraining_starts(
    champion: Checkout, tmp_path: Path
) -> None:
    put(champion, inverted)
    with prefect_server(tmp_path) as api:

        def asked(what: str) -> list[dict[str, Any]]:
            return list(requests.post(f"{api}/{what}/filter", json={}, timeout=HANGS).json())

        def run(*call: str) -> str:
            source = str(champion.path / "src")
            done = champion.run(*call, PREFECT_API_URL=api, PYTHONPATH=source)
            return done.stdout + done.stderr

        # No worker carries out the flow runs of these deployments here.
        run("prefect", "work-pool", "create", "latentworks", "--type", "process", "--overwrite")
        run("prefect", "--no-prompt", "deploy", "--all")
        run("python", "-m", "pipeline", "automations")
        said = run("python", "-c", "from pipeline.watching import drift; drift()")
        assert "Finished in state Drift('597 new images differ in reconstruction error" in said
        found = {each["key"]: each for each in asked("artifacts")}
        assert set(found) == {"drift", "drift-picture"}
        rows = json.loads(found["drift"]["data"])
        assert [row["quantity"] for row in rows[:1]] == ["reconstruction error"]
        assert rows[0]["verdict"] == "drift"
        assert "1,200 known, 597 new" in found["drift"]["description"]
        assert "](data:image/png;base64,iVBOR" in found["drift-picture"]["data"]
        (retraining,) = until(
            lambda: [
                each
                for each in asked("flow_runs")
                if (each["created_by"] or {}).get("type") == "AUTOMATION"
            ]
        )
        (deployment,) = (each for each in asked("deployments") if each["name"] == "retrain")
        assert retraining["deployment_id"] == deployment["id"]


def test_drift_reports_a_missing_champion_or_source_in_one_line(
    finished: Checkout, champion: Checkout, tmp_path: Path
) -> None:
    done = finished.copy(tmp_path / "none").run("latentworks", "drift", expected=6)
    assert done.stderr == (
        "Cannot check for drift: autoencoder has no champion. "
        "Run `latentworks register`, then `latentworks promote`.\n"
    )
    gone = champion.copy(tmp_path / "gone")
    done = gone.run("latentworks", "drift", expected=3)
    assert len(done.stderr.splitlines()) == 1
    assert "images.npz" in done.stderr
