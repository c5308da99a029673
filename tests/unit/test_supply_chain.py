"""Packages, actions, images and bills of materials: what others' code gets into the project."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import audit
import pin_images
import sbom
from checkouts import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_to_a_commit(path: Path) -> None:
    used = re.findall(r"uses: (.+)$", path.read_text(), flags=re.MULTILINE)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("image", sbom.IMAGES)
def test_the_bill_of_materials_of_an_image_lists_its_lock(image: str) -> None:
    lock = (ROOT / f"requirements/{image}.txt").read_text()
    written = (ROOT / f"requirements/{image}.cdx.json").read_text()
    assert written == sbom.bill(lock), "run `python scripts/sbom.py`"
    bill = json.loads(written)
    pins = set(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", lock, flags=re.MULTILINE))
    assert {(each["name"], each["version"]) for each in bill["components"]} == pins
    assert bill["bomFormat"] == "CycloneDX"


def test_the_audit_fails_on_a_known_vulnerability_and_says_when_it_cannot_look() -> None:
    fine = {"name": "a", "version": "1", "vulns": []}
    unknown = {"name": "b", "version": "1", "skip_reason": "not found"}
    fault = {"id": "CVE-2026-0001", "fix_versions": ["2.1"]}
    bad = {"name": "c", "version": "2", "vulns": [fault]}
    assert audit.report([fine, unknown]) == (
        ["1 of 2 packages audited: 0 known vulnerabilities"],
        0,
    )
    lines, number = audit.report([fine, bad])
    assert number == 1
    assert lines[0] == "c 2: CVE-2026-0001, fixed in 2.1"
    assert audit.report([unknown])[0] == [
        "packages not audited: the databases cannot be reached from here"
    ]


# --- images --------------------------------------------------------------------------------------


def in_dockerfile(text: str) -> Iterator[str]:
    """The images of others that a Dockerfile names. It names its own stages, too."""
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)", text, flags=re.MULTILINE))
    stages = set(re.findall(r"^FROM .+ AS (\S+)", text, flags=re.MULTILINE | re.IGNORECASE))
    named = re.findall(r"^FROM (?:--\S+ )*(\S+)|--from=(\S+)|^# syntax=(\S+)|,from=([^\s,]+)",
                       text, flags=re.MULTILINE | re.IGNORECASE)  # fmt: skip
    for name in {"".join(groups) for groups in named} - stages - {"scratch"}:
        yield re.sub(r"\$\{?(\w+)\}?", lambda found: defaults[found[1]], name)


def in_yaml(value: Any) -> Iterator[str]:
    """The images of others that Compose or a workflow names; those with `build` are our own."""
    if isinstance(value, list):
        for each in value:
            yield from in_yaml(each)
    elif isinstance(value, dict) and "build" not in value:
        for key, each in value.items():
            if isinstance(each, str):
                if key in ("image", "container") or (key == "uses" and "docker://" in each):
                    yield each
            else:
                yield from in_yaml(each)


def named(path: str, text: str) -> set[str]:
    own = "services" if "compose" in path else "jobs"
    return set(in_dockerfile(text) if "file" in path else in_yaml(yaml.safe_load(text)[own]))


def seen(text: str) -> set[str]:
    found = pin_images.references([text]).items()
    return {f"{image}@{each}".rstrip("@") for image, digests in found for each in digests}


def test_every_image_that_a_file_names_gets_its_digest() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    kinds = re.compile(r".*((docker|container)file|compose[^/]*\.ya?ml|action\.ya?ml)[^/]*"
                       r"|\.github/workflows/.*", re.IGNORECASE)  # fmt: skip
    # The files of template/ are links to those of docker/, or include them.
    names = [path for path in listed.stdout.splitlines() if not path.startswith("template/")]
    paths = [path for path in names if kinds.fullmatch(path)]
    assert {ROOT / path for path in paths} == set(pin_images.files(ROOT))
    texts = {path: (ROOT / path).read_text() for path in paths}
    assert {path: seen(text) for path, text in texts.items()} == {
        path: named(path, text) for path, text in texts.items()
    }
    assert all(seen(texts[path]) for path in ("docker/Dockerfile", "docker/compose.yaml"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("Dockerfile", "ARG OTHER=debian:12\nFROM ${OTHER} AS one\n"),
        ("Dockerfile", "FROM debian AS one\nFROM one\n"),
        ("Dockerfile", "COPY --from=debian:12 /a /a\n"),
        ("Dockerfile", "RUN --mount=type=bind,from=debian:12,target=/a true\n"),
        ("compose.yaml", "services: {one: {image: 'postgres:17'}}"),
        ("compose.yaml", "services:\n  one:\n    image: ${ONE:-postgres:17}\n"),
        ("compose.yaml", "services:\n  one:\n    image: postgres:17@sha256:0\n"),
        ("one.yml", "jobs:\n  one:\n    steps:\n      - uses: docker://debian:12\n"),
    ],
)
def test_an_image_that_the_script_would_miss_is_found(path: str, text: str) -> None:
    assert named(path, text)
    assert not seen(text)


def test_make_lock_pins_the_images() -> None:
    call = ["make", "--dry-run", "lock"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert "python scripts/pin_images.py" in done.stdout.splitlines()


def test_without_skopeo_all_files_stay(tmp_path: Path) -> None:
    before = [path.read_bytes() for path in pin_images.files(ROOT)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/pin_images.py")],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr == (
        "Cannot pin the images, so their files stay: skopeo is missing. "
        "Install the package skopeo.\n"
    )
    assert [path.read_bytes() for path in pin_images.files(ROOT)] == before
