"""README.md and the pages in docs/ name real commands, links and scores."""

import re
import signal
from typing import get_args

import pytest

from checkouts import ROOT
from latentworks import errors
from latentworks.cli import DRIFTED, app
from latentworks.datasets.config import BUILT_IN, DatasetConfig
from latentworks.params import recipes
from latentworks.system import disk

TEXT = (ROOT / "README.md").read_text()
PRODUCTION = (ROOT / "docs/from-run-to-production.md").read_text()
RETRAINING = (ROOT / "docs/retraining.md").read_text()
RECOVERY = (ROOT / "docs/recovery.md").read_text()
DEPLOYMENT = (ROOT / "docs/deployment.md").read_text()
OWN = (ROOT / "docs/own-project.md").read_text()
COMPARE = (ROOT / "docs/compare-settings.md").read_text()
FOLDERS = (ROOT / "docs/image-folders.md").read_text()
IMAGES = (ROOT / "docs/your-own-images.md").read_text()
RESULT = (ROOT / "docs/result.md").read_text()
SCORES = (ROOT / "docs/scores.md").read_text()
COMMANDS = (ROOT / "docs/commands.md").read_text()
PAGES = PRODUCTION + RETRAINING + RECOVERY + DEPLOYMENT + FOLDERS + IMAGES + RESULT
PAGES += SCORES + COMMANDS + OWN + COMPARE
ALL = TEXT + PAGES


def test_the_readme_is_short_and_goes_from_make_repro_to_make_test() -> None:
    makes = re.findall(r"^\$ (make .*)$", TEXT, flags=re.MULTILINE)
    assert [makes[0], makes[-1]] == ["make repro", "make test"]
    assert len(TEXT.splitlines()) <= 250


def test_docs_name_existing_make_targets_and_the_page_of_commands_lists_all() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*  ## ", makefile, flags=re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert set(phony.split()) == targets
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", ALL))
    assert {"repro", "faults"} <= named <= targets
    listed = re.findall(r"^make ([a-z-]+) +\S", COMMANDS, flags=re.MULTILINE)
    assert set(listed) == targets


def test_the_table_of_exit_codes_has_all_errors() -> None:
    rows = re.findall(r"^\| ([0-9, ]+) \| .+ \| (.*) \|$", RECOVERY, flags=re.MULTILINE)
    table = {int(code): again for codes, again in rows for code in codes.split(", ")}
    waiting, kinds = [errors.LatentworksError], set()
    while waiting:
        kinds.add(kind := waiting.pop())
        waiting += kind.__subclasses__()
    codes = {kind.exit_code for kind in kinds}
    assert table.keys() == codes | {0, DRIFTED, 128 + signal.SIGINT, 128 + signal.SIGTERM}
    later = {errors.Unavailable, errors.Busy}
    assert {code for code, again in table.items() if again == "later"} == {
        kind.exit_code for kind in later
    }


def test_every_command_and_recipe_in_the_docs_exists() -> None:
    ours = {command.callback.__name__ for command in app.registered_commands if command.callback}
    ours |= {str(group.name) for group in app.registered_groups}
    assert set(re.findall(r"^\| `([a-z]+)` \|", COMMANDS, flags=re.MULTILINE)) == ours
    named = set(re.findall(r"(?:`|\$ )latentworks ([a-z]+)", ALL))
    assert {"repro", "serve"} <= named <= ours
    known = set(re.findall(r"RECIPE=([a-z0-9-]+)", ALL))
    assert known
    assert known <= set(recipes.names(ROOT))


def test_the_page_on_your_own_images_has_a_row_for_each_kind() -> None:
    members = get_args(get_args(DatasetConfig)[0])
    kinds = {get_args(each.model_fields["kind"].annotation)[0] for each in {*members} - {*BUILT_IN}}
    rows = set(re.findall(r"^\| \[?`(\w+)`.*? \| an? ", IMAGES, flags=re.MULTILINE))
    assert rows == kinds


LINK = re.compile(r"\]\((?!https:)([^)]+)\)")


@pytest.mark.parametrize("target", LINK.findall(TEXT))
def test_every_link_and_picture_of_the_readme_exists(target: str) -> None:
    assert (ROOT / target.partition("#")[0]).exists()


@pytest.mark.parametrize("target", LINK.findall(PAGES))
def test_every_link_and_picture_of_the_other_pages_exists(target: str) -> None:
    assert (ROOT / "docs" / target.partition("#")[0]).exists()


def test_the_readme_and_the_docs_have_the_same_python_example() -> None:
    (example,) = re.findall(r"```python\n(import mlflow.*?)```", TEXT, flags=re.DOTALL)
    assert len(example.splitlines()) == 3
    assert example in PRODUCTION


def test_the_scores_in_the_docs_are_of_the_committed_result() -> None:
    scores = disk.read_json(ROOT / "reports/metrics.json")
    said = dict(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| (\S+) \|", SCORES, flags=re.MULTILINE))
    flat = {f"{group}.{name}": v for group, values in scores.items() for name, v in values.items()}
    assert set(said) == set(flat)
    for name, value in said.items():
        digits = len(value.partition(".")[2])
        found = flat[name]
        assert (found if isinstance(found, str) else f"{found:.{digits}f}") == value, name


def test_the_console_output_in_the_readme_is_of_the_committed_result() -> None:
    scores = disk.read_json(ROOT / "reports/metrics.json")
    assert f"evaluate: test.bce {scores['test']['bce']:.4f} on 10000 images" in TEXT
