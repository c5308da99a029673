"""Faulty results are not registered, and versions with changed files do not become champion."""

import re
import shutil
from pathlib import Path

from mlflow import MlflowClient

from checkouts import Checkout, Project
from latentworks.system import disk
from servers import aliases, decisions

# --- results that are not registered -------------------------------------------------------------


def refused(checkout: Project, said: str, code: int = 7) -> None:
    told = checkout.ours("register", expected=code)
    assert said in told, told
    lines = [line for line in told.splitlines() if not line.endswith(" …")]  # of long work
    assert len(lines) == 1, told


def commit_outputs(checkout: Project) -> None:
    """Record the present files in dvc.lock, as a careless user can."""
    checkout.run("dvc", "commit", "--force")


def test_uncommitted_code_is_refused(candidate: Project) -> None:
    with (candidate.path / "src/latentworks/cli.py").open("a") as file:
        file.write("# an edit\n")
    refused(candidate, "the code differs from its commit: src/latentworks/cli.py. Commit it")
    candidate.run("git", "checkout", "--quiet", "src")
    (candidate.path / "src/latentworks/samplers/new.py").write_text("")
    refused(candidate, "the code differs from its commit: src/latentworks/samplers/new.py")


def test_an_uncommitted_params_yaml_is_registered(candidate: Project) -> None:
    """The run keeps a copy of params.yaml, so that the file may differ from its commit."""
    with (candidate.path / "params.yaml").open("a") as file:
        file.write("# a note\n")
    assert "is registered" in candidate.ours("register")


def test_a_result_that_differs_from_dvc_lock_is_refused(candidate: Project) -> None:
    candidate.edit("params.yaml", "epochs: 4", "epochs: 5")
    refused(candidate, "stage train: params.yaml train modified")
    candidate.edit("params.yaml", "epochs: 5", "epochs: 4")
    with (candidate.path / "models/autoencoder/model.keras").open("ab") as file:
        file.write(b"other")
    refused(candidate, "models/autoencoder modified")


def test_a_diverged_training_is_refused(candidate: Project) -> None:
    path = candidate.path / "models/autoencoder/curves.csv"
    path.write_text(re.sub(r"^(4\.0),[^,]*", r"\1,nan", path.read_text(), flags=re.MULTILINE))
    commit_outputs(candidate)
    refused(candidate, "the training diverged: loss is nan after epoch 4")


def test_data_without_a_fingerprint_is_refused(candidate: Project) -> None:
    path = candidate.path / "data/prepared/profile.json"
    profile = disk.read_json(path)
    del profile["fingerprint"]
    disk.write_json(path, profile)
    commit_outputs(candidate)
    refused(candidate, "has no data fingerprint")


def test_a_servable_with_a_cut_off_decoder_is_refused(candidate: Project, server: str) -> None:
    graph = candidate.path / "models/servable/decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-2000])
    commit_outputs(candidate)
    refused(candidate, "pre-flight: ", code=6)
    assert not MlflowClient(server).search_model_versions(f"name = '{candidate.name}'")


def test_a_model_with_another_interface_needs_another_name(
    server: str, good: Checkout, experiment: Checkout, tmp_path: Path
) -> None:
    name = "faces"
    one = Project(good.copy(tmp_path / "one").path, server).named(name)
    one.ours("register")
    one.ours("promote")
    other = Project(experiment.copy(tmp_path / "other").path, server).named(name)
    refused(other, "holds models of 8x8x1 images, 2 latents, and its clients rely on that")
    other.edit("params.yaml", f"model_name: {name}", "model_name: faces-16d")
    assert "faces-16d version 1 is registered" in other.ours("register")


def test_a_model_that_never_had_a_champion_takes_another_interface(
    server: str, finished: Checkout, experiment: Checkout, tmp_path: Path
) -> None:
    name = "undecided"
    one = Project(finished.copy(tmp_path / "one").path, server).named(name)
    one.ours("register")
    other = Project(experiment.copy(tmp_path / "other").path, server).named(name)
    assert f"{name} version 2 is registered" in other.ours("register")
    told = one.ours("promote", "1", expected=6)
    assert "it has 8x8x1 images, 2 latents, and a result with 8x8x1 images, 16 latents was" in told
    assert aliases(server, name) == {"challenger": 2}
    assert decisions(server, name) == []
    # As the message says: the first result, registered again, takes its interface back.
    assert f"{name} version 1 is registered" in one.ours("register")
    assert "mse is not within its limit" in one.ours("promote", "1", expected=7)
    other.ours("promote", "2", expected=6)


# --- files that were changed after registration --------------------------------------------------


def stored(served: Path, model_id: str, name: str) -> Path:
    (path,) = served.rglob(f"{model_id}/artifacts/{name}")
    return path


def test_a_version_with_changed_files_is_never_loaded(
    server: str, served: Path, good: Checkout, better: Checkout, tmp_path: Path
) -> None:
    name = "changed"
    first = Project(good.copy(tmp_path / "first").path, server).named(name)
    second = Project(better.copy(tmp_path / "second").path, server).named(name)
    first.ours("register")
    first.ours("promote")
    second.ours("register")

    client = MlflowClient(server)
    ids = [client.get_model_version(name, number).source for number in ("1", "2")]
    paths = [stored(served, str(source).removeprefix("models:/"), "pyfunc.py") for source in ids]
    texts = [path.read_text() for path in paths]
    # Code that creates a file if a process loads it.
    trace = tmp_path / "trace"
    paths[1].write_text(f"open({str(trace)!r}, 'w')\n{texts[1]}")
    told = second.ours("promote", expected=7)
    assert f"{name} version 2: pyfunc.py does not match its sha256" in told
    assert not trace.exists()
    assert aliases(server, name) == {"champion": 1, "challenger": 2}
    assert decisions(server, name)[-1]["decision"] == "refused"

    paths[1].write_text(texts[1])
    second.ours("promote")
    shutil.rmtree(second.path / ".latentworks/versions")
    paths[0].write_text(f"open({str(trace)!r}, 'w')\n{texts[0]}")
    told = second.ours("rollback", expected=6)
    assert f"{name} version 1: pyfunc.py does not match its sha256" in told
    assert not trace.exists()
    assert aliases(server, name) == {"champion": 2, "previous": 1}
