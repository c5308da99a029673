"""The server does what /openapi.json says: calls are made from it, and answers compared with it."""

import subprocess
from pathlib import Path

from conftest import environment

HOOKS = Path(__file__).parent / "openapi_hooks.py"


def test_it_does_as_it_says(url: str, tmp_path: Path) -> None:
    call = ["schemathesis", "run", f"{url}/openapi.json", "--no-color"]
    call += ["--max-examples", "20", "--generation-deterministic"]
    call += ["--suppress-health-check", "all"]  # they measure seconds
    done = subprocess.run(
        call,
        cwd=tmp_path,
        env=environment(SCHEMATHESIS_HOOKS=str(HOOKS)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout
