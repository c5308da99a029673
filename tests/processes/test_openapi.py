"""The server obeys /openapi.json: schemathesis makes calls from it, and checks the answers."""

import subprocess
from pathlib import Path

from checkouts import environment

HOOKS = Path(__file__).parent / "openapi_hooks.py"


def test_the_server_answers_as_openapi_json_says(url: str, tmp_path: Path) -> None:
    call = ["schemathesis", "run", f"{url}/openapi.json", "--no-color"]
    call += ["--max-examples", "20", "--generation-deterministic"]
    call += ["--suppress-health-check", "all"]  # health checks measure seconds
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
