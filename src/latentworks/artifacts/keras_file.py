"""The check that a `.keras` file comes from this project, before Keras makes objects of it.

The check reads bytes and refuses all content that is not known to be harmless. A file of this
project has three members without compression: metadata.json, a config.json that names a class of
this project and classes of Keras, and weights that are plain arrays.
"""

import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NoReturn

from latentworks.errors import UnsafeModel
from latentworks.system import processes

MAX_JSON_BYTES = {"config.json": 1 << 20, "metadata.json": 1 << 16}
WEIGHTS = "model.weights.h5"
MEMBERS = {*MAX_JSON_BYTES, WEIGHTS}
MAX_BYTES = 8 << 30  # more than the largest model that params.yaml can describe
MAX_DEPTH = 40  # of config.json
ENCRYPTED = 0x1  # bit of a member's flags
MAGIC = {
    b"PK\x03\x04": "",  # a zip, as expected
    b"\x89HDF": "an HDF5 file, as Keras wrote models formerly",
    b"\x80": "a pickle, which runs code when it is opened",
}

# The classes that this project has registered: Keras knows only these under the prefix.
OURS = re.compile(r"latentworks>[A-Za-z]\w*")
# The classes of Keras that only hold numbers. Absent on purpose: functions, classes that wrap or
# load code (Lambda, TFSMLayer, JaxLayer, FlaxLayer, TorchModuleWrapper), and those that read files.
CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")
NAMESPACES = {
    *("keras.optimizers", "keras.optimizers.schedules", "keras.losses", "keras.metrics"),
    *("keras.initializers", "keras.regularizers", "keras.constraints"),
}
LAYER = re.compile(
    "Activation|Add|(Average|Max)Pooling2D|Average|BatchNormalization|Concatenate|Conv2D(Transpose)?"
    "|Cropping2D|Dense|DepthwiseConv2D|(Spatial)?Dropout(2D)?|ELU|Embedding|Flatten|GaussianNoise"
    "|Global(Average|Max)Pooling2D|(Group|Layer|Unit)Normalization|Identity|InputLayer|LeakyReLU"
    "|Maximum|Minimum|Multiply|P?ReLU|Permute|RepeatVector|Rescaling|Reshape|SeparableConv2D"
    "|Softmax|Subtract|UpSampling2D|ZeroPadding2D"
)


def require_ours(path: Path) -> None:
    """Raise UnsafeModel unless Keras may open `path`, or OSError if the file is missing."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        _refuse(path, "a folder, such as a SavedModel")
    if not stat.S_ISREG(status.st_mode):
        _refuse(path, "not a regular file")
    if status.st_size > MAX_BYTES:
        _refuse(path, f"{status.st_size} bytes", f"at most {MAX_BYTES}")
    with path.open("rb") as file:
        head = file.read(4)
    known = [kind for magic, kind in MAGIC.items() if head.startswith(magic)]
    if known != [""]:
        _refuse(path, known[0] if known else "empty" if not head else "not a zip")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
            content = {name: archive.read(name) for name in MAX_JSON_BYTES}
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        _refuse(path, f"a damaged zip ({_line(error)})")
    _check_config(path, _parsed(path, "config.json", content["config.json"]))
    _parsed(path, "metadata.json", content["metadata.json"])
    _check_weights(path)


def _refuse(path: Path, what: str, expected: str = "") -> NoReturn:
    raise UnsafeModel(
        f"{path}: {what}. Expected {expected or 'a .keras file as `dvc repro train` writes it'}. "
        "The file was not opened. Restore the file that `train` wrote: "
        f"`dvc checkout --force {path.parent}`."
    )


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Check names, kinds and sizes of the members. Without compression, no member is a zip bomb."""
    for member in members:
        name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
        if name not in MEMBERS:
            _refuse(path, f"has a member {name[:80]!r}", ", ".join(sorted(MEMBERS)))
        if kind not in (0, stat.S_IFREG):
            _refuse(path, f"its member {name} is a link or not a file", "plain files in the zip")
        if member.flag_bits & ENCRYPTED:
            _refuse(path, f"its member {name} is encrypted", "members without encryption")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            _refuse(path, f"its member {name} is compressed", "members without compression")
        if member.file_size > (most := MAX_JSON_BYTES.get(name, MAX_BYTES)):
            _refuse(path, f"its member {name} has {member.file_size} bytes", f"at most {most}")
    if sorted(member.orig_filename for member in members) != sorted(MEMBERS):
        _refuse(
            path, "has a member twice, or lacks one", f"once each: {', '.join(sorted(MEMBERS))}"
        )
    if sum(member.file_size for member in members) > path.stat().st_size:
        _refuse(path, "its members overlap", "members one after the other")


def _parsed(path: Path, name: str, content: bytes) -> dict[str, object]:
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its {name} is not JSON, or nested too deep ({_line(error)})")
    if not isinstance(value, dict):
        _refuse(path, f"its {name} is not an object", "a JSON object")
    return value


def _check_config(path: Path, config: dict[str, object]) -> None:
    """Check that config.json names only known classes, at any depth."""
    if not _is_ours(config):
        _refuse(path, f"a model of class {_named(config)}", "a model class of this project")
    waiting: list[tuple[object, int]] = [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            _refuse(path, f"its config.json is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            naming = {"class_name", "module", "registered_name", "spec_name"} & set(value)
            if naming and not _is_ours(value) and not _is_keras(value):
                _refuse(path, f"names {_named(value)}, which may run code", "plain Keras classes")
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in inner]


def _named(value: dict[str, object]) -> str:
    return repr(".".join(str(value.get(key))[:60] for key in ("module", "class_name")))


def _is_ours(value: dict[str, object]) -> bool:
    registered, class_name = value.get("registered_name"), value.get("class_name")
    return (
        isinstance(registered, str)
        and OURS.fullmatch(registered) is not None
        and registered == f"latentworks>{class_name}"
        and str(value.get("module")).startswith("latentworks.")
    )


def _is_keras(value: dict[str, object]) -> bool:
    module, name = value.get("module"), value.get("class_name")
    if not isinstance(name, str) or value.get("registered_name") not in (None, name):
        return False
    if module == "keras.layers":
        return LAYER.fullmatch(name) is not None
    if module == "keras":
        return name == "DTypePolicy"
    return module in NAMESPACES and CLASS.fullmatch(name) is not None


def _check_weights(path: Path) -> None:
    """Check that the weights are groups of plain arrays inside this file."""
    changes = {"PYTHONPATH": str(Path(__file__).parents[2]), "OPENBLAS_NUM_THREADS": "1"}
    call = [sys.executable, "-P", "-m", "latentworks.artifacts.weights_file", str(path.absolute())]
    looking = subprocess.run(
        processes.tied(call),
        env=os.environ | changes,  # each thread would reserve addresses, which are limited
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    fault = looking.stdout.strip()
    if looking.returncode != 0:  # a limit of time or memory, or a crash of HDF5, ended the process
        fault = "cannot be read within its limits of time and memory"
    if fault:
        _refuse(path, f"its {WEIGHTS} {fault}", "plain arrays")
