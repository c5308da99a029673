"""docker/: the packages in the images; compose.yaml holds no secret and asks for each."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_structure import needed

from checkouts import ROOT

DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
TEXT = (ROOT / "docker/compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
OURS = {name: each for name, each in SERVICES.items() if each["image"].startswith("latentworks")}


# --- packages in the images ----------------------------------------------------------------------

HEAVY = {"tensorflow", "tensorflow-cpu", "keras", "pandas", "pyarrow", "dvc", "prefect", "mlflow"}
FASTER = {"httptools", "uvloop"}  # uvicorn uses them where they are installed
FITTED = {"scikit-learn", "threadpoolctl"}  # imported by `fit` alone
OPTIONAL_PARTS = {"setuptools", "ruamel-yaml-clib"}  # imported where they are installed
PROCESSES = ("run", "watcher", "trial")  # the processes of the server


def pinned(lock: str) -> dict[str, set[str]]:
    """The versions of each package in a lock. Some packages have a version for each Python."""
    found: dict[str, set[str]] = {}
    text = (ROOT / "requirements" / lock).read_text()
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def distributions(modules: set[str]) -> set[str]:
    """The packages that hold these modules. Of the packages of MLflow, only the client counts."""
    known = packages_distributions()
    found = {canonicalize_name(name) for module in modules for name in known.get(module, ())}
    return found - {"mlflow", "mlflow-tracing", "latentworks"}


def test_the_serving_image_has_the_packages_that_the_server_imports() -> None:
    imported = needed(*(f"latentworks.server.{each}" for each in PROCESSES))
    required = distributions(imported) - FITTED
    call = [sys.executable, "-c", "import sys, latentworks.cli; print(*sys.modules)"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    command = distributions({name.split(".")[0] for name in done.stdout.split()}) - OPTIONAL_PARTS
    lines = (ROOT / "requirements/serve.in").read_text().splitlines()
    words = [line.split(" #")[0] for line in lines if not line.startswith("#")]
    asked = {canonicalize_name(Requirement(word).name) for word in words}
    assert required <= asked
    assert asked <= required | command | FASTER
    assert command <= set(pinned("serve.txt"))


def test_the_serving_image_has_no_training_packages() -> None:
    assert not HEAVY & set(pinned("serve.txt"))


@pytest.mark.parametrize("lock", ["serve.txt", "train.txt"])
def test_an_image_has_the_tested_versions_of_packages(lock: str) -> None:
    tested = pinned("latentworks.txt")
    assert {name: tested.get(name) for name in pinned(lock)} == pinned(lock)


def test_the_training_image_has_no_test_tools() -> None:
    assert not {"pytest", "mypy", "moto", "selenium"} & set(pinned("train.txt"))
    assert set(pinned("train.txt")) >= HEAVY - {"tensorflow-cpu"} | {"psycopg2-binary", "boto3"}


def test_every_installed_package_is_pinned_by_hash() -> None:
    calls = re.findall(r"pip install .+", DOCKERFILE)
    ours = [call for call in calls if call.endswith(("/project", "/source"))]
    others = [call for call in calls if call not in ours]
    assert ours
    assert others
    assert all("--no-deps" in call for call in ours)
    assert all("--require-hashes" in call for call in others)
    assert "UV_BUILD_CONSTRAINT=/requirements/latentworks.txt" in DOCKERFILE


@pytest.mark.parametrize("target", ["train", "serve"])
def test_an_image_runs_without_root_and_receives_signals(target: str) -> None:
    stage = DOCKERFILE.partition(f"AS {target}\n")[2].partition("\nFROM ")[0]
    assert re.findall(r"^USER (.+)$", stage, flags=re.MULTILINE) == ["10001:10001"]
    calls = re.findall(r"^(?:CMD|ENTRYPOINT) (.+)$", stage, flags=re.MULTILINE)
    assert calls
    assert all(isinstance(json.loads(call), list) for call in calls)


def test_git_works_only_in_a_clone_of_the_user_of_the_container() -> None:
    assert "safe.directory" not in DOCKERFILE


# --- compose.yaml --------------------------------------------------------------------------------

VARIABLE = re.compile(r"\$\{(\w+)(:[?-])([^}]*)\}")
OPTIONAL = {"PROJECT", "PROJECT_UID", "PROJECT_GID", "KEYS", "WORKER_MEMORY"}
SECRET = re.compile(r"PASSWORD|SECRET|AUTH(?!_CONFIG_PATH)|TOKEN")


def test_compose_yaml_requires_every_password_and_contains_none() -> None:
    variables = VARIABLE.findall(TEXT)
    assert len(variables) == TEXT.count("$")  # each has a default, or a message if it is not set
    assert {name for name, kind, _ in variables if kind == ":-"} == OPTIONAL
    assert all(f"set {name} in docker/.env" == said for name, kind, said in variables
               if kind == ":?")  # fmt: skip
    secrets = [
        VARIABLE.sub("", value)
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if SECRET.search(name)
    ]
    assert len(secrets) >= 16
    assert set(secrets) == {"", "latentworks:"}  # the rest is the name of a user
    assert not re.search(r"//[^/\s]+:[^/\s]+@", TEXT)


def test_the_example_env_file_has_all_names_and_no_values() -> None:
    lines = (ROOT / "docker/.env.example").read_text().splitlines()
    assignments = [line.removeprefix("#") for line in lines if re.match(r"#?[A-Z_]+=", line)]
    assert all(line.endswith("=") for line in assignments)
    asked = {name for name, _, _ in VARIABLE.findall(TEXT)}
    assert {line.removesuffix("=") for line in assignments} == asked
    ignored = ["git", "check-ignore", "--quiet", "docker/.env"]
    assert subprocess.run(ignored, cwd=ROOT).returncode == 0


def test_the_deployment_page_sets_every_password(tmp_path: Path) -> None:
    """The test runs the lines of docs/deployment.md up to the first that needs Docker."""
    page = (ROOT / "docs/deployment.md").read_text()
    lines = [line.removeprefix("$ ") for line in page.splitlines() if line.startswith("$ ")]
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    for file in (tmp_path / "docker").iterdir():
        file.chmod(file.stat().st_mode & 0o700)  # as in a clone with umask 077
    script = "\n".join(lines[: lines.index("cd docker")])
    home = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=home, check=True)
    assert (tmp_path / ".config/latentworks/keys").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / ".config/latentworks/keys/trusted").is_dir()
    for name, service in SERVICES.items():
        for mount in map(str, service.get("volumes", ())):
            if mount.startswith("./"):  # the containers read these files as other users
                mode = (tmp_path / "docker" / mount.split(":")[0]).stat().st_mode
                assert mode & 0o077 == (0o055 if mode & 0o100 else 0o044), (name, mount)
    assert (tmp_path / "docker/.env").stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "docker/.env").read_text()
    passwords = re.findall(r"^[A-Z_]+(?:PASSWORD|KEY)=([0-9a-f]{48})$", text, flags=re.MULTILINE)
    assert len(set(passwords)) == 9
    assert not re.search(r"^[A-Z_]+=$", text, flags=re.MULTILINE)
    assert f"PROJECT_UID={os.getuid()}\n" in text


def test_each_service_has_the_login_of_mlflow_that_it_needs() -> None:
    users: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        given = service.get("environment", {})
        if "MLFLOW_TRACKING_URI" in given:
            users.setdefault(given["MLFLOW_TRACKING_USERNAME"], set()).add(name)
            variable = f"MLFLOW_{given['MLFLOW_TRACKING_USERNAME'].upper()}_PASSWORD"
            assert variable in given["MLFLOW_TRACKING_PASSWORD"]
    assert users == {"admin": {"login"}, "worker": {"deploy", "worker"}, "serve": {"serve"}}
    assert "MLFLOW_ADMIN_PASSWORD" not in str(SERVICES["worker"]) + str(SERVICES["serve"])


def test_the_private_key_is_in_the_worker_alone() -> None:
    mounts = {
        name: [(each["source"], each.get("read_only", False)) for each in service["volumes"]
               if isinstance(each, dict)]
        for name, service in SERVICES.items() if "KEYS" in str(service.get("volumes"))
    }  # fmt: skip
    folder = "${KEYS:-~/.config/latentworks/keys}"
    assert mounts == {"worker": [(folder, False)], "serve": [(f"{folder}/trusted", True)]}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_privileges(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)
    assert ":" in service["image"] or name in OURS
    assert name == "postgres" or service["read_only"]
    assert service["mem_limit"]
    assert service["pids_limit"] <= 4096
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    on_the_outside = "ports" in service or "stores" not in service.get("networks", ())
    assert on_the_outside or service["networks"] == ["stores"]


def test_mlflow_and_serve_are_on_no_network_with_a_way_to_the_internet() -> None:
    masquerade = "com.docker.network.bridge.enable_ip_masquerade"
    closed = {
        name
        for name, network in yaml.safe_load(TEXT)["networks"].items()
        if network.get("internal") or network.get("driver_opts", {}).get(masquerade) == "false"
    }
    shut = {name for name, service in SERVICES.items() if closed >= {*service.get("networks", "?")}}
    assert shut == {"postgres", "artifacts", "bucket", "mlflow", "login", "serve"}


def test_mlflow_runs_no_jobs_loads_no_pickles_and_limits_its_hosts() -> None:
    service = SERVICES["mlflow"]
    assert service["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert service["environment"]["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    source = service["environment"]["MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX"]
    assert re.search(source, f"models:/m-{'0' * 32}")
    for other in ("s3://mlflow/x", f"file:///models:/m-{'0' * 32}", f"models:/m-{'0' * 32}/../x"):
        assert not re.search(source, other)
    (hosts,) = (word for word in service["command"] if word.startswith("--allowed-hosts="))
    assert "*" not in hosts
