"""Packages, actions and bills of materials: what others' code gets into the project."""

import json
import re
from pathlib import Path

import pytest

import audit
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
