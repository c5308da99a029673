"""What must outlive a kill, or a server that is away, so that a training is one whole run.

That is a key, by which its run is found again, and the pictures that no server has yet; the curves
are in the checkpoint, and what was trained is in the files.
"""

import hashlib
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentworks.system import disk
from latentworks.system.state import STATE


class Live:
    """The training that is, or was last, under way in a checkout, for one tracking store."""

    def __init__(self, root: Path, uri: str) -> None:
        self.folder = root / STATE / "live" / hashlib.sha256(uri.encode()).hexdigest()[:16]
        self._note = self.folder / "note.json"

    def begin(self, fingerprint: str) -> None:
        """A training begins, or goes on; the one before it, if that was another, never will."""
        note = self._read()
        note.pop("model", None)
        if note.get("fingerprint") != fingerprint:
            for picture in self.pictures().values():
                picture.unlink()
            left = [*note.get("left", []), *([note["key"]] if "key" in note else [])]
            note = {"fingerprint": fingerprint, "key": uuid.uuid4().hex, "left": left}
        self._write(note)

    def became(self, model: str) -> None:
        """The training is over, and made the model with this digest."""
        self._write({**self._read(), "model": model})

    @property
    def key(self) -> str | None:
        """A tag of its run; None where there is no training that could go on."""
        key: str | None = self._read().get("key")
        return key

    @property
    def model(self) -> str | None:
        """The digest of what it became; None while it is not over."""
        digest: str | None = self._read().get("model")
        return digest

    @property
    def left(self) -> list[str]:
        """The keys of trainings that never went on, whose runs may still be open."""
        return list(self._read().get("left", []))

    def end(self) -> None:
        """The run is whole, and those that were left are closed: nothing is to be kept."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget_left(self) -> None:
        if self.left:
            self._write({**self._read(), "left": []})

    # --- pictures --------------------------------------------------------------------------------

    def add(self, step: int, picture: np.ndarray) -> None:
        """Keep a picture, uint8 [h, w, C], until the store has it.

        It is not flushed to disk: a training does not wait for what only shows how it went.
        """
        shown = picture[..., 0] if picture.shape[-1] == 1 else picture
        temporary = self.folder / "picture.partial"
        Image.fromarray(shown).save(temporary, format="PNG", compress_level=1)
        temporary.replace(self.folder / f"{step:05}.png")

    def pictures(self) -> dict[int, Path]:
        """Those that are kept, by step."""
        return {int(path.stem): path for path in sorted(self.folder.glob("[0-9]*.png"))}

    # --- the note --------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any]:
        try:
            return dict(disk.read_json(self._note))
        except (OSError, ValueError, TypeError):  # there is none, or it was spoiled
            return {}

    def _write(self, note: dict[str, Any]) -> None:
        disk.write_json(self._note, note)
