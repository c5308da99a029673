"""The model folder of a registered version: an MLflow model around the servable, and its origin.

MLmodel, pyfunc.py, code/      the entry and the code that MLflow loads
artifacts/servable/            the servable that the stage `export` wrote
requirements.txt …             the packages that the servable needs, pinned
input_example.json             two test images
provenance/                    model.keras, params.yaml, dvc.lock, metrics.json, curves.csv
scores.json                    the scores that the gate measured on the version's test images
SHA256SUMS                     checksums of all other files, in the format of `sha256sum`
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

from latentworks.serving import pyfunc
from latentworks.system import disk

PACKAGES = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow", "pydantic", "scipy")
PROVENANCE = "provenance"
SCORES = "scores.json"


def assemble(
    folder: Path, servable: Path, provenance: list[Path], run_id: str, model_id: str
) -> None:
    """Write a model folder around a servable. Call `seal` after scores.json is written, too."""
    (package,) = (servable / "code").iterdir()
    golden = disk.read_arrays(servable / "golden.npz")
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
    """The params of `predict`. The default None stands for the default of the verb."""
    return ParamSchema(
        [
            ParamSpec("verb", "string", default="reconstruct"),
            ParamSpec("num", "long", default=None),
            ParamSpec("seed", "long", default=None),
            ParamSpec("label", "string", default=None),
            ParamSpec("prepared", "boolean", default=None),
            ParamSpec("guidance", "double", default=None),
            ParamSpec("temperature", "double", default=None),
        ]
    )


def _forget_paths(mlmodel: Path) -> None:
    """Make the paths in MLmodel relative. Loading does not need this machine's folders."""
    content = yaml.safe_load(mlmodel.read_text(encoding="utf-8"))
    flavor = content["flavors"]["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    mlmodel.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def wrapping_digest() -> str:
    """Return the SHA-256 of the parts around a servable: pyfunc.py and the pinned packages."""
    text = Path(pyfunc.__file__).read_text(encoding="utf-8") + "\n".join(_requirements())
    return hashlib.sha256(text.encode()).hexdigest()


def _requirements() -> list[str]:
    return [f"{name}=={version(name)}" for name in PACKAGES]
