"""Rooms import rooms of earlier lines, libraries stay in their rooms, and dvc.yaml names the code
that each stage runs."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from checkouts import ROOT
from latentworks.repository import dag
from latentworks.tracking.runs import SHOWN
from rooms import DOC, END, SRC, START, exists, file_of, imports, modules, room_of, table

STAGES = dag.stages(ROOT)

# A room imports itself and rooms of earlier lines. Rooms of one line do not import each other.
LINES = (
    ("errors", "config", "grid"),
    ("preprocess", "quantization", "metrics", "plots", "system"),
    ("params", "models", "samplers", "priors"),
    ("datasets", "engine", "artifacts", "repository"),
    ("evaluation", "promotion", "tracking", "integrity"),
    ("runner", "serving"),
    ("stages", "registry"),
    ("monitoring", "server", "results"),
    ("advice", "sections"),
    ("doctor", "project", "sweep"),
    ("cli", "pipeline"),
)
LEVEL = {room: level for level, line in enumerate(LINES) for room in line}

# The rooms, folders of rooms, or modules that may import a library. Any module may import a library
# that is not listed.
LIBRARIES = {
    "dvc": (),  # DVC is run as a command
    "prefect": ("pipeline",),
    "mlflow": (
        *("tracking", "registry"),
        *("serving.packaging", "serving.preflight", "serving.pyfunc"),
    ),
    "tensorflow": ("engine.backend",),
    "keras": ("models", "priors", "engine", "evaluation.features"),
    "tf2onnx": ("engine.onnx_file",),
    "onnx": ("engine.onnx_file",),
    "onnxruntime": ("serving.servable", "samplers.learned"),
    "matplotlib": ("plots", "evaluation.pictures"),
    "skimage": ("metrics", "plots"),
    "sklearn": ("metrics", "samplers", "evaluation.features"),
    "scipy": ("metrics", "samplers", "monitoring.drift"),
    "pandas": ("datasets", "artifacts", "plots", "serving.pyfunc", "stages"),
    "pyarrow": ("artifacts", "datasets.parquet"),
    "h5py": ("artifacts", "datasets.hdf5"),
    "ruamel": ("params", "repository", "runner", "pipeline"),
    "configobj": ("repository",),
    "optuna": ("sweep.search",),
    "psutil": ("repository", "runner", "system.memory"),
    "copier": ("project.template",),
    "plumbum": ("project.template",),
    "requests": ("datasets",),
    "fastapi": ("server",),
    "starlette": ("server",),
    "uvicorn": ("server",),
    "prometheus_client": ("server",),
    "orjson": ("server",),
    "sqlalchemy": ("tracking.bounded", "tracking.faults"),
    "cryptography": ("registry.signatures",),
    "typer": ("cli", "pipeline"),
}


# --- modules and their imports -------------------------------------------------------------------


MODULES = modules()


@cache
def is_empty(module: str) -> bool:
    """True if a module has no code besides its docstring."""
    body = ast.parse(file_of(module).read_text()).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


@cache
def ours(module: str) -> frozenset[str]:
    """The project's modules that a module imports, with the packages around them."""
    direct = {name for name in imports(module) if exists(name)}
    around = {
        name.rsplit(".", depth)[0] for name in direct for depth in range(1, name.count(".") + 1)
    }
    return frozenset(name for name in direct | around if not is_empty(name))


def closure(module: str, without: tuple[str, ...] = ()) -> set[str]:
    """`module` and the project's modules that `module` imports, directly or through others."""
    seen: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        if name not in seen and not is_in(name, without):
            seen.add(name)
            waiting |= ours(name)
    return seen


def is_in(module: str, places: tuple[str, ...]) -> bool:
    """True if a module is a place or inside a place. Places are named without `latentworks.`."""
    inner = module.removeprefix("latentworks.")
    return any(inner == place or inner.startswith(f"{place}.") for place in places)


@cache
def libraries(module: str) -> frozenset[str]:
    """The libraries that a module imports directly."""
    standard = sys.stdlib_module_names
    named = frozenset(name.split(".")[0] for name in imports(module))
    return named - standard - {"latentworks", "pipeline"}


def needed(*names: str) -> set[str]:
    """The libraries that modules import, directly or through the project's other modules."""
    return {each for name in names for module in closure(name) for each in libraries(module)}


# --- the two tables ------------------------------------------------------------------------------


def test_every_room_is_in_the_table_of_lines() -> None:
    assert {room_of(module) for module in MODULES} - {"latentworks"} == set(LEVEL)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "latentworks"])
def test_rooms_import_rooms_of_earlier_lines(module: str) -> None:
    room = room_of(module)
    others = {name for name in ours(module) if room_of(name) not in (room, "latentworks")}
    wrong = {name for name in others if LEVEL[room_of(name)] >= LEVEL[room]}
    assert not wrong, f"{room} is on the line of these rooms, or before it"


def test_modules_have_no_circular_imports() -> None:
    """Imports inside functions count. The package around a module does not count."""
    imported = {module: {name for name in imports(module) if exists(name)} for module in MODULES}
    TopologicalSorter(imported).prepare()  # raises CycleError


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_in_its_rooms_alone(library: str) -> None:
    wrong = {
        module
        for module in MODULES
        if library in libraries(module) and not is_in(module, LIBRARIES[library])
    }
    assert not wrong


def test_the_table_of_rooms_in_contributing_agrees_with_the_imports() -> None:
    assert f"{START}\n\n{table()}\n\n{END}" in DOC.read_text(encoding="utf-8")


# Modules that do more than define names when they are imported.
ACTIVE = {
    "latentworks.cli",  # adds the commands of `latentworks keys`
    "latentworks.engine.backend",
    "latentworks.system.processes",
    "pipeline",
    "pipeline.retraining",
    "latentworks.stages.__main__",  # a program
    "latentworks.serving.pyfunc",  # MLflow runs it as a script
}


def test_an_import_only_defines_names_except_in_listed_modules() -> None:
    assert {module for module in MODULES if acts_at_import(module)} == ACTIVE


def acts_at_import(module: str) -> bool:
    """True if a module calls a function for its effect, or branches, outside its functions."""
    return any(map(_acts, ast.parse(file_of(module).read_text()).body))


def _acts(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value):
            return not isinstance(value, ast.Constant)  # a docstring
        case ast.Assign(targets):
            return any(isinstance(each, ast.Attribute | ast.Subscript) for each in targets)
        case ast.AnnAssign(target) | ast.AugAssign(target):
            return not isinstance(target, ast.Name)
        case ast.If(test):
            return ast.unparse(test) not in ("TYPE_CHECKING", "__name__ == '__main__'")
        case _:
            defines = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef
            return not isinstance(node, defines | ast.ClassDef)


# --- pure rooms and configs ----------------------------------------------------------------------

PURE = {  # rooms, and the only libraries that they may import
    "models": {"keras", "numpy", "pydantic"},
    "priors": {"keras", "numpy", "threadpoolctl", "pydantic"},
    "metrics": {"numpy", "scipy", "skimage", "sklearn"},
    "samplers": {"numpy", "scipy", "sklearn", "threadpoolctl", "pydantic", "onnxruntime"},
    "plots": {"numpy", "pandas", "matplotlib", "skimage", "PIL"},
    "evaluation.features": {"keras", "numpy", "sklearn", "threadpoolctl"},
    "promotion.decision": {"numpy", "pydantic"},
    "monitoring.drift": {"numpy", "pydantic", "scipy"},
}


@pytest.mark.parametrize("place", PURE)
def test_a_pure_room_imports_its_listed_libraries_alone(place: str) -> None:
    inside = [module for module in MODULES if is_in(module, (place,))]
    assert inside
    for module in inside:
        assert libraries(module) <= PURE[place], module


@pytest.mark.parametrize("module", [name for name in MODULES if name.endswith(".config")])
def test_a_config_module_imports_pydantic_alone(module: str) -> None:
    """The methods of a config import the implementation when they are called."""
    body = ast.parse(file_of(module).read_text()).body
    names = {node.module for node in body if isinstance(node, ast.ImportFrom) and node.module}
    others = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"latentworks"}
    assert others <= {"pydantic"}


# --- dvc.yaml ------------------------------------------------------------------------------------

# Code that a stage runs and that cannot change a byte of the outs: messages, locks, processes,
# timings, and MLflow, which shows the outs.
WITHOUT_EFFECT = (
    *("errors", "repository", "tracking"),
    *("system.locks", "system.parent", "system.processes", "system.progress", "system.state"),
)
LIVE_PICTURES = {"train": ("plots",)}  # shown in MLflow during training


def code_deps(stage: str) -> list[Path]:
    deps = dag.paths(STAGES[stage]["deps"])
    return [Path(dep) for dep in deps if dep.startswith("src/")]


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_deps_of_a_stage_are_the_code_that_the_stage_runs(stage: str) -> None:
    without = WITHOUT_EFFECT + LIVE_PICTURES.get(stage, ())
    run = {
        file_of(name).relative_to(ROOT) for name in closure(f"latentworks.stages.{stage}", without)
    }
    deps = code_deps(stage)
    unnamed = {file for file in run if not any(file.is_relative_to(dep) for dep in deps)}
    assert not unnamed, f"add to deps of {stage}: {sorted(map(str, unnamed))}"
    needless = [dep for dep in deps if not any(file.is_relative_to(dep) for file in run)]
    assert not needless, f"remove from deps of {stage}: {sorted(map(str, needless))}"


def test_an_edit_of_a_sampler_does_not_retrain_the_model() -> None:
    for stage in ("fetch", "prepare", "train", "encode"):
        assert not any("samplers" in dep.parts for dep in code_deps(stage))
    assert Path("src/latentworks/samplers") in code_deps("sample")


def test_the_feature_network_does_not_depend_on_the_model() -> None:
    """Models of every kind, seed and training code are compared in the same network."""
    stage = STAGES["features"]
    assert "params" not in stage
    assert [dep for dep in stage["deps"] if not dep.startswith("src/")] == ["data/prepared"]
    run = closure("latentworks.stages.features", WITHOUT_EFFECT)
    assert not {name for name in run if is_in(name, ("models", "engine.training", "metrics"))}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_lists_the_sections_of_params_that_a_stage_reads(stage: str) -> None:
    module = importlib.import_module(f"latentworks.stages.{stage}")
    read = set(module.Params.model_fields) if hasattr(module, "Params") else set()
    assert read == set(STAGES[stage].get("params", []))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_command_runs_the_code_of_the_checkout_on_listed_paths(stage: str) -> None:
    written = STAGES[stage]
    words = written["cmd"].split()
    started = ["PYTHONPATH=src", "exec", "python", "-m", "latentworks.stages", stage]
    assert words[:6] == started
    assert "${" not in written["cmd"]
    known = [*dag.paths(written["deps"]), *dag.outs_of(written)]
    around = {*known, *(str(Path(path).parent) for path in known)}
    assert set(words[6:]) <= around


def test_every_module_in_stages_is_a_stage_of_dvc_yaml() -> None:
    files = sorted((SRC / "latentworks/stages").glob("[!_]*.py"))
    assert {file.stem for file in files} == set(STAGES)


def test_stages_do_not_import_one_another() -> None:
    for stage in STAGES:
        others = {f"latentworks.stages.{other}" for other in STAGES} - {stage}
        assert not ours(f"latentworks.stages.{stage}") & others


def strings(module: str) -> set[str]:
    """The string constants in the code of a module."""
    nodes = ast.walk(ast.parse(file_of(module).read_text()))
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return {value for value in constants if isinstance(value, str)}


def test_the_paths_of_outs_are_written_in_dvc_yaml_alone() -> None:
    outs = [out for stage in STAGES.values() for out in dag.outs_of(stage)]
    for module in MODULES:
        assert not strings(module) & set(outs), module


def test_outs_have_the_names_by_which_the_code_knows_them() -> None:
    names = [Path(out).stem for stage in STAGES.values() for out in dag.outs_of(stage)]
    assert len(names) == len(set(names))
    known = {"prepared", "autoencoder", "sampler", "samples", "metrics", "figures", "servable"}
    assert known | set(SHOWN) <= set(names)


def test_the_pipeline_names_no_stage_but_fetch() -> None:
    """The stages come from dvc.yaml. `fetch` is named because it uses the network."""
    for module in MODULES:
        if room_of(module) == "pipeline":
            allowed = {"fetch"} if module == "pipeline.retraining" else set()
            assert strings(module) & set(STAGES) <= allowed, module


# --- imports of each program ---------------------------------------------------------------------

TENSORFLOW = {"keras", "tensorflow", "tf2onnx"}


def test_the_pipeline_imports_prefect_and_never_keras() -> None:
    named = set().union(*(libraries(name) for name in MODULES if room_of(name) == "pipeline"))
    assert named == {"prefect", "ruamel", "typer"}
    assert not needed(*(name for name in MODULES if room_of(name) == "pipeline")) & TENSORFLOW


def test_a_servable_needs_few_libraries() -> None:
    """The code that travels with a version needs neither training nor tracking libraries."""
    fitted = {"sklearn", "threadpoolctl"}  # imported by `fit` alone
    found = needed("latentworks.serving.servable") - fitted
    assert found == {"numpy", "onnxruntime", "PIL", "pydantic", "scipy"}


def test_the_server_starts_without_libraries_that_import_slowly() -> None:
    """The server never imports TensorFlow. MLflow is in the process that watches the registry."""
    found = needed("latentworks.server.run", "latentworks.tracking.uri")
    assert not found & (TENSORFLOW | {"mlflow", "pandas", "pyarrow"})


def test_the_watcher_of_the_registry_needs_few_libraries() -> None:
    found = needed("latentworks.server.watcher")
    assert found == {"mlflow", "numpy", "sqlalchemy", "cryptography"}


def test_the_registry_needs_no_keras() -> None:
    """The pipeline imports the registry, and a scheduler should not carry TensorFlow."""
    assert not needed("latentworks.registry.registry") & (TENSORFLOW | {"matplotlib"})


LEFT_OUT = """
import sys
import latentworks.engine.backend
assert not {"sklearn", "matplotlib.pyplot"} & set(sys.modules)
import matplotlib.pyplot, sklearn
"""


def test_keras_is_imported_without_unused_libraries() -> None:
    """The import prints nothing, and the libraries can be imported later."""
    done = subprocess.run([sys.executable, "-c", LEFT_OUT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
