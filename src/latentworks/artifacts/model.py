"""A trained model: model.keras and its config."""

import json
import zipfile
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter

from latentworks.artifacts.keras_file import require_ours
from latentworks.errors import UnsafeModel
from latentworks.models.network import Network
from latentworks.system import disk


class Saveable(Protocol):
    """The part of a Keras model that is used here."""

    def save(self, filepath: str | Path) -> None: ...


def write_model(folder: Path, model: Saveable, config: BaseModel) -> None:
    """Write model.keras, and config.json, from which `read_model` loads it."""
    dated = folder / "dated.keras"
    model.save(dated)
    _write_without_dates(dated, folder / "model.keras")
    dated.unlink()
    disk.write_json(folder / "config.json", config.model_dump(mode="json"))


def _write_without_dates(source: Path, target: Path) -> None:
    """Copy a `.keras` file, a zip, without its dates, so that equal models give equal bytes."""
    with zipfile.ZipFile(source) as dated, zipfile.ZipFile(target, "w") as dateless:
        for name in sorted(dated.namelist()):
            content = dated.read(name)
            if name == "metadata.json":
                metadata = json.loads(content)
                metadata.pop("date_saved", None)
                content = json.dumps(metadata).encode()
            dateless.writestr(zipfile.ZipInfo(name), content)


def read_model(folder: Path, schema: Any) -> Network:
    """Load the model in `folder`. `schema` is the union of model configs.

    Raises UnsafeModel if a file does not come from this project: if possible, before Keras opens
    the file.
    """
    require_ours(folder / "model.keras")
    try:
        config = TypeAdapter(schema).validate_json((folder / "config.json").read_bytes())
        network: Network = config.load(folder / "model.keras")
        return network
    except (OSError, MemoryError, ImportError):
        raise
    except Exception as error:  # Keras raises anything for values that a class does not accept
        raise UnsafeModel(
            f"{folder}: model.keras and config.json do not describe a model of this project "
            f"({type(error).__name__}). Restore the files that `train` wrote: "
            f"`dvc checkout --force {folder}`."
        ) from error
