"""Versions that are cheap to make: copies of a registered version with other recorded scores."""

import shutil
from dataclasses import replace
from pathlib import Path

from latentworks.promotion.scores import Scores
from latentworks.registry.store import RegistryStore
from latentworks.registry.versions import SHA256, Version
from latentworks.serving import checksums, packaging
from latentworks.system import disk


def write_scaled(source: Path, folder: Path, factor: float) -> str:
    """Copy a version's files, with its mse times `factor`. Returns the SHA-256 of the copy."""
    shutil.copytree(source, folder)
    scores = Scores.from_json(disk.read_json(folder / packaging.SCORES))
    mse = scores.metrics["mse"]
    assert mse.replicates is not None
    scaled = replace(mse, value=mse.value * factor, replicates=mse.replicates * factor)
    scores = replace(scores, metrics={**scores.metrics, "mse": scaled})
    disk.write_json(folder / packaging.SCORES, scores.to_json())
    return checksums.seal(folder)


def log_scaled(
    store: RegistryStore, version: Version, factor: float, folder: Path
) -> tuple[str, dict[str, str]]:
    """Log a copy of a version with its mse times `factor`, written into `folder` meanwhile.

    Returns the id of the logged model, and the signed tags for a version of it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    sha256 = write_scaled(store.fetch(version), folder, factor)
    tags = {**version.tags, SHA256: sha256}
    tags |= store.keys.sign(version.name, tags)
    client = store.client
    model = client.create_logged_model(store.store.experiment_id, version.name)
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    return model.model_id, tags
