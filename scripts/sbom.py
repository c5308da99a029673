"""Write a software bill of materials of the lock of each container image.

`python scripts/sbom.py` writes requirements/NAME.cdx.json (CycloneDX 1.6, JSON) beside each lock
requirements/NAME.txt of an image. It lists all packages of the lock, also those that only another
system or Python needs. Equal locks give equal bytes. The hashes of the packages' files are in the
locks.
"""

import json
import re
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
IMAGES = ("train", "serve")
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)
CHANGING = ("serialNumber", "metadata")  # fields that differ between two equal bills


def bill(lock: str) -> str:
    """Return the bill of materials of the packages that a lock pins, as JSON."""
    components = [
        Component(
            name=name, version=version, type=ComponentType.LIBRARY,
            bom_ref=f"{name}@{version}", purl=PackageURL("pypi", name=name, version=version),
        )
        for name, version in sorted(set(PIN.findall(lock)))
    ]  # fmt: skip
    written = json.loads(JsonV1Dot6(Bom(components=components)).output_as_string())
    for field in CHANGING:
        written.pop(field, None)
    return json.dumps(written, indent=1, sort_keys=True) + "\n"


def main() -> None:
    for image in IMAGES:
        lock = (REQUIREMENTS / f"{image}.txt").read_text(encoding="utf-8")
        (REQUIREMENTS / f"{image}.cdx.json").write_text(bill(lock), encoding="utf-8")


if __name__ == "__main__":
    main()
