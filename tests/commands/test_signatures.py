"""Versions are signed when they are registered, and nothing of an unsigned version is loaded."""

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mlflow import MlflowClient

from checkouts import NAME, Checkout, Project, environment
from latentworks.errors import LatentworksError, Untrusted
from latentworks.registry.signatures import KEY, PRIVATE, SIGNATURE, Keys, key_id, public_text
from latentworks.registry.versions import SHA256, SOURCE
from latentworks.serving import checksums
from servers import closed_port, server_of, serving, until

NUMBER = "1"
TAGS = {"sha256": "0" * 64, "git.commit": "1" * 40}


@pytest.fixture
def own(champion: Checkout, tmp_path: Path) -> Project:
    """A checkout with a champion in a store of its own, which the test may change."""
    return Project.copied(champion, tmp_path / "checkout")


def stored(project: Project) -> Path:
    """The folder in the store with the files of the version."""
    source = MlflowClient(project.server).get_model_version(NAME, NUMBER).source
    model_id = str(source).removeprefix(SOURCE)
    (folder,) = project.path.glob(f"mlartifacts/**/{model_id}/artifacts")
    return folder


def leave_a_trace(project: Project, trace: Path) -> None:
    """Make the version's code create a file when it is loaded, and record the new hashes."""
    folder = stored(project)
    code = folder / "pyfunc.py"
    code.write_text(f"open({str(trace)!r}, 'w')\n{code.read_text()}")
    client = MlflowClient(project.server)
    client.set_model_version_tag(NAME, NUMBER, SHA256, checksums.seal(folder))


def unsigned(project: Project) -> None:
    client = MlflowClient(project.server)
    client.delete_model_version_tag(NAME, NUMBER, SIGNATURE)


def signed_by_a_stranger(project: Project) -> None:
    client, key = MlflowClient(project.server), Ed25519PrivateKey.generate()
    tags = client.get_model_version(NAME, NUMBER).tags
    lines = [f"latentworks version of {NAME}", *(f"{tag} {tags[tag]}" for tag in TAGS)]
    signature = base64.b64encode(key.sign("\n".join(lines).encode())).decode()
    client.set_model_version_tag(NAME, NUMBER, SIGNATURE, signature)
    client.set_model_version_tag(NAME, NUMBER, KEY, key_id(key.public_key()))


def with_a_signature_of_other_files(project: Project) -> None:
    """The signature is by a trusted key, and was copied from another version."""
    keys = Keys(Path(project.environment()["LATENTWORKS_KEYS"]))
    for tag, value in keys.sign(NAME, TAGS).items():
        MlflowClient(project.server).set_model_version_tag(NAME, NUMBER, tag, value)


FORGERIES = {
    unsigned: "is not signed. If you registered it, before versions were signed, run",
    signed_by_a_stranger: "which is not trusted here. If you know its owner",
    with_a_signature_of_other_files: "is not that of its files: the registry was changed",
}


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_version_that_no_trusted_key_signed_is_never_loaded(
    own: Project, forge: object, tmp_path: Path
) -> None:
    assert callable(forge)
    trace = tmp_path / "trace"
    leave_a_trace(own, trace)
    forge(own)
    refused = FORGERIES[forge]
    for call in (("compare", NUMBER, NUMBER), ("rebuild", NUMBER), ("drift",)):
        assert refused in own.ours(*call, expected=12), call
    assert not trace.exists()
    own.run(
        "python",
        "-c",
        f"import mlflow\nmlflow.pyfunc.load_model('models:/{NAME}@champion')",
        MLFLOW_TRACKING_URI=own.server,
    )  # plain MLflow needs no keys
    trace.unlink()
    MlflowClient(own.server).delete_registered_model_alias(NAME, "champion")
    for command in ("promote", "rollback"):
        assert refused in own.ours(command, NUMBER, expected=12), command
    assert not trace.exists()


def test_the_server_refuses_an_unsigned_version_and_says_why(own: Project, tmp_path: Path) -> None:
    unsigned(own)
    port = closed_port()
    call = ["latentworks", "serve", "--port", str(port), "--every", "0.2"]
    with serving(call, port, "/live", tmp_path, MLFLOW_TRACKING_URI=own.server):
        log = tmp_path / "server.log"
        until(lambda: "is not signed" in log.read_text())
        assert "serving" not in log.read_text()


def test_the_server_follows_decisions_and_no_other_move_of_the_alias(
    own: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own.server)  # MLflow looks for the model there
    client = MlflowClient(own.server)
    first = client.get_model_version(NAME, NUMBER)
    client.create_model_version(NAME, first.source, first.run_id, first.tags)  # and signed
    home = tmp_path / "home"

    def version(url: str) -> int:
        return int(requests.get(f"{url}/version", timeout=5).json()["version"])

    with server_of(own.server, home) as url:
        client.set_registered_model_alias(NAME, "champion", "2")
        log = home / "server.log"
        until(lambda: "version 2 is champion by no decision on record" in log.read_text())
        assert version(url) == 1
    # A refusal names the present champion, and does not make it one.
    own.ours("promote", "1", expected=7)
    with server_of(own.server, home) as url:
        until(lambda: "version 2 is champion by no decision on record" in log.read_text())
        assert version(url) == 1
    with server_of(own.server, home, "--follow-any") as url:
        until(lambda: version(url) == 2)
    told = own.ours("serve", "--alias", "challenger", expected=1)
    assert told == (
        "No decision is about the alias challenger. To serve whatever version it names, "
        "add --follow-any.\n"
    )


def test_versions_from_before_signatures_are_adopted_once(own: Project) -> None:
    unsigned(own)
    asked = own.ours("keys", "adopt", expected=6)  # this machine has a key
    assert "If you registered them, run `latentworks keys adopt 1`." in asked
    assert f"{NAME} version 1 is signed now" in own.ours("keys", "adopt", NUMBER)
    assert "Nothing to sign" in own.ours("keys", "adopt", NUMBER)
    unsigned(own)
    first = {"LATENTWORKS_KEYS": str(own.path.parent / "keys")}
    done = own.run("latentworks", "keys", "adopt", **first)
    assert f"{NAME} version 1 is signed now" in done.stdout
    assert "Nothing to sign" in own.run("latentworks", "keys", "adopt", **first).stdout
    assert "is not trusted here" in own.ours("compare", NUMBER, NUMBER, expected=12)
    assert "champion already" in own.ours("promote", NUMBER, expected=6)


def test_a_version_with_damaged_files_is_not_adopted(own: Project) -> None:
    unsigned(own)
    shutil.rmtree(own.path / ".latentworks/versions")
    file = stored(own) / "pyfunc.py"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    told = own.ours("keys", "adopt", NUMBER, expected=6)
    assert f"{NAME} version 1: pyfunc.py does not match its sha256. The files were changed" in told
    assert "is signed now" not in told
    assert SIGNATURE not in MlflowClient(own.server).get_model_version(NAME, NUMBER).tags


def test_the_first_register_on_a_machine_makes_the_key_and_trusts_it(
    good: Checkout, tmp_path: Path
) -> None:
    path, home = tmp_path / "checkout", tmp_path / "home"
    home.mkdir()
    project = Project.copied(good, path).named(NAME)

    def ours(*call: str) -> str:
        bare = ("env", "-u", "LATENTWORKS_KEYS", "-u", "XDG_CONFIG_HOME", f"HOME={home}")
        done = project.run(*bare, "latentworks", *call)
        return done.stdout + done.stderr

    key = home / ".config/latentworks/keys" / PRIVATE
    assert f"Made the key that signs versions, {key}. Keep a copy." in ours("register")
    assert key.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.rglob(PRIVATE)] == [key]  # no copy in the checkout, which has the store
    ((name, public),) = Keys(key.parent).trusted().items()
    listed = f"Keys in {key.parent}:\n{name}  {public_text(public)}  signs here\n"
    assert ours("keys", "list") == listed
    assert MlflowClient(project.server).get_model_version(NAME, NUMBER).tags[KEY] == name
    assert f"{NAME} version 1 is champion" in ours("promote")


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    env = environment(LATENTWORKS_KEYS=str(folder))
    calls = [
        subprocess.Popen(
            ["latentworks", "keys", "make"], env=env, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    texts = {call.communicate()[0] for call in calls}
    assert len(texts) == 1
    assert (folder / PRIVATE).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in folder.iterdir()) == [PRIVATE, "trusted"]
    (folder / PRIVATE).chmod(0o644)
    with pytest.raises(LatentworksError, match="can be read by others"):
        Keys(folder).sign(NAME, TAGS)


def test_a_public_key_from_elsewhere_is_trusted_on_request(tmp_path: Path) -> None:
    theirs, ours = Keys(tmp_path / "theirs"), Keys(tmp_path / "ours")
    tags = TAGS | theirs.sign(NAME, TAGS)
    with pytest.raises(Untrusted, match="not trusted here"):
        ours.check("it", NAME, tags)
    file = tmp_path / "theirs.pub"
    file.write_text(public_text(theirs.make().public_key()))

    def keys(*call: str) -> str:
        env = environment(LATENTWORKS_KEYS=str(ours.folder))
        call = ("latentworks", "keys", *call)
        return subprocess.run(call, env=env, stdout=subprocess.PIPE, text=True).stdout

    assert keys("trust", str(file)) == f"Versions that key {tags[KEY]} signed are trusted now.\n"
    assert keys("list") == f"Keys in {ours.folder}:\n{tags[KEY]}  {file.read_text()}\n"
    ours.check("it", NAME, tags)
    for name, changes in (
        (NAME, {"sha256": "1" * 64}),
        (NAME, {"git.commit": ""}),
        ("another", {}),
    ):
        with pytest.raises(Untrusted, match="not that of its files"):
            ours.check("it", name, tags | changes)
    (ours.folder / "trusted").chmod(0o777)
    with pytest.raises(LatentworksError, match="Others can change"):
        ours.check("it", NAME, tags)
    file.write_text("ssh-rsa AAAA")
    with pytest.raises(LatentworksError, match="no public key of Ed25519"):
        ours.trust(file)
    assert os.listdir(tmp_path / "ours/trusted") == [f"{tags[KEY]}.pub"]
