"""Compare runtimes for a trained model: the figures in docs/decisions/0008.

The candidates are Keras, tf.function on the same model, and the exported graphs in ONNX Runtime and
OpenVINO, each in float32 with default settings. A server starts, answers for one image or many, and
gets new batch sizes. So this measures
- the seconds from the import of the runtime until one image is encoded and decoded;
- the time of a call, for each of SIZES when new and when known, and for the sizes in CALLS;
- the peak memory and the disk space beyond Python and NumPy;
- the largest deviation from Keras.
Processes are fresh and take turns; figures are medians over PROCESSES processes.
"""

import importlib.util
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from timeit import default_timer, repeat
from typing import Any

import numpy as np
from packaging.requirements import Requirement
from psutil import Process
from tqdm import tqdm

PROCESSES = 8  # per candidate; a multiple of four, so that each one starts equally many rounds
CALLS = {1: 500, 32: 100, 1024: 10}  # number of timed calls, by batch size
SIZES = np.random.default_rng(0).permutation(range(2, 65))  # batch sizes, in random order
MODULES = {  # modules of each candidate; the table shows the version of the first
    "keras": ("keras", "tensorflow"),
    "tf.function": ("tensorflow", "keras"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
Graph = Callable[[np.ndarray], np.ndarray]  # images [B, H, W, C] to latents [B, D], or back


def main() -> None:
    parser = ArgumentParser()
    for name in ("servable", "autoencoder"):
        parser.add_argument(name, type=Path, nargs="?", default=Path("models", name))
    folders = parser.parse_args()
    for file in (folders.servable / "golden.json", folders.autoencoder / "config.json"):
        if not file.is_file():
            sys.exit(
                f"Cannot measure: {file} is missing. Run `make repro`, or name the folders of a "
                "servable and a model."
            )
    names = [name for name, (first, *_) in MODULES.items() if importlib.util.find_spec(first)]
    if "openvino" not in names:
        print(
            "OpenVINO is skipped: it is not installed. Run `uv pip install openvino`.",
            file=sys.stderr,
        )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    answers: dict[str, list[np.ndarray]] = {}
    for name in tqdm([name for turn in range(PROCESSES) for name in np.roll(names, turn).tolist()]):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            figures, answers[name] = fresh.submit(measure, name, folders).result()
        found[name].append(figures)
    installed = [[metadata.packages_distributions()[x][0] for x in MODULES[name]] for name in names]
    table = {"": names, "version": [metadata.version(first) for first, *_ in installed]}
    for row in found["keras"][0]:
        medians = [float(np.median([figures[row] for figures in found[name]])) for name in names]
        table[row] = [f"{median:.{2 if median < 100 else 0}f}" for median in medians]
    for number, row in enumerate(("latents off by", "pixels of [0, 1] off by")):
        off = [np.abs(answers[name][number] - answers["keras"][number]).max() for name in names]
        table[row] = [f"{largest:.0e}" for largest in off]
    table["disk, MB"] = [f"{disk_megabytes(distributions):.0f}" for distributions in installed]
    for row, cells in table.items():
        print(f"{row:<24}" + "".join(f"{cell:>12}" for cell in cells))


def questions(servable: Path) -> list[np.ndarray]:
    """A batch of the largest size: shifted golden images, and latents distributed like theirs."""
    verbs = [call["verb"] for call in json.loads((servable / "golden.json").read_bytes())]
    with np.load(servable / "golden.npz", allow_pickle=False) as golden:
        images, latents = (golden[f"{verbs.index('encode')}.{x}"] for x in ("input", "output"))
    moved = [np.roll(images[i % len(images)], i // len(images), axis=1) for i in range(max(CALLS))]
    drawn = np.random.default_rng(0).normal(size=(max(CALLS), latents.shape[1]))
    return [np.stack(moved), (latents.mean(0) + drawn * latents.std(0)).astype(np.float32)]


def measure(name: str, folders: Namespace) -> tuple[dict[str, float], list[np.ndarray]]:
    """Measure one candidate in this fresh process.

    Returns the figures by row of the table, and the latents and images that it computes.
    """
    if "keras" in MODULES[name]:
        import latentworks.artifacts.images  # noqa: F401  untimed: pandas is no runtime
    images, latents = questions(folders.servable)
    before, started = Process().memory_info().rss / 1e6, default_timer()
    encoder, decoder = load(name, folders)
    decoder(encoder(images[:1]))
    figures = {"first answer, s": default_timer() - started}
    for row, sizes in (("decoder, new size, ms", SIZES), ("decoder, met size, ms", SIZES[::-1])):
        figures[row] = float(np.median([milliseconds(decoder, latents[:n], 1) for n in sizes]))
    figures[f"memory to batch {max(SIZES)}, MB"] = peak_megabytes() - before
    for half, graph, rows in (("encoder", encoder, images), ("decoder", decoder, latents)):
        for size, calls in CALLS.items():
            figures[f"{half}, batch {size}, ms"] = milliseconds(graph, rows[:size], calls)
    figures[f"memory to batch {max(CALLS)}, MB"] = peak_megabytes() - before
    return figures, [encoder(images), decoder(latents)]


def load(name: str, folders: Namespace) -> list[Graph]:
    """Load encoder and decoder. Imports the runtime, while the clock runs."""
    halves: Any = [str(folders.servable / f"{half}.onnx") for half in ("encoder", "decoder")]
    if "keras" in MODULES[name]:
        from latentworks.artifacts.model import read_model
        from latentworks.engine.backend import tf
        from latentworks.models.config import ModelConfig

        halves = read_model(folders.autoencoder, ModelConfig).graphs().values()

    def graph(half: Any) -> Any:
        if name == "keras":
            return half.predict_on_batch
        if name == "tf.function":
            any_size = tf.TensorSpec(half.inputs[0].shape, half.inputs[0].dtype)
            traced = tf.function(half, input_signature=[any_size])
            return lambda batch: traced(batch).numpy()
        runtime = importlib.import_module(name)
        if name == "onnxruntime":
            session = runtime.InferenceSession(half, providers=["CPUExecutionProvider"])
            argument = session.get_inputs()[0].name
            return lambda batch: session.run(None, {argument: batch})[0]
        compiled = runtime.compile_model(half, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda batch: compiled(batch)[0]

    return [graph(half) for half in halves]


def milliseconds(graph: Graph, batch: np.ndarray, calls: int) -> float:
    return 1000 * float(np.median(repeat(lambda: graph(batch), number=1, repeat=calls)))


def peak_megabytes() -> float:  # Linux counts in KiB, macOS in bytes
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def disk_megabytes(packages: list[str]) -> float:
    """Size on disk of packages and all their requirements, without bytecode."""
    needed, num_bytes = [*packages], 0
    for package in needed:  # the list grows in the loop
        found = metadata.distribution(package)
        files = [Path(file.locate()) for file in found.files or () if file.suffix != ".pyc"]
        num_bytes += sum(file.stat().st_size for file in files if file.is_file())
        for need in map(Requirement, found.requires or ()):
            if not need.marker or need.marker.evaluate({"extra": ""}):
                needed += {need.name.lower().replace("_", "-")} - {"numpy", *needed}
    return num_bytes / 1e6


if __name__ == "__main__":
    main()
