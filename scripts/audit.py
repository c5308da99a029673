"""Look the pinned packages up in the databases of known vulnerabilities.

`python scripts/audit.py` prints a line for each known vulnerability, and then exits with 1, as it
does after any fault. Without access to the databases, it says so and exits with 0.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

OFFLINE = re.compile(r"ConnectionError|ConnectTimeout|ReadTimeout|Max retries exceeded")
# The locks of the images are parts of it. That of `make peers` is not audited: its environment is
# for measurements alone.
LOCK = "requirements/latentworks.txt"


def report(packages: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Return the lines to print, and the number of vulnerabilities, of pip-audit's `packages`."""
    known = [each for each in packages if "skip_reason" not in each]
    if not known:
        return ["packages not audited: the databases cannot be reached from here"], 0
    lines = [
        f"{each['name']} {each['version']}: {fault['id']}, "
        f"fixed in {', '.join(fault['fix_versions']) or 'no version yet'}"
        for each in known
        for fault in each["vulns"]
    ]
    total = f"{len(known)} of {len(packages)} packages audited: {len(lines)} known vulnerabilities"
    return [*lines, total], len(lines)


def main() -> int:
    call = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]
    call += ["--disable-pip", "--require-hashes", "--requirement", LOCK]
    done = subprocess.run(
        call, cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True
    )
    try:
        lines, number = report(json.loads(done.stdout)["dependencies"])
    except ValueError:  # no JSON: pip-audit has failed
        fault = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        lines, number = [f"packages not audited: {fault}"], int(not OFFLINE.search(done.stderr))
    print("\n".join(lines))
    return int(number > 0)


if __name__ == "__main__":
    sys.exit(main())
