"""What a registered version holds: an MLflow model around the servable, and where it came from.

MLmodel, pyfunc.py, code/      how MLflow loads it
artifacts/servable/            what the stage `export` wrote
requirements.txt …             the packages that it runs with, pinned
input_example.json             two test images
provenance/                    model.keras, params.yaml, dvc.lock, metrics.json, curves.csv
scores.json                    what the gate measured on its own test data
SHA256SUMS                     of all the other files, as `sha256sum` writes them
"""

import hashlib
import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import yaml
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec

from latentworks import artifacts
from latentworks.errors import RegistryError
from latentworks.serving import pyfunc

PACKAGES = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow", "pydantic", "scipy")
SUMS = "SHA256SUMS"
PROVENANCE = "provenance"
SCORES = "scores.json"
# Written by MLflow beside what it downloads; no part of the version.
NOT_OURS = {"registered_model_meta"}


def assemble(
    folder: Path, servable: Path, provenance: list[Path], run_id: str, model_id: str
) -> None:
    """Write a model folder around the output of `export`; `seal` it when the scores are there."""
    (package,) = (servable / "code").iterdir()
    golden = artifacts.read_arrays(servable / "golden.npz")
    with tempfile.TemporaryDirectory() as temporary:
        entry = Path(temporary) / "pyfunc.py"
        text = Path(pyfunc.__file__).read_text(encoding="utf-8")
        text = re.sub(r"from latentworks\b", f"from {package.name}", text)
        entry.write_text(text, encoding="utf-8")
        files = Path(temporary) / "servable"
        shutil.copytree(servable, files, ignore=lambda _, names: {"code"} & set(names))
        mlflow.pyfunc.save_model(
            path=folder,
            python_model=str(entry),
            artifacts={"servable": str(files)},
            code_paths=[str(package)],
            pip_requirements=_requirements(),
            signature=ModelSignature(params=_params()),
            input_example=golden["0.input"][:2],
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )
    _forget_paths(folder / "MLmodel")
    (folder / PROVENANCE).mkdir()
    for file in provenance:
        shutil.copy(file, folder / PROVENANCE)


def _params() -> ParamSchema:
    """`None` for a param that was not given: each verb has its own default."""
    return ParamSchema(
        [
            ParamSpec("verb", "string", default="reconstruct"),
            ParamSpec("num", "long", default=None),
            ParamSpec("seed", "long", default=None),
        ]
    )


def _forget_paths(mlmodel: Path) -> None:
    """Make what MLflow wrote of this machine's folders relative: loading needs no more."""
    content = yaml.safe_load(mlmodel.read_text(encoding="utf-8"))
    flavor = content["flavors"]["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    mlmodel.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def seal(folder: Path) -> str:
    """Write SHA256SUMS and return its own SHA-256, which stands for the whole folder."""
    lines = [f"{artifacts.file_digest(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    return artifacts.file_digest(folder / SUMS)


def verify(folder: Path, digest: str, version: str) -> None:
    """Compare a folder with what `seal` returned for it, before anything in it is opened.

    Raises RegistryError naming the first file that differs.
    """
    cure = "Its files were changed after it was registered: register it again."
    sums = folder / SUMS
    if not sums.is_file() or artifacts.file_digest(sums) != digest:
        raise RegistryError(f"{version}: {SUMS} does not match the recorded sha256. {cure}")
    lines = sums.read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in sorted({*expected, *_names(folder)}):
        if name not in expected:
            raise RegistryError(f"{version}: {name} was not there when it was registered. {cure}")
        if not (folder / name).is_file():
            raise RegistryError(f"{version}: {name} is missing. {cure}")
        if artifacts.file_digest(folder / name) != expected[name]:
            raise RegistryError(f"{version}: {name} does not match its sha256. {cure}")


def wrapping_digest() -> str:
    """The SHA-256 of what is put around a servable: MLflow's entry and the pinned packages."""
    text = Path(pyfunc.__file__).read_text(encoding="utf-8") + "\n".join(_requirements())
    return hashlib.sha256(text.encode()).hexdigest()


def _requirements() -> list[str]:
    return [f"{name}=={version(name)}" for name in PACKAGES]


def content_digest(folder: Path) -> str:
    """The SHA-256 of the names and contents of all files in a folder."""
    lines = [f"{artifacts.file_digest(folder / name)}  {name}\n" for name in _names(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _names(folder: Path) -> list[str]:
    files = (file for file in folder.rglob("*") if file.is_file() or file.is_symlink())
    names = {file.relative_to(folder).as_posix() for file in files}
    return sorted(names - NOT_OURS - {SUMS})
