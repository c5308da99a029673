"""Export of a servable: the folder that a server loads.

encoder.onnx, decoder.onnx    the graphs
interface.json                image shape, number of latents and labels, on which clients rely
sampler/                      a copy of the folder that the stage `sample` wrote
test_errors.npy               errors of test images, for the percentiles of anomaly scores
class_shares.npy              the share of each class among samples, if samples have classes
golden.json, golden.npz       the golden calls, and the answers that Keras gave
code/latentworks_<digest>/    the modules of this project that the servable imports
"""

import ast
import hashlib
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from latentworks.engine.backend import keras
from latentworks.engine.onnx_file import write_onnx
from latentworks.models.network import Network
from latentworks.samplers.drawing import Sampler
from latentworks.serving import golden
from latentworks.serving.servable import Interface, Servable
from latentworks.system import disk

ENTRY = "latentworks.serving.servable"  # the module that a client imports
SOURCE = Path(__file__).parents[2]


def write(
    folder: Path,
    network: Network,
    sampler: Sampler,
    sampler_folder: Path,
    interface: Interface,
    test_images: np.ndarray,
    test_errors: np.ndarray,
    class_shares: np.ndarray | None = None,
) -> None:
    """Write the servable into `folder`, which exists.

    `test_images`: uint8 [N, H, W, C] with N >= 2, for the golden calls. `test_errors`: [T],
    ascending, mean squared reconstruction errors of test images. `class_shares`: the share of each
    class of the interface among samples, [K].
    """
    errors = test_errors.astype(np.float32)
    reference = Servable(
        interface,
        lambda images, labels: keras.ops.convert_to_numpy(network.encode(images, labels)),
        lambda latents, labels: keras.ops.convert_to_numpy(network.decode(latents, labels)),
        sampler,
        errors,
        class_shares,
        conditional=network.num_classes > 0,
    )
    for name, graph in network.graphs().items():
        write_onnx(folder / f"{name}.onnx", graph)
    disk.write_json(folder / "interface.json", asdict(interface))
    shutil.copytree(sampler_folder, folder / "sampler")
    np.save(folder / "test_errors.npy", errors, allow_pickle=False)
    if class_shares is not None:
        np.save(folder / "class_shares.npy", class_shares, allow_pickle=False)
    golden.write(folder, reference, test_images, quantised=network.levels is not None)
    write_code(folder / "code")


def write_code(folder: Path) -> None:
    """Copy the modules that ENTRY imports, as a package named by the digest of their text.

    One process can then load two versions, each with its own code. If both packages had the same
    name, Python would reuse the modules of the first version for the second.
    """
    texts = {module: _file(module).read_text(encoding="utf-8") for module in _closure(ENTRY)}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:12]
    package = f"latentworks_{digest}"
    for module, text in texts.items():
        target = folder / package / _file(module).relative_to(SOURCE / "latentworks")
        target.parent.mkdir(parents=True, exist_ok=True)
        renamed = re.sub(
            r"^(\s*(?:from|import) )latentworks\b", rf"\1{package}", text, flags=re.MULTILINE
        )
        target.write_text(renamed, encoding="utf-8")


def _closure(entry: str) -> set[str]:
    """Return `entry`, the modules of this project that it imports, and the packages of them all."""
    found: set[str] = set()
    waiting = {entry}
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        if "." in module:
            waiting.add(module.rpartition(".")[0])
        for node in ast.walk(ast.parse(_file(module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                waiting |= {n for n in names if n.startswith("latentworks") and _file(n).is_file()}
    return found


def _file(module: str) -> Path:
    path = SOURCE / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
