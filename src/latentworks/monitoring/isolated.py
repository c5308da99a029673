"""Runs a version in a process of its own, which cannot write files or read the user's.

`python -m latentworks.monitoring.isolated FOLDER` loads the version in the model folder FOLDER and
describes it, or its fault, in a line of JSON on standard output. It then reads arrays of images
from standard input, each in NumPy's format after its size, and answers each with three arrays:
errors, latents and reconstructions.
"""

import io
import json
import os
import signal
import site
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, Self

import numpy as np

from latentworks.errors import RegistryError
from latentworks.preprocess import Fit, Ranges, prepare_image
from latentworks.registry.signatures import PRIVATE, Keys
from latentworks.repository import dag
from latentworks.serving import loading
from latentworks.system import landlock, processes
from latentworks.system.console import first_line

if TYPE_CHECKING:
    from latentworks.serving.servable import Servable

SOURCE = Path(__file__).parents[2]  # the folder of the project's code
# Folders of the system that a version may read: libraries, settings, and facts about the machine.
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/opt", "/nix", "/etc", "/proc", "/sys", "/dev/urandom")
SIZE = struct.Struct("=Q")  # the number of bytes of an array, before the array


@dataclass(frozen=True)
class About:
    """The images that a version takes, and the size of its latents."""

    image_shape: tuple[int, int, int]  # height, width, channels
    latent_dim: int
    fit: Fit  # how images of other sizes are resized: see `prepare_image`
    background: int
    value_range: Ranges  # of dtypes that are not read in full

    @property
    def prepare(self) -> Callable[[np.ndarray], np.ndarray]:
        """The function that prepares a raw image as the training images were: uint8 [H, W, C].

        Workers that decode images get it, and do not import this module.
        """
        return partial(
            prepare_image,
            shape=self.image_shape,
            fit=self.fit,
            background=self.background,
            ranges=self.value_range,
        )


class Answer(NamedTuple):
    """Measurements of N images."""

    errors: np.ndarray  # float32 [N]: mean squared error of each reconstruction
    latents: np.ndarray  # float32 [N, D]
    reconstructions: np.ndarray  # float32 [N, H, W, C]


class Isolated:
    """A version whose code runs in another process, which ends with the `with` block."""

    def __init__(self, folder: Path, name: str) -> None:
        """Load the version in the model folder `folder`; messages call it `name`.

        Raises RegistryError if its code fails.
        """
        self.name = name
        call = [sys.executable, "-P", "-m", __name__, str(folder)]
        self.process = subprocess.Popen(
            processes.tied(landlock.confined(call, _readable(folder))),
            env={
                **{name: value for name, value in os.environ.items() if "MLFLOW" not in name},
                "PYTHONPATH": str(SOURCE),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        said = json.loads(self._out.readline() or "{}")
        if "image_shape" not in said:
            self.__exit__()
            raise RegistryError(f"{name} fails: {said.get('fault', 'its process ended')}.")
        said["image_shape"] = tuple(said["image_shape"])
        self.about = About(**said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def _out(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def measure(self, images: np.ndarray) -> Answer:
        """Encode and decode images uint8 [N, H, W, C]. Raises RegistryError if the code fails."""
        assert self.process.stdin is not None
        try:
            _write(self.process.stdin, images)
            return Answer(*(_read(self._out) for _ in Answer._fields))
        except _Failed as fault:
            raise RegistryError(f"{self.name} fails: {fault}.") from None
        except (OSError, EOFError, ValueError, struct.error):  # the stream ended, or is no array
            raise RegistryError(f"{self.name} fails: its process ended among the images.") from None


def _readable(folder: Path) -> list[Path]:
    """The places that a version in the model folder `folder` may read.

    The folder of the keys and the private key are left out, wherever they are, and the checkout, if
    it lies in a folder of the system.
    """
    python = Path(sys.executable)
    settings = python.parents[1] / "pyvenv.cfg"  # from which it learns its prefix
    packages = [sys.prefix, sys.base_prefix]
    if site.ENABLE_USER_SITE:
        packages.append(site.getusersitepackages())
    keys = Keys.of_user().folder
    hidden = [keys.resolve(), (keys / PRIVATE).resolve()]
    checkout = [SOURCE.parent.resolve()] if (SOURCE.parent / dag.DAG).exists() else []
    own = [folder, SOURCE, python, settings, *map(Path, packages)]
    return [
        *(part for path in own for part in landlock.without(hidden, path.resolve())),
        *(
            part
            for path in SYSTEM
            for part in landlock.without([*hidden, *checkout], Path(path).resolve())
        ),
    ]


class _Failed(Exception):
    """The code of the version raised an exception."""


def _write(stream: IO[bytes], array: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    stream.write(SIZE.pack(content.tell()) + content.getvalue())
    stream.flush()


def _read(stream: IO[bytes]) -> np.ndarray:
    (size,) = SIZE.unpack(stream.read(SIZE.size))
    if size == 0:
        raise _Failed(stream.readline().decode(errors="replace").strip())
    array: np.ndarray = np.load(io.BytesIO(stream.read(size)), allow_pickle=False)
    return array


# --- the other process ---------------------------------------------------------------------------


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this process
    # The code of the version may print: standard output is for the answers alone.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        servable = loading.load(Path(sys.argv[1]))
        said: dict[str, object] = asdict(
            About(
                servable.image_shape,
                servable.latent_dim,
                servable.interface.fit,
                servable.interface.background,
                getattr(servable.interface, "value_range", {}),  # older versions lack it
            )
        )
    except Exception as error:  # a broken version may raise anything
        said = {"fault": _fault(error)}
    out.write(json.dumps(said).encode() + b"\n")
    out.flush()
    with open(0, "rb") as batches:
        while "fault" not in said and batches.peek(1):
            try:
                answer = _measure(servable, _read(batches))
            except Exception as error:
                out.write(SIZE.pack(0) + f"{_fault(error)}\n".encode())
                break
            for array in answer:
                _write(out, array)
    out.close()


def _measure(servable: "Servable", images: np.ndarray) -> Answer:
    latents = servable.encode_images(images)
    reconstructions = servable.decode_latents(latents)
    with np.errstate(invalid="ignore", over="ignore"):  # a diverged model gives NaN
        difference = images / np.float32(255) - reconstructions
        return Answer((difference**2).mean(axis=(1, 2, 3)), latents, reconstructions)


def _fault(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}".rstrip(".")


if __name__ == "__main__":
    main()
