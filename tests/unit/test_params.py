"""Faults in params.yaml are refused, and the message names each fault."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkouts import ROOT, Checkout, environment
from latentworks import config, params
from latentworks.errors import ParamsError
from latentworks.params import recipes
from latentworks.sections import Params, checked

COMMITTED = (ROOT / "params.yaml").read_text()


def faults(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        params.load(Params, path, whole=True)
    return str(caught.value).splitlines()


def changed(old: str, new: str) -> str:
    assert old in COMMITTED
    return COMMITTED.replace(old, new)


def test_committed_params_are_valid_and_short() -> None:
    params.load(Params, ROOT / "params.yaml", whole=True)
    assert len(COMMITTED.splitlines()) <= 64


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "latent_dim:",
            "latent_dmi:",
            "model.latent_dmi is not a known key. Did you mean latent_d",
        ),
        ("train:", "trian:", "trian is not a known key. Did you mean train?"),
        ("fashion_mnist  #", "fashion_mnits  #", "dataset.kind should be one of: fashion_mnist, "),
        ("kind: gaussian_mix", "kind: gausian_mix", "Did you mean gaussian_mixture?"),
        ("epochs: 9", "epochs: nine", "train.epochs should be a valid integer. Received: 'nine'."),
        ("epochs: 9", "epochs: '9'", "train.epochs should be a valid integer. Received: '9'."),
        ("epochs: 9", "epochs: true", "train.epochs should be a valid integer. Received: True."),
        (
            "epochs: 9",
            "epochs: 0",
            "train.epochs should be greater than or equal to 1. Received: 0",
        ),
        ("learning_rate: 0.002", "learning_rate: .nan", "train.learning_rate should be a finite"),
        ("learning_rate: 0.002", "learning_rate: .inf", "train.learning_rate should be a finite"),
        ("learning_rate: 0.002", "learning_rate: -1", "train.learning_rate should be greater than"),
        ("[32, 64, 128]", "[32, 6.5, 128]", "model.filters.1 should be a valid integer. Received"),
        ("[32, 64, 128]", "[]", "model.filters should have at least 1 item"),
        ("channels: 1", "channels: 2", "prepare.channels should be one of: 1, 3. Received: 2."),
        ("num_components: 50", "num_comps: 50", "sample.sampler.num_comps is not a known key."),
        (
            "latent_noise: 0.0",
            "latent_noise: 0.1",
            "model.latent_noise needs latent_l2 above 0",
        ),
        (
            "prior:\n  kind: none",
            "",
            "prior is missing. Add `prior: {kind: none}` to fit the sampler.",
        ),
        ("seed: 0", "seed: -1", "seed should be greater than or equal to 0. Received: -1."),
        *(
            (
                "value_range: auto",
                f"value_range: {value}",
                "prepare.value_range should be auto, full",
            )
            for value in ("fll", "[1, 1]", "[0]", "[0, .inf]", "[false, true]", "3", "{a: 1}")
        ),
        *(
            (
                "image_size: 32",
                f"image_size: {value}",
                "prepare.image_size should be pixels from 8 to 1024: a number for square images, "
                "or [height, width]. Received: ",
            )
            for value in ("7", "1025", "32.0", "true", "[32]", "[7, 8]", "[8, 8, 1]", "[8, 8.0]")
        ),
        ("fit: pad", "fit: cut", "prepare.fit should be one of: pad, resize, crop. Received: 'cut"),
    ],
)
def test_a_fault_in_params_is_named_with_its_key(
    tmp_path: Path, old: str, new: str, fault: str
) -> None:
    lines = faults(tmp_path, changed(old, new))
    assert any(fault in line for line in lines), lines
    assert all(line.startswith("params.yaml: ") for line in lines)


@pytest.mark.parametrize(
    ("value", "shape"), [("32", (32, 32, 1)), ("[48, 64]", (48, 64, 1)), ("[8, 8]", (8, 8, 1))]
)
def test_image_size_is_one_number_or_height_and_width(
    tmp_path: Path, value: str, shape: tuple[int, int, int]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(changed("image_size: 32", f"image_size: {value}"))
    assert params.load(Params, path, whole=True).prepare.image_shape == shape


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("seed: 0\nseed: 1\n", 'line 2: found duplicate key "seed"'),
        ("seed: &s 0\ntrain: *s\n", "line 2: alias *s"),
        ("a: [1, 2", "line 1: expected ',' or ']'"),
        ("- 1\n- 2\n", "expected sections such as `model:`"),
        ("", "expected sections such as `model:`"),
        ("just text", "expected sections such as `model:`"),
        ("seed: \x00", "unacceptable character"),
        ("[" * 50_000, "nested deeper than 20 levels"),
        ("a: " + "x" * 200_000, "too large"),
        ("? [1, 2]\n: 3\n", "is not a known key"),
        ("model: {? {a: 1} : 3}", "line 1: found unhashable key"),
        ("seed: !!python/object:os.system 1", "could not determine a constructor"),
        ("seed: !!bool maybe", "not valid YAML"),
        (f"seed: 0x{'f' * 5000}", "Exceeds the limit"),
    ],
)
def test_params_that_are_not_plain_yaml_sections_are_refused(
    tmp_path: Path, text: str, fault: str
) -> None:
    assert any(fault in line for line in faults(tmp_path, text))


def test_every_fault_is_listed(tmp_path: Path) -> None:
    text = changed("epochs: 9", "epochs: 0").replace("channels: 1", "channels: 2")
    assert len(faults(tmp_path, text.replace("seed: 0", "sed: 0"))) == 4  # seed is missing, too


def test_a_yaml_alias_bomb_is_refused_within_two_seconds(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for name, inner in zip("bcdefghi", "abcdefgh", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{inner}'] * 9)}]\n"
    started = time.perf_counter()
    assert "alias *a" in faults(tmp_path, bomb)[0]
    assert time.perf_counter() - started < 2  # expanded, the aliases would be 9**9 items


def test_a_stage_reads_only_its_sections(tmp_path: Path) -> None:
    class Seeded(config.Config):
        seed: config.Seed

    path = tmp_path / "params.yaml"
    path.write_text("seed: 3\nmodel: {nonsense: 1}\n")
    assert params.load(Seeded, path).seed == 3


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(changed("learning_rate: 0.002", "learning_rate: 1e-3"))
    assert params.load(Params, path, whole=True).train.learning_rate == 0.001


@pytest.mark.parametrize("name", recipes.names(ROOT))
def test_each_recipe_merges_into_valid_params(tmp_path: Path, name: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(recipes.merge(COMMITTED, recipes.sections(ROOT, name)))
    merged = params.load(Params, path, whole=True).model_dump(mode="json", exclude_unset=True)
    for section, value in recipes.sections(ROOT, name).items():
        assert merged[section] == value


def test_merge_keeps_comments_and_values_that_it_does_not_replace() -> None:
    assert recipes.merge(COMMITTED, {}) == COMMITTED
    merged = recipes.merge(COMMITTED, recipes.sections(ROOT, "seed"))
    assert "cosine falls to 0 at the last step" in merged
    assert len(merged.splitlines()) == len(COMMITTED.splitlines()) - 1  # without num_components


def call(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["latentworks", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_validate_exits_with_2_and_prints_only_the_faults(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(changed("epochs: 9", "epochs: 0"))
    done = call("validate", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "params.yaml: train.epochs should be greater than or equal to 1. Received: 0."
    ]
    (tmp_path / "params.yaml").write_text(COMMITTED)
    assert call("validate", folder=tmp_path).stdout == "params.yaml is valid\n"


def test_the_command_line_imports_no_heavy_package() -> None:
    program = (
        "import sys, latentworks.cli\n"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'prefect', 'pandas', 'sklearn', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (".", "dataset.path holds data/raw, which stage fetch writes"),
        ("data", "dataset.path holds data/raw"),
        ("/", "dataset.path holds data/raw"),
        ("models/autoencoder/x", "dataset.path lies in models/autoencoder"),
        ("reports/metrics.json", "dataset.path lies in reports/metrics.json"),
        ('"a\\0b"', "dataset.path should match pattern"),
    ],
)
def test_a_dataset_path_that_overlaps_outs_or_is_invalid_is_refused(
    untouched: Checkout, tmp_path: Path, path: str, fault: str
) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    checkout.edit("params.yaml", "path: digits.npz", f"path: {path}")
    done = checkout.run("latentworks", "validate", expected=2)
    assert fault in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "fault", "code"),
    [
        ("../digit/photos", "dataset.path names no file or folder. Received: '../digit/ph", 2),
        ("../digit/photos", "Did you mean ../digits/photos?", 2),
        ("../digits/nothing/like/it", "Correct it, or put the images there.", 2),
        ("tracked/photos", "Run `dvc pull tracked.dvc`.", 2),
        ("~/photos", f"without ~, which DVC does not expand: {Path.home()}/photos. Received", 2),
        ("s3://bucket/photos", "by `dvc import-url s3://bucket/photos photos`. Received", 2),
        ("https://host/a.zip", "should be a path on this machine. Download the images first", 2),
        (
            "../digits/photos.zip",
            "photos.zip: not a folder. Expected a folder of images.",
            3,
        ),
        ("../digits/photos.tar", "or set dataset.kind to tar.", 3),
    ],
)
def test_a_dataset_path_without_images_is_refused_with_its_cure(
    untouched: Checkout, tmp_path: Path, path: str, fault: str, code: int
) -> None:
    checkout = untouched.copy(tmp_path / "checkout")
    (tmp_path / "digits/photos").mkdir(parents=True)
    (tmp_path / "digits/photos.zip").write_bytes(b"PK\3\4")
    (tmp_path / "digits/photos.tar").write_bytes(b"PK\3\4")
    (checkout.path / "tracked.dvc").write_text("outs: []\n")
    checkout.edit("params.yaml", "kind: npz", "kind: image_folder")
    checkout.edit("params.yaml", "path: digits.npz", f"path: {path}")
    done = checkout.run("latentworks", "validate", expected=code)
    assert fault in done.stderr
    assert len(done.stderr.splitlines()) == 1
    checkout.edit("params.yaml", f"path: {path}", "path: ../digits/photos")
    assert checkout.run("latentworks", "validate").stdout == "params.yaml is valid\n"


def test_params_without_a_limit_of_rejects_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    lines = COMMITTED.splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "max_rejects" not in line))
    assert params.load(Params, path, whole=True).prepare.max_rejects is None


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        (
            "model: {kind: vae}",
            "model.kind vae takes the keys architecture, filters, loss, ",
        ),
        ("prior: {kind: flow}", "prior.kind flow takes the keys width, "),
        (
            "sample: {num_images: 9, sampler: {kind: uniform_box, x: 1}}",
            "uniform_box takes no ot",
        ),
    ],
)
def test_the_keys_of_a_kind_are_listed_at_once(tmp_path: Path, section: str, keys: str) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    path = tmp_path / "params.yaml"
    path.write_text(section)
    path.write_text(recipes.merge(COMMITTED, params.read(path)))
    with pytest.raises(ParamsError, match=rf"{keys}.*; recipes/[a-z0-9-]+\.yaml has an example\."):
        checked(tmp_path)


class TestRecipe:
    """`make repro RECIPE=…` writes params.yaml, but never over a user's edits."""

    def test_a_recipe_can_be_applied_twice(self, untouched, tmp_path: Path) -> None:
        checkout = untouched.copy(tmp_path / "checkout")
        before = (checkout.path / "params.yaml").read_text()
        checkout.run("latentworks", "recipe", "seed")
        assert "kind: uniform_box" in (checkout.path / "params.yaml").read_text()
        checkout.run("latentworks", "recipe", "seed")
        checkout.run("git", "checkout", "--quiet", "params.yaml")
        assert (checkout.path / "params.yaml").read_text() == before

    def test_a_recipe_refuses_to_overwrite_uncommitted_edits(
        self, untouched, tmp_path: Path
    ) -> None:
        checkout = untouched.copy(tmp_path / "checkout")
        checkout.edit("params.yaml", "epochs: 4", "epochs: 5")
        done = checkout.run("latentworks", "recipe", "seed", expected=2)
        assert "params.yaml has uncommitted edits in train, which recipe 'seed'" in done.stderr
        assert "epochs: 5" in (checkout.path / "params.yaml").read_text()

    def test_edits_in_other_sections_stay(self, untouched, tmp_path: Path) -> None:
        """Sections of the recipe before return to the committed ones: recipes are not mixed."""
        checkout = untouched.copy(tmp_path / "checkout")
        file = checkout.path / "params.yaml"
        committed = file.read_text()
        checkout.edit("params.yaml", "min_images: 100  # with fewer n", "min_images: 50  # my own")
        for name in ("codes-transformer", "images-64d"):
            recipes.write(checkout.path, name, committed)
        now = params.read(file)
        wanted = recipes.sections(checkout.path, "images-64d")
        assert {name: now[name] for name in wanted} == wanted
        assert now["prior"] == {"kind": "none"}
        assert now["drift"]["min_images"] == 50
        assert "# my own" in file.read_text()
        checkout.edit("params.yaml", "  batch_size: 128", "  batch_size: 32")
        with pytest.raises(ParamsError, match="uncommitted edits in train"):
            recipes.write(checkout.path, "seed", committed)

    def test_a_recipe_is_refused_if_params_are_not_in_git(self, untouched, tmp_path: Path) -> None:
        checkout = untouched.copy(tmp_path / "checkout")
        checkout.run("git", "rm", "--quiet", "--cached", "params.yaml")
        checkout.commit("--update")
        before = (checkout.path / "params.yaml").read_text()
        done = checkout.run("latentworks", "recipe", "seed", expected=2)
        assert "params.yaml is not in git" in done.stderr
        assert (checkout.path / "params.yaml").read_text() == before

    def test_an_unknown_recipe_name_gets_a_suggestion(self, untouched) -> None:
        done = untouched.run("latentworks", "recipe", "sed", expected=2)
        assert "Did you mean seed?" in done.stderr
