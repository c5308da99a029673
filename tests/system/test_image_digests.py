"""scripts/pin_images.py with a real registry: Debian's docker-registry, and skopeo."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import pin_images
from checkouts import ROOT
from servers import closed_port, serving

pytestmark = pytest.mark.system

OCI = "application/vnd.oci.image"
INDEX, MANIFEST = f"{OCI}.index.v1+json", f"{OCI}.manifest.v1+json"
IMAGES = sorted(pin_images.references([file.read_text() for file in pin_images.files(ROOT)]))


class Registry:
    """A registry on this machine, and a folder for the images that go there."""

    def __init__(self, port: int, folder: Path) -> None:
        self.host, self.folder = f"127.0.0.1:{port}", folder

    def push(self, image: str, text: str) -> None:
        """Copy an image without files, for two platforms, to `image`; `text` is a label of it."""
        layout = self.folder / "layout"
        shutil.rmtree(layout, ignore_errors=True)
        (layout / "blobs/sha256").mkdir(parents=True)

        def blob(kind: str, value: dict[str, Any]) -> dict[str, Any]:
            content = json.dumps(value).encode()
            digest = hashlib.sha256(content).hexdigest()
            (layout / "blobs/sha256" / digest).write_bytes(content)
            return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

        manifests = []
        for architecture in ("amd64", "arm64"):
            platform = {"os": "linux", "architecture": architecture}
            config = {**platform, "config": {"Labels": {"text": text}}}
            config["rootfs"] = {"type": "layers", "diff_ids": []}
            manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": []}
            manifest["config"] = blob(f"{OCI}.config.v1+json", config)
            manifests.append({**blob(MANIFEST, manifest), "platform": platform})
        index = blob(INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
        (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [index]}))
        call = ["skopeo", "--insecure-policy", "copy", "--all", "--dest-tls-verify=false"]
        call += [f"oci:{layout}", f"docker://{self.host}/{image}"]
        subprocess.run(call, check=True, capture_output=True)

    def digest(self, image: str) -> str:
        """The digest that the registry itself states for all platforms of `image`."""
        name, _, tag = image.rpartition(":")
        url = f"http://{self.host}/v2/{name}/manifests/{tag}"
        answer = requests.head(url, headers={"Accept": INDEX}, timeout=60)
        assert answer.headers["Content-Type"] == INDEX
        return answer.headers["Docker-Content-Digest"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder, port = tmp_path_factory.mktemp("registry"), closed_port()
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "stored")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "settings.yml").write_text(json.dumps(settings))
    call = ["docker-registry", "serve", str(folder / "settings.yml")]
    with serving(call, port, "/v2/", folder):
        found = Registry(port, folder)
        for image in IMAGES:
            found.push(image, "first")
        yield found


class Copy:
    """A copy of the script and its files, with images of another host."""

    def __init__(self, folder: Path, host: str) -> None:
        self.folder, self.host = folder, host
        for file in [*pin_images.files(ROOT), ROOT / "scripts/pin_images.py"]:
            path = folder / file.relative_to(ROOT)
            path.parent.mkdir(parents=True, exist_ok=True)
            own = pin_images.IMAGE.sub(rf"\g<1>{host}/\2", file.read_text())
            path.write_text(own if path.suffix != ".py" else file.read_text())

    def texts(self) -> dict[str, str]:
        return {file.name: file.read_text() for file in pin_images.files(self.folder)}

    def pin(self) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "scripts/pin_images.py"]
        return subprocess.run(call, cwd=self.folder, capture_output=True, text=True)


@pytest.fixture
def copy(registry: Registry, tmp_path: Path) -> Copy:
    return Copy(tmp_path, registry.host)


def test_each_image_gets_the_digest_of_the_registry(registry: Registry, copy: Copy) -> None:
    before = copy.texts()
    done = copy.pin()
    digests = {f"{registry.host}/{image}": registry.digest(image) for image in IMAGES}
    lines = {f"{image} now has {digest}" for image, digest in digests.items()}
    assert (set(done.stdout.splitlines()), done.stderr, done.returncode) == (lines, "", 0)
    after = copy.texts()
    assert pin_images.references([*after.values()]) == {
        image: {digest} for image, digest in digests.items()
    }
    bare = {name: re.sub(r"@sha256:[0-9a-f]{64}", "", text) for name, text in after.items()}
    assert bare == before  # comments and layout, too
    assert copy.pin().stdout == done.stdout.replace("now has", "still has")
    assert copy.texts() == after


def test_files_with_digests_pass_the_linters(copy: Copy) -> None:
    assert copy.pin().returncode == 0
    assert "@sha256:" in copy.texts()["Dockerfile"]
    schema = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    for call in (["hadolint", "docker/Dockerfile"], [*schema, "docker/compose.yaml"]):
        done = subprocess.run(call, cwd=copy.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_a_moved_tag_gets_its_new_digest(registry: Registry, copy: Copy) -> None:
    compose = copy.folder / "docker/compose.yaml"
    compose.write_text(f"services:\n  one:\n    image: '{registry.host}/moving:1' # one\n")
    workflow = copy.folder / ".github/workflows/one.yml"
    workflow.write_text(f"jobs:\n  one:\n    container: {registry.host}/moving:1\n")
    found = []
    for text in ("first", "second"):
        registry.push("moving:1", text)
        found.append(f"{registry.host}/moving:1@{registry.digest('moving:1')}")
        assert copy.pin().returncode == 0
        assert compose.read_text() == f"services:\n  one:\n    image: '{found[-1]}' # one\n"
        assert workflow.read_text() == f"jobs:\n  one:\n    container: {found[-1]}\n"
    assert found[0] != found[1]


@pytest.mark.parametrize("missing", ["registry", "tag"])
def test_without_an_answer_for_one_image_all_files_stay(
    registry: Registry, copy: Copy, missing: str
) -> None:
    host = registry.host if missing == "tag" else f"127.0.0.1:{closed_port()}"
    compose = copy.folder / "docker/compose.yaml"
    compose.write_text(f"{compose.read_text()}\nx-last:\n  image: {host}/none:9\n")
    before = copy.texts()
    done = copy.pin()
    assert (done.stdout, done.returncode) == ("", 1)
    start = f"Cannot pin the images, so their files stay: {host}/none:9 has no answer: "
    assert done.stderr.startswith(start)
    assert done.stderr.endswith(". Check the tag, or try again online.\n")
    assert ("manifest unknown" if missing == "tag" else "connection refused") in done.stderr
    assert done.stderr.count("\n") == 1
    assert copy.texts() == before
