"""The arrows: what may import what, and that dvc.yaml names the code a stage really runs."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from latentworks import repository

SRC = ROOT / "src"
STAGES = repository.stages(ROOT)

# Code that a stage runs and that cannot change a byte of its outs.
WITHOUT_EFFECT = {
    "latentworks",  # a docstring
    "latentworks.locks",  # who works at what
    "latentworks.processes",  # who ends with whom
    "latentworks.errors",  # only how a failure is worded
    "latentworks.stages",  # only how a failure is shown
    "latentworks.records",  # time and memory, beside the outs
    "latentworks.repository",  # what git says, for the records
    "latentworks.tracking",  # a view of the outs
    "latentworks.live",
    "latentworks.tracking_store",
}
LIVE_PICTURES = {"train": {"latentworks.plots"}}  # shown in MLflow while it trains


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that a module of ours names anywhere in its code, ours with full names."""
    found = set()
    for node in ast.walk(ast.parse(file_of(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            found |= {node.module}
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in names if exists(name)}
    return frozenset(found)


def file_of(module: str) -> Path:
    path = SRC / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def exists(module: str) -> bool:
    return module.startswith("latentworks") and file_of(module).is_file()


def ours(module: str) -> set[str]:
    """What a module imports of ours, with the packages around it."""
    direct = {name for name in imports(module) if exists(name)}
    return direct | {name.rpartition(".")[0] for name in direct} - {""}


def closure(module: str, without: set[str]) -> set[str]:
    """`module` and all of ours that it imports, directly or through others."""
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in without:
            seen.add(name)
            waiting |= ours(name)
    return seen


def code_deps(stage: str) -> list[Path]:
    deps = repository.paths(STAGES[stage]["deps"])
    return [Path(dep) for dep in deps if dep.startswith("src/")]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_code_that_the_stage_runs(stage: str) -> None:
    without = WITHOUT_EFFECT | LIVE_PICTURES.get(stage, set())
    run = {
        file_of(name).relative_to(ROOT) for name in closure(f"latentworks.stages.{stage}", without)
    }
    deps = code_deps(stage)
    unnamed = {file for file in run if not any(file.is_relative_to(dep) for dep in deps)}
    assert not unnamed, f"add to deps of {stage}: {sorted(map(str, unnamed))}"
    needless = [dep for dep in deps if not any(file.is_relative_to(dep) for file in run)]
    assert not needless, f"remove from deps of {stage}: {sorted(map(str, needless))}"


def test_an_edit_in_a_sampler_never_retrains() -> None:
    for stage in ("fetch", "prepare", "train", "encode"):
        assert not any("samplers" in dep.parts for dep in code_deps(stage))
    assert Path("src/latentworks/samplers") in code_deps("sample")


def test_models_are_compared_in_one_network() -> None:
    """It does not depend on the model, its seed, or the code that trains it."""
    stage = STAGES["features"]
    assert "params" not in stage
    assert [dep for dep in stage["deps"] if not dep.startswith("src/")] == ["data/prepared"]
    foreign = ("models", "training.py", "metrics")
    assert not any(set(dep.parts) & set(foreign) for dep in code_deps("features"))


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_that_the_stage_reads(stage: str) -> None:
    module = importlib.import_module(f"latentworks.stages.{stage}")
    read = set(module.Params.model_fields) if hasattr(module, "Params") else set()
    assert read == set(STAGES[stage].get("params", []))


@pytest.mark.parametrize("stage", STAGES)
def test_command_runs_the_stage_of_this_checkout_on_its_own_paths(stage: str) -> None:
    written = STAGES[stage]
    words = written["cmd"].split()
    started = ["PYTHONPATH=src", "exec", "python", "-m", f"latentworks.stages.{stage}"]
    assert words[:5] == started
    assert "${" not in written["cmd"]
    known = repository.paths([*written["deps"], *written["outs"], *written.get("metrics", ())])
    around = {*known, *(str(Path(path).parent) for path in known)}
    assert set(words[5:]) <= around


def test_every_stage_file_is_a_stage() -> None:
    files = sorted((SRC / "latentworks/stages").glob("[!_]*.py"))
    assert {file.stem for file in files} == set(STAGES)


def packages(module: str) -> set[str]:
    """The libraries that a module imports itself."""
    standard = sys.stdlib_module_names
    return {name.split(".")[0] for name in imports(module)} - standard - {"latentworks"}


def modules(*folders: str) -> list[str]:
    files = [file for folder in folders for file in sorted((SRC / "latentworks").glob(folder))]
    names = [".".join(file.relative_to(SRC).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("module", modules("models/*.py"))
def test_models_are_keras_alone(module: str) -> None:
    allowed = {"pydantic"} if module.endswith("config") else {"keras"}
    assert packages(module) <= allowed


PURE = {
    "features": {"keras", "numpy", "sklearn", "threadpoolctl"},
    "metrics": {"numpy", "scipy", "skimage", "sklearn"},
}


@pytest.mark.parametrize("noun", PURE)
def test_what_compares_images_knows_itself_alone(noun: str) -> None:
    for module in modules(f"{noun}/*.py"):
        assert packages(module) <= PURE[noun], module
        strangers = {name for name in ours(module) if noun not in name.split(".")}
        assert strangers <= {"latentworks", "latentworks.errors"}, module


@pytest.mark.parametrize("module", modules("*/config.py"))
def test_a_config_needs_pydantic_alone(module: str) -> None:
    tree = ast.parse(file_of(module).read_text())
    body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module for node in body if isinstance(node, ast.ImportFrom) and node.module}
    others = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"latentworks"}
    assert others <= {"pydantic"}


NOUNS = ("datasets", "models", "samplers")
FORBIDDEN: dict[str, set[str]] = {
    **{f"{noun}/*.py": {"mlflow", "prefect", "dvc"} for noun in NOUNS},
    "preprocess.py": {"mlflow", "prefect", "tensorflow", "keras"},
    "metrics/*.py": {"mlflow", "prefect", "tensorflow", "keras"},
    "promotion.py": {"mlflow", "prefect", "tensorflow", "keras"},
    "drift.py": {"mlflow", "prefect", "tensorflow", "keras", "matplotlib"},
    "scoring.py": {"mlflow", "prefect", "tensorflow", "keras", "onnxruntime"},
    "plots/*.py": {"mlflow", "prefect", "tensorflow", "keras"},
    "stages/*.py": {"prefect", "dvc", "mlflow"},
    "*.py": {"prefect", "dvc"},
}


@pytest.mark.parametrize(("folder", "forbidden"), FORBIDDEN.items())
def test_libraries_stay_in_their_rooms(folder: str, forbidden: set[str]) -> None:
    for module in modules(folder):
        assert not packages(module) & forbidden, module


MLFLOW = {  # the doors to it
    "latentworks.decisions",
    "latentworks.local_store",
    "latentworks.registry_store",
    "latentworks.serving.packaging",
    "latentworks.serving.preflight",
    "latentworks.serving.pyfunc",
    "latentworks.tracking_store",
    "latentworks.version_files",
    "latentworks.versions",
}


def test_mlflow_is_behind_its_doors() -> None:
    assert {name for name in modules("*.py", "*/*.py") if "mlflow" in packages(name)} == MLFLOW


def pipeline_imports() -> set[str]:
    """What the modules of pipeline/ name anywhere in their code."""
    found: set[str] = set()
    for file in (ROOT / "pipeline").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_pipeline_is_prefect_and_doors_without_keras() -> None:
    named = pipeline_imports()
    libraries = {name.split(".")[0] for name in named} - sys.stdlib_module_names
    assert libraries == {"latentworks", "pipeline", "prefect", "ruamel", "typer"}
    doors = {name for name in named if exists(name)}
    needed = set().union(*(packages(each) for door in doors for each in closure(door, set())))
    assert not needed & {"keras", "tensorflow", "tf2onnx"}


def test_the_stages_are_named_in_dvc_yaml_alone() -> None:
    """The pipeline has their order from DVC; one is named for what it does on the network."""
    for file in (ROOT / "pipeline").glob("*.py"):
        strings = {
            node.value
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert strings & set(STAGES) <= ({"fetch"} if file.stem == "retraining" else set()), file


def test_a_servable_runs_on_little() -> None:
    """What travels with a version needs neither training nor tracking libraries."""
    shipped = closure("latentworks.serving.servable", set())
    needed = set().union(*(packages(name) for name in shipped))
    fitted = {"sklearn"}  # imported by `fit` alone
    assert needed - fitted == {"numpy", "onnxruntime", "PIL", "pydantic", "scipy"}


def test_the_server_starts_without_what_takes_long_to_import() -> None:
    """TensorFlow is never in its process; MLflow is in another one, which watches the registry."""
    started = closure("latentworks.server.run", set()) | closure("latentworks.connection", set())
    needed = set().union(*map(packages, started))
    assert not needed & {"keras", "tensorflow", "tf2onnx", "mlflow", "pandas", "pyarrow"}


LEFT_OUT = """
import sys
import latentworks.backend
assert not {"sklearn", "matplotlib.pyplot"} & set(sys.modules)
import matplotlib.pyplot, sklearn
"""


def test_keras_starts_without_what_is_not_used() -> None:
    """And without a word. It can be imported later."""
    done = subprocess.run([sys.executable, "-c", LEFT_OUT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_who_fetches_for_the_server_needs_little() -> None:
    needed = set().union(*map(packages, closure("latentworks.server.fetching", set())))
    assert needed == {"mlflow", "numpy", "sqlalchemy"}


def test_the_registry_needs_no_keras() -> None:
    """The pipeline imports it, and a scheduler should not carry TensorFlow."""
    needed = set().union(*(packages(name) for name in closure("latentworks.registry", set())))
    assert not needed & {"keras", "tensorflow", "tf2onnx", "matplotlib"}


@pytest.mark.parametrize("noun", NOUNS)
def test_nouns_do_not_know_one_another_nor_stages_nor_doors(noun: str) -> None:
    allowed = {f"latentworks.{noun}", "latentworks.errors", "latentworks.config", "latentworks"}
    allowed.add("latentworks.processes")  # so that what one starts ends with it
    for module in modules(f"{noun}/*.py"):
        strangers = {
            n
            for n in ours(module)
            if not any(n == a or (n.startswith(f"{a}.") and a != "latentworks") for a in allowed)
        }
        assert not strangers, (module, strangers)


def test_stages_do_not_import_one_another() -> None:
    for stage in STAGES:
        others = {f"latentworks.stages.{other}" for other in STAGES} - {stage}
        assert not ours(f"latentworks.stages.{stage}") & others


def test_every_path_of_an_output_is_written_in_dvc_yaml_alone() -> None:
    outs: list[Any] = [out for stage in STAGES.values() for out in stage["outs"]]
    for module in modules("*.py", "*/*.py"):
        strings = {
            node.value
            for node in ast.walk(ast.parse(file_of(module).read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & set(repository.paths(outs)), module
