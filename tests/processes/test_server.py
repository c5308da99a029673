"""Real clients call `latentworks serve`, a real process that follows a real registry."""

import base64
import concurrent.futures
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from PIL import Image
from prometheus_client import generate_latest

from checkouts import KEYS, NAME, ROOT, Checkout, Project, environment
from latentworks.registry.signatures import Keys
from latentworks.registry.versions import SHA256, SOURCE
from latentworks.server.budget import Budget
from latentworks.server.connections import let_many_in
from latentworks.server.metrics import Measures
from latentworks.server.model import Model, Named
from latentworks.server.service import Following, Service
from latentworks.serving import checksums
from servers import closed_port, mlflow_server, server_of, serving, until

# --- a registry with good and bad versions -------------------------------------------------------


class Registry:
    """A registry of one model. Its further versions are changed copies of version 1."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri = uri
        self.client = MlflowClient(uri)
        self.first = self.client.get_model_version_by_alias(NAME, "champion")
        source = str(self.first.source).removeprefix(SOURCE)
        location = self.client.get_logged_model(source).artifact_location
        self.files = folder / "registered"
        self.files.mkdir()
        downloaded = mlflow.artifacts.download_artifacts(
            artifact_uri=location, dst_path=str(self.files), tracking_uri=uri
        )
        self.files = Path(downloaded)
        self.folder = folder

    def another(self, change: Callable[[Path], None], sealed: bool) -> int:
        """Register a changed copy of the files, and return the number of the new version.

        If `sealed`, the recorded hashes are those of the changed files, else those from before.
        """
        copy = self.folder / "another"
        others = (*checksums.NOT_OURS, "__pycache__")  # bytecode: a test loads models in the store
        shutil.copytree(self.files, copy, ignore=shutil.ignore_patterns(*others))
        annotated(copy)  # so that its hash differs from other versions
        if sealed:
            change(copy)
        sha256 = checksums.seal(copy)
        if not sealed:
            change(copy)
        run = self.client.get_run(str(self.first.run_id)).info
        model = self.client.create_logged_model(run.experiment_id, NAME, run.run_id)
        self.client.log_model_artifacts(model.model_id, str(copy))
        self.client.finalize_logged_model(model.model_id, "READY")
        tags = {**self.first.tags, SHA256: sha256}
        tags |= Keys(KEYS).sign(NAME, tags)
        source = f"{SOURCE}{model.model_id}"
        with pytest.MonkeyPatch.context() as patch:  # MLflow looks for the model in this store
            patch.setenv("MLFLOW_TRACKING_URI", self.uri)
            version = self.client.create_model_version(NAME, source, run.run_id, tags)
        shutil.rmtree(copy)
        return int(version.version)

    def move(self, number: int) -> None:
        self.client.set_registered_model_alias(NAME, "champion", str(number))


def annotated(folder: Path) -> None:
    """Change the hash of a version, but none of its answers."""
    (folder / "provenance/note.txt").write_text(str(time.monotonic_ns()))


def with_weights_of(servable: Path) -> Callable[[Path], None]:
    """Return a change that gives a version the weights of `servable`, and so other answers."""

    def change(folder: Path) -> None:
        files = folder / "artifacts/servable"
        code = shutil.ignore_patterns("code")
        shutil.copytree(servable, files, dirs_exist_ok=True, ignore=code)

    return change


def with_other_answers(folder: Path) -> None:
    path = folder / "artifacts/servable/golden.npz"
    with np.load(path) as arrays:
        changed = {name: arrays[name] for name in arrays}
    changed["2.output"] = changed["2.output"] + 1
    np.savez(path, **changed)


def with_half_a_graph(folder: Path) -> None:
    path = folder / "artifacts/servable/decoder.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_code_that_exits(folder: Path) -> None:
    (entry,) = folder.glob("code/*/serving/servable.py")
    entry.write_text("import os\nos._exit(3)\n")


def without_a_file(folder: Path) -> None:
    (folder / "artifacts/servable/interface.json").unlink()


def flipped(folder: Path) -> None:
    path = folder / "artifacts/servable/encoder.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BAD = [
    (with_other_answers, True, "does not return what it returned at the export"),
    (with_half_a_graph, True, "the model fails"),
    (with_code_that_exits, True, "the process ended with exit code 3"),
    (without_a_file, False, "interface.json is missing"),
    (flipped, False, "does not match its sha256"),
]
ABSOLUTE = re.compile(r"(?<![\w…/])/\w")  # the start of a path of this machine


@pytest.fixture(scope="module")
def registry(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(project.server, tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def images(project: Project) -> np.ndarray:
    data = np.load(project.path / "data/prepared/images.npy")
    return np.array(data[:5])


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "PNG")
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def asked(url: str, verb: str, **body: Any) -> Any:
    answer = requests.post(f"{url}/{verb}", json=body, timeout=60)
    assert answer.ok, answer.text
    assert answer.headers["X-Model-Version"] == answer.json()["model"]
    return answer.json()["outputs"]


# --- answers -------------------------------------------------------------------------------------


def test_each_verb_returns_the_outputs_of_the_registered_model(
    url: str, registry: Registry, images: np.ndarray
) -> None:
    model = mlflow.pyfunc.load_model(str(registry.files))
    latents = model.predict(images, {"verb": "encode"})
    for verb, inputs, params in (
        ("reconstruct", images, {}),
        ("encode", images, {}),
        ("encode", images[0], {}),
        ("decode", latents, {}),
        ("sample", None, {"num": 3, "seed": 5}),
        ("interpolate", images[:2], {"num": 4}),
        ("interpolate", latents[:2], {}),
        ("log_density", latents, {}),
        ("anomaly_score", 255 - images, {}),
    ):
        sent = {} if inputs is None else {"inputs": inputs.tolist()}
        expected = model.predict(inputs, {"verb": verb, **params})
        got = asked(url, verb, **sent, **params)
        if verb == "anomaly_score":
            expected = expected.to_dict(orient="list")
            assert set(got) == set(expected)
            assert all(np.allclose(got[name], expected[name]) for name in expected)
        else:
            assert np.allclose(got, expected, atol=1e-5)
        as_mlflow_has_it = {"inputs": sent.get("inputs"), "params": {"verb": verb, **params}}
        answer = requests.post(f"{url}/invocations", json=as_mlflow_has_it, timeout=60)
        assert answer.ok, answer.text
        assert answer.headers["X-Model-Version"] == f"{NAME}/1"
        predictions = answer.json()["predictions"]
        if verb == "anomaly_score":
            for name, values in got.items():
                assert np.allclose([row[name] for row in predictions], values)
        else:
            assert predictions == got


def test_pictures_are_accepted_and_returned_as_png_and_base64(url: str, images: np.ndarray) -> None:
    latents = asked(url, "encode", inputs=images.tolist())
    large = images[0].repeat(2, axis=0).repeat(2, axis=1)
    shrunk = Image.fromarray(large[..., 0]).resize((8, 8), Image.Resampling.BICUBIC)
    for picture, same in ((images[0], images[0]), (large, np.asarray(shrunk)[..., None])):
        answer = requests.post(f"{url}/reconstruct", data=png(picture), timeout=10)
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["X-Model-Version"] == f"{NAME}/1"
        expected = asked(url, "reconstruct", inputs=[same.tolist()])
        assert (pixels(answer.content) == np.array(expected)[0, ..., 0]).all()
    texts = [base64.b64encode(png(image)).decode() for image in images]
    assert np.allclose(asked(url, "encode", inputs=texts), latents, atol=1e-6)
    urls = [f"data:image/png;base64,{text}" for text in texts]
    assert np.allclose(asked(url, "encode", inputs=urls), latents, atol=1e-6)
    decoded = asked(url, "decode", inputs=latents, images="base64")
    arrays = np.array(asked(url, "decode", inputs=latents))
    assert all(
        (pixels(base64.b64decode(text)) == array[..., 0]).all()
        for text, array in zip(decoded, arrays, strict=True)
    )
    sheet = requests.get(f"{url}/sample?num=5&seed=3", timeout=10)
    drawn = np.array(asked(url, "sample", num=5, seed=3))
    assert pixels(sheet.content).shape == (16, 24)
    assert (pixels(sheet.content)[:8, 8:16] == drawn[1, ..., 0]).all()
    at = requests.get(f"{url}/decode", params={"z": "0.5,-1"}, timeout=10)
    assert (
        pixels(at.content) == np.array(asked(url, "decode", inputs=[[0.5, -1]]))[0, ..., 0]
    ).all()


def test_pictures_of_different_sizes_are_encoded_in_one_call(url: str, images: np.ndarray) -> None:
    small = images[0][1:-1, 1:-1]
    texts = [base64.b64encode(png(image)).decode() for image in (images[0], small)]
    both = asked(url, "encode", inputs=texts)
    assert np.allclose(both[1], asked(url, "encode", inputs=[texts[1]])[0], atol=1e-6)


def test_version_ready_and_metrics_name_the_served_version(url: str, registry: Registry) -> None:
    assert requests.get(f"{url}/live", timeout=5).json() == {"live": True}
    version = requests.get(f"{url}/version", timeout=5).json()
    assert version["sha256"] == registry.first.tags[SHA256]
    assert (version["model"], version["version"]) == (NAME, 1)
    assert (version["image_shape"], version["latent_dim"]) == ([8, 8, 1], 2)
    assert version["value_range"] == {}  # images are read in full
    ready = requests.get(f"{url}/ready", timeout=5).json()
    assert ready["model"] == f"{NAME}/1"
    assert (ready["target"], ready["registry"], ready["refused"]) == (1, "answers", {})
    asked(url, "sample", num=1)
    measures = requests.get(f"{url}/metrics", timeout=5).text
    assert f'latentworks_model_version{{model="{NAME}"}} 1.0' in measures
    assert 'latentworks_call_seconds_count{verb="sample"}' in measures


def test_two_applications_of_a_process_count_their_own_calls() -> None:
    first, second = (
        Measures(Service(Following(NAME, "champion"), max_waiting=1), Budget()) for _ in range(2)
    )
    first.failed.labels("encode", "InputError").inc()
    texts = [generate_latest(each.registry).decode() for each in (first, second)]
    assert ['verb="encode"' in text for text in texts] == [True, False]
    assert all("latentworks_swaps 0.0" in text for text in texts)
    assert all("process_cpu_seconds_total" in text for text in texts)


def test_the_pages_load_nothing_from_other_hosts(url: str) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/docs", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/docs.js", "text/javascript"),
    ):
        answer = requests.get(f"{url}{path}", timeout=5)
        assert answer.headers["Content-Type"].startswith(kind)
        assert "://" not in answer.text
    described = requests.get(f"{url}/openapi.json", timeout=5).json()
    assert {f"/{verb}" for verb in ("sample", "decode", "invocations")} <= set(described["paths"])


def test_without_cors_no_page_of_another_site_may_read_answers(url: str) -> None:
    headers = {"Origin": "https://app.example.org"}
    answer = requests.post(f"{url}/sample", json={"num": 1}, headers=headers, timeout=10)
    assert answer.ok
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_concurrent_requests_get_the_answers_of_single_requests(url: str) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 2)).round(3).tolist()
    alone = [asked(url, "decode", inputs=[point])[0] for point in points]
    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=32))

    def ask(number: int) -> Any:
        if number % 10 == 3:  # a refused request does not harm the others
            return session.post(f"{url}/decode", json={"inputs": [[1]]}, timeout=60).status_code
        body = {"inputs": [points[number]]}
        return session.post(f"{url}/decode", json=body, timeout=60).json()["outputs"][0]

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        together = [*pool.map(ask, range(len(points)))]
    for number, answer in enumerate(together):
        if number % 10 == 3:
            assert answer == 422
        else:  # the sums of a larger batch are rounded in another order
            assert np.abs(np.array(answer) - alone[number]).max() <= 1


# --- refused requests ----------------------------------------------------------------------------

REFUSED: list[tuple[str, bytes, int, str]] = [
    ("decode", b"", 400, "The body is empty"),
    ("decode", b"{", 400, "not JSON"),
    ("decode", b'{"inputs": [[NaN, 1]]}', 400, "not JSON"),
    ("decode", b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "not JSON"),
    ("decode", b'{"inputs": ' + b"[" * 60 + b"1" + b"]" * 60 + b"}", 422, "Latents have"),
    ("decode", b"[1]", 422, "not a JSON object"),
    ("encode", json.dumps({"inputs": [[0] * 64] * 3}).encode(), 422, "3 images with all pixels"),
    ("decode", b'{"inputs": [[1, 2, 3]]}', 422, "[N, 2]"),
    ("decode", b'{"inputs": [[1, 2], [3]]}', 422, "all of the same shape"),
    ("decode", b'{"inputs": [[1e300, 2]]}', 422, "finite"),
    ("decode", b'{"inputs": [["a", 2]]}', 422, "all of the same shape"),
    ("decode", b'{"inputs": [[true, 2]]}', 422, "true or false"),
    ("decode", b'{"inputs": [[null, 2]]}', 422, "all of the same shape"),
    ("decode", b'{"inputs": []}', 422, "at least one"),
    ("decode", b"{}", 422, "inputs are missing"),
    ("decode", b'{"inputs": [[1, 2]], "input": 1}', 422, "Unknown field 'input'"),
    ("decode", b'{"inputs": [[1, 2]], "num": 1}', 422, "has no param 'num'"),
    ("decode", b'{"inputs": [[1, 2]], "images": "jpeg"}', 422, "base64"),
    ("sample", b'{"num": 0}', 422, "from 1 to 10000"),
    ("sample", b'{"num": 1e9}', 422, "from 1 to 10000"),
    ("sample", b'{"num": null}', 422, "null"),
    ("sample", b'{"seed": -1}', 422, "from 0"),
    ("sample", b'{"inputs": [1]}', 422, "takes no inputs"),
    ("encode", b'{"inputs": "not base64!"}', 422, "not base64"),
    ("encode", b'{"inputs": ["aGVsbG8="]}', 422, "The picture cannot be used"),
    ("encode", b'{"inputs": ["aGVsbG8=", [1]]}', 422, "The picture cannot be used"),
    ("encode", b"\x89PNG\r\n\x1a\nnothing", 422, "The picture cannot be used"),
    ("encode", b"RIFF\x00\x00", 422, "The picture cannot be used"),
    ("encode", b'{"inputs": [[0.5]]}', 422, "x * 255, rounded to uint8"),
    ("encode", b" " * 16_000_001, 413, "at most"),
    (
        "invocations",
        json.dumps({"inputs": [[0] * 64] * 3, "params": {"verb": "encode"}}).encode(),
        400,
        "3 images with all pixels",
    ),
    ("invocations", b'{"dataframe_split": {}}', 400, "The body needs one of the fields inputs"),
    ("invocations", b'{"inputs": [[1, 2]], "params": {"verb": "paint"}}', 400, "verb is one of"),
    ("invocations", b'{"inputs": [[1, 2]], "params": 3}', 400, "params is an object"),
    ("invocations", b'{"inputs": [[1, 2]], "params": {"verb": ["decode"]}}', 400, "verb is one"),
    ("sample", b'{"sede": 0}', 422, "Unknown field 'sede'. Expected: inputs, images, num, seed"),
    ("invocations", b'{"params": {"verb": "sample", "sede": 0}, "inputs": []}', 400, "mean seed?"),
]


@pytest.mark.parametrize(
    ("verb", "body", "status", "said"), REFUSED, ids=[f"{i}" for i in range(len(REFUSED))]
)
def test_a_bad_request_is_answered_by_one_short_sentence(
    url: str, verb: str, body: bytes, status: int, said: str
) -> None:
    answer = requests.post(
        f"{url}/{verb}", data=body, headers={"Content-Type": "application/json"}, timeout=30
    )
    assert answer.status_code == status, answer.text
    (message,) = [text for name, text in answer.json().items() if name in ("error", "message")]
    assert said in message
    assert len(message) < 300
    assert "\n" not in message
    assert answer.headers["X-Model-Version"] == f"{NAME}/1"


def test_unknown_addresses_methods_and_params_are_refused(url: str) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("DELETE", "/decode", 405),
        ("GET", "/encode", 405),
        ("GET", "/decode?z=1", 422),
        ("GET", "/decode?z=a,b", 422),
        ("GET", "/decode?z=nan,1", 422),
        ("GET", "/sample?num=x", 422),
        ("GET", "/sample?num=99999999999999", 422),
        ("GET", "/sample?many=1", 422),
    ):
        answer = requests.request(method, f"{url}{path}", timeout=10)
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["error"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_pictures_with_too_many_pixels_together_are_refused(url: str) -> None:
    file = io.BytesIO()
    Image.new("L", (6000, 5000)).save(file, "PNG")  # a small file of many pixels
    picture = base64.b64encode(file.getvalue()).decode()
    answer = requests.post(f"{url}/encode", json={"inputs": [picture, picture]}, timeout=60)
    assert answer.status_code == 422
    fault = "Too many pixels in one call. Expected at most 50000000"
    assert answer.json()["error"].startswith(fault)


def test_all_channels_of_a_picture_count_toward_the_pixel_limit(url: str) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (6000, 5000)).save(file, "PNG")
    answer = requests.post(f"{url}/encode", data=file.getvalue(), timeout=60)
    assert answer.status_code == 422
    fault = "Too many pixels in one call. Expected at most 50000000"
    assert answer.json()["error"].startswith(fault)


def test_a_long_text_among_numbers_is_refused_without_filling_memory(url: str) -> None:
    """An array with room for such a text in each place would take 4 TB."""
    body = {"inputs": [*[0] * 1_000_000, "x" * 1_000_000]}
    answer = requests.post(f"{url}/encode", json=body, timeout=60)
    assert answer.status_code == 422
    assert "all of the same shape" in answer.json()["error"]


def test_the_server_stops_reading_a_request_head_that_is_too_large(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: localhost\r\n")
        with pytest.raises(ConnectionError):  # the server does not wait for the end of the head
            connection.sendall((b"X-Long: " + b"x" * 10_000 + b"\r\n") * 5000)
    assert asked(url, "sample", num=1)


@pytest.mark.parametrize("body", [{"num": "x" * 3_000_000}, {"x" * 3_000_000: 1}])
def test_an_error_message_does_not_repeat_long_input(url: str, body: dict[str, Any]) -> None:
    answer = requests.post(f"{url}/sample", json=body, timeout=30)
    assert answer.status_code == 422
    assert len(answer.text) < 300


def test_a_replaced_version_is_freed_from_memory(project: Project) -> None:
    (folder,) = (project.path / ".latentworks/versions").iterdir()
    service = Service(Following(NAME, "champion"), max_waiting=1)
    service.swap(Model(Named(NAME, 1, "a"), folder))
    servable = weakref.ref(service.served_model.servable)
    service.swap(Model(Named(NAME, 2, "b"), folder))
    assert servable() is None


def test_a_thousand_clients_at_once_get_outputs_or_a_time_to_retry(
    project: Project, tmp_path: Path
) -> None:
    """Each client gets an answer: outputs, or status 503 with the seconds until the next try."""
    let_many_in()  # this process has a thousand connections, too
    with server_of(project.server, tmp_path / "home", "--max-waiting", "20") as url:
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({"num": 200}).encode()
        request = (
            b"POST /sample HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        start = threading.Barrier(1000)

        def ask(_: int) -> bytes:
            with socket.create_connection((host, int(port)), timeout=120) as connection:
                start.wait(60)
                connection.sendall(request)
                answer = b""
                while part := connection.recv(1 << 20):
                    answer += part
            return answer

        with concurrent.futures.ThreadPoolExecutor(1000) as pool:
            answers = [*pool.map(ask, range(1000))]
        counts = Counter(answer.split(b" ", 2)[1] for answer in answers)
        assert set(counts) == {b"200", b"503"}, counts
        assert counts[b"200"] >= 20
        turned_away = [answer for answer in answers if answer.split(b" ", 2)[1] == b"503"]
        assert all(b"retry-after: 1" in answer.lower() for answer in turned_away)
        assert asked(url, "sample", num=1)


# --- following the alias -------------------------------------------------------------------------


class Clients:
    """Clients that send requests without a pause, and keep the answers."""

    def __init__(self, url: str, number: int = 4) -> None:
        self.url = url
        self.answers: Counter[tuple[int, str]] = Counter()
        self.images: dict[tuple[str, int], np.ndarray] = {}  # by version and client
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(number)]

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, number: int) -> None:
        session = requests.Session()
        while not self.over.is_set():
            body = {"inputs": [[0.1 * number, -0.2]]}
            answer = session.post(f"{self.url}/decode", json=body, timeout=30)
            named = answer.headers.get("X-Model-Version", "")
            if answer.ok:
                assert answer.json()["model"] == named
                decoded = np.array(answer.json()["outputs"])
                first = self.images.setdefault((named, number), decoded)
                # An image of a batch may differ from the same image alone by one grey value.
                assert np.abs(decoded - first).max() <= 1
            self.answers[answer.status_code, named] += 1


def at_work(url: str) -> int:
    return int(requests.get(f"{url}/version", timeout=10).json()["version"])


def test_no_call_fails_during_twenty_swaps_and_five_bad_versions(
    registry: Registry, better: Checkout, tmp_path: Path
) -> None:
    other = registry.another(with_weights_of(better.path / "models/servable"), True)
    good = [*(registry.another(annotated, True) for _ in range(3)), other]
    bad = [registry.another(change, sealed) for change, sealed, _ in BAD]
    turns = [good[n % len(good)] for n in range(20)]
    for place, number in zip((3, 7, 11, 15, 19), bad, strict=True):
        turns.insert(place, number)
    registry.move(1)
    by_hand = server_of(registry.uri, tmp_path / "home", "--follow-any")
    with by_hand as url, Clients(url) as clients:
        current = 1
        for number in turns:
            registry.move(number)
            if number in bad:
                state = until(
                    lambda number=number: (
                        (found := requests.get(f"{url}/ready", timeout=10).json())["refused"].get(
                            str(number)
                        )
                        and found
                    )
                )
                reason = state["refused"][str(number)]
                assert BAD[bad.index(number)][2] in reason
                assert not ABSOLUTE.search(reason)  # anybody may read this page
                assert not any(str(path) in reason for path in (tmp_path, ROOT, sys.prefix))
                assert state["model"] == f"{NAME}/{current}"
                assert state["ready"]
            else:
                until(lambda number=number: at_work(url) == number)
                assert not requests.get(f"{url}/ready", timeout=10).json()["refused"]
                current = number
        assert "latentworks_swaps 20.0" in requests.get(f"{url}/metrics", timeout=10).text
    registry.move(1)
    assert {status for status, _ in clients.answers} == {200}, clients.answers
    seen = {named for _, named in clients.answers}
    assert seen == {f"{NAME}/{number}" for number in (1, *good)}
    for (named, client), decoded in clients.images.items():  # the named version alone made them
        alike = np.abs(decoded - clients.images[f"{NAME}/1", client]).max() <= 1
        assert alike == (named != f"{NAME}/{other}")


def test_the_server_runs_and_restarts_without_the_registry(good: Checkout, tmp_path: Path) -> None:
    home = tmp_path / "home"
    server = tmp_path / "server"
    server.mkdir()
    with mlflow_server(server) as uri:
        project = Project(good.copy(tmp_path / "checkout").path, uri).named(NAME)
        project.ours("register")
        project.ours("promote")
        running = server_of(uri, home)
        url = running.__enter__()
    try:
        state = until(
            lambda: (
                (found := requests.get(f"{url}/ready", timeout=10).json())["registry"] != "answers"
                and found
            )
        )
        assert state["ready"]
        assert uri not in state["registry"]  # anybody may read this page
        assert uri in (home / "server.log").read_text()
        assert asked(url, "sample", num=1)
    finally:
        running.__exit__(None, None, None)
    with server_of(uri, home) as url:
        assert asked(url, "sample", num=1)
        assert at_work(url) == 1


def test_a_damaged_local_copy_of_a_version_is_fetched_again(
    project: Project, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with server_of(project.server, home):
        pass
    (graph,) = home.rglob("versions/*/artifacts/servable/decoder.onnx")
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    with server_of(project.server, home) as url:
        assert asked(url, "sample", num=1)
    assert graph.read_bytes() == whole
    assert "cannot be used" in (home / "server.log").read_text()


def test_a_server_without_a_version_names_the_alias_that_it_waits_for(tmp_path: Path) -> None:
    port = closed_port()
    call = ["latentworks", "serve", "--port", str(port), "--every", "0.2"]
    uri = f"sqlite:///{tmp_path / 'empty.db'}"
    with serving(call, port, "/live", tmp_path, MLFLOW_TRACKING_URI=uri) as url:
        ready = f"{url}/ready"
        until(lambda: requests.get(ready, timeout=5).json()["registry"] != "not asked yet")
        state = requests.get(ready, timeout=5)
        assert state.status_code == 503
        assert "no version with the alias champion" in state.json()["registry"]
        answer = requests.post(f"{url}/sample", json={}, timeout=5)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"


def test_sigterm_lets_a_call_in_progress_finish(project: Project, tmp_path: Path) -> None:
    """A call whose body is still being sent at the time of the signal gets its answer."""
    port = closed_port()
    process = subprocess.Popen(
        ["latentworks", "serve", "--port", str(port)],
        cwd=tmp_path,
        env=environment(MLFLOW_TRACKING_URI=project.server),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def is_ready() -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{port}/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    def is_closed() -> bool:
        with socket.socket() as another:
            return another.connect_ex(("127.0.0.1", port)) != 0

    try:
        until(is_ready)
        body = json.dumps({"num": 1000, "images": "base64"}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=60) as begun:
            begun.sendall(
                b"POST /sample HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            assert begun.recv(100).startswith(b"HTTP/1.1 100 ")  # the server waits for the body
            process.send_signal(signal.SIGTERM)
            until(is_closed)
            begun.sendall(body)
            answer = b"".join(iter(lambda: begun.recv(1 << 20), b""))
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert len(json.loads(content)["outputs"]) == 1000
        _, said = process.communicate(timeout=20)
        assert process.returncode in (0, -signal.SIGTERM)
        assert "Traceback" not in said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
