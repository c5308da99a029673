"""State of a training on disk, so that it becomes one complete run after a kill or an outage.

The state is a key, by which the run is found again, and the pictures that the store does not have
yet. The curves are in the checkpoint, and the model is among the outs.
"""

import hashlib
import shutil
import uuid
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from latentworks.system import disk
from latentworks.system.state import STATE


class Note(TypedDict, total=False):
    """The state of a training, in a file."""

    fingerprint: str  # of the training
    key: str  # of its run
    left: list[str]  # keys of abandoned trainings
    model: str  # digest of the trained model


class Live:
    """The current or last training of a checkout, as one tracking store has to show it."""

    def __init__(self, root: Path, uri: str) -> None:
        self.folder = root / STATE / "live" / hashlib.sha256(uri.encode()).hexdigest()[:16]
        self._note = self.folder / "note.json"

    def begin(self, fingerprint: str) -> None:
        """Begin a training, or continue it if the fingerprint is the same.

        The key of another, unfinished training moves to `left`, since that never continues.
        """
        note = self._read()
        note.pop("model", None)
        if note.get("fingerprint") != fingerprint:
            for picture in self.pictures().values():
                picture.unlink()
            left = [*note.get("left", []), *([note["key"]] if "key" in note else [])]
            note = {"fingerprint": fingerprint, "key": uuid.uuid4().hex, "left": left}
        self._write(note)

    def became(self, model: str) -> None:
        """Record that the training has finished and made the model with this digest."""
        self._write({**self._read(), "model": model})

    @property
    def key(self) -> str | None:
        """Value of the tag `run.key` of the run; None if there is no training to continue."""
        return self._read().get("key")

    @property
    def model(self) -> str | None:
        """Digest of the trained model; None while the training is unfinished."""
        return self._read().get("model")

    @property
    def left(self) -> list[str]:
        """Keys of abandoned trainings, whose runs may still have the status RUNNING."""
        return list(self._read().get("left", []))

    def end(self) -> None:
        """Delete the state: the run is complete, and the runs of abandoned trainings are closed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget_left(self) -> None:
        if self.left:
            self._write({**self._read(), "left": []})

    # --- pictures --------------------------------------------------------------------------------

    def add(self, step: int, picture: np.ndarray) -> None:
        """Keep a picture, uint8 [h, w, C], until the store has it.

        It is not flushed to disk: the training does not wait for a picture.
        """
        shown = picture[..., 0] if picture.shape[-1] == 1 else picture
        temporary = self.folder / "picture.partial"
        Image.fromarray(shown).save(temporary, format="PNG", compress_level=1)
        temporary.replace(self.folder / f"{step:05}.png")

    def pictures(self) -> dict[int, Path]:
        """Return the paths of the kept pictures, by step."""
        return {int(path.stem): path for path in sorted(self.folder.glob("[0-9]*.png"))}

    # --- the note --------------------------------------------------------------------------------

    def _read(self) -> Note:
        try:
            note: Note = disk.read_json(self._note)
            return note if isinstance(note, dict) else {}
        except (OSError, ValueError):  # the file does not exist, or is damaged
            return {}

    def _write(self, note: Note) -> None:
        disk.write_json(self._note, note)
