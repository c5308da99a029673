"""A new stage needs a file and an entry in dvc.yaml. A line in SHOWN shows its out in the run."""

from pathlib import Path

from mlflow import MlflowClient

from checkouts import Checkout

STAGE = """
from pathlib import Path

from latentworks.artifacts.images import read_prepared
from latentworks.repository.result import Result
from latentworks.system import disk
from latentworks.tracking import outbox


def main(prepared: Path, model: Path, census: Path) -> None:
    data = read_prepared(prepared)
    disk.write_json(census, {"images": {"test": len(data.rows("test"))}})
    print("census: counted")
    outbox.log("census", Result.of(prepared, model, census))
"""

ENTRY = """
  census:
    cmd: >-
      PYTHONPATH=src exec python -m latentworks.stages census
      data/prepared models/autoencoder reports/census.json
    deps:
      - data/prepared
      - models/autoencoder
      - src/latentworks/stages/census.py
      - src/latentworks/artifacts/images.py
      - src/latentworks/system/disk.py
    metrics:
      - reports/census.json:
          cache: false

plots:
"""


def shown(store: str) -> tuple[dict[str, float], set[str]]:
    """Return the metrics of the result's run, and the run's files in `reports`."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("latentworks")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    files = client.list_artifacts(run.info.run_id, "reports")
    return run.data.metrics, {file.path for file in files}


def test_a_new_stage_runs_and_the_mlflow_run_has_its_metrics_and_files(
    finished: Checkout, tmp_path: Path
) -> None:
    checkout = finished.copy(tmp_path / "checkout")
    own_code = {"PYTHONPATH": str(checkout.path / "src")}
    (checkout.path / "src/latentworks/stages/census.py").write_text(STAGE)
    checkout.edit("dvc.yaml", "\nplots:\n", ENTRY)
    line = '    "atlas": "reports",\n'
    checkout.edit("src/latentworks/tracking/runs.py", line, f'{line}    "census": "reports",\n')

    planned = checkout.run("latentworks", "plan", **own_code).stdout.splitlines()
    assert planned[1].split()[:2] == ["census", "runs"]
    said = checkout.run("latentworks", "repro", **own_code).stdout
    assert "census: counted" in said
    assert "train:" not in said

    metrics, files = shown(checkout.database)
    assert metrics["images/test"] == 397
    assert metrics["seconds/census"] > 0
    assert "reports/census.json" in files
    assert "census" in checkout.run("latentworks", "timings", **own_code).stdout
    new_store = f"sqlite:///{tmp_path / 'new.db'}"
    checkout.run("latentworks", "sync", MLFLOW_TRACKING_URI=new_store, **own_code)
    assert shown(new_store)[1] == files
    assert {*shown(new_store)[0]} == {name for name in metrics if not name.startswith("system/")}
