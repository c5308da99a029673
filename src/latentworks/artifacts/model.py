"""The files between stages: one `write_x` and one `read_x` for every arrow in dvc.yaml.

A file or folder is written under a temporary name, flushed to disk and renamed, so that it
appears whole or not at all. None holds a time, a host or a path: equal inputs give equal bytes.
"""

import json
import zipfile
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter

from latentworks.artifacts.keras_file import require_ours
from latentworks.errors import UnsafeModel
from latentworks.system import disk


class Saveable(Protocol):
    """What a Keras model offers."""

    def save(self, filepath: str | Path) -> None: ...


def write_model(folder: Path, model: Saveable, config: BaseModel) -> None:
    """`model.keras` and the config that knows how to load it."""
    unsettled = folder / "dated.keras"
    model.save(unsettled)
    _write_without_dates(unsettled, folder / "model.keras")
    unsettled.unlink()
    disk.write_json(folder / "config.json", config.model_dump(mode="json"))


def _write_without_dates(source: Path, target: Path) -> None:
    """Copy a `.keras` file, a zip, without the dates that make two equal models differ."""
    with zipfile.ZipFile(source) as dated, zipfile.ZipFile(target, "w") as dateless:
        for name in sorted(dated.namelist()):
            content = dated.read(name)
            if name == "metadata.json":
                metadata = json.loads(content)
                metadata.pop("date_saved", None)
                content = json.dumps(metadata).encode()
            dateless.writestr(zipfile.ZipInfo(name), content)


def read_model(folder: Path, schema: Any) -> Any:
    """The model in `folder`; `schema` is the union of model configs.

    Raises UnsafeModel where a file is not one of ours: before Keras opens it, as far as it shows.
    """
    require_ours(folder / "model.keras")
    try:
        config = TypeAdapter(schema).validate_json((folder / "config.json").read_bytes())
        return config.load(folder / "model.keras")
    except (OSError, MemoryError, ImportError):
        raise
    except Exception as error:  # what Keras raises for values that our classes cannot have
        raise UnsafeModel(
            f"{folder}: model.keras and config.json do not describe a model of ours "
            f"({type(error).__name__}). Bring back what `train` wrote: "
            f"`dvc checkout --force {folder}`."
        ) from error
