"""The files that dvc.lock records: outs of stages, and their deps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentworks.errors import LatentworksError
from latentworks.integrity.objects import MD5
from latentworks.repository import dag


@dataclass(frozen=True)
class Out:
    """A file or folder that a stage writes, as dvc.lock records it."""

    name: str  # its path in dvc.lock
    path: Path
    md5: str
    stage: str = ""
    size: int = 0
    cached: bool = True  # False: it has no cache object
    persists: bool = False  # True: the folder may hold files of the user
    needed: bool = True  # False: only its cache objects count, and those that exist

    @property
    def is_folder(self) -> bool:
        return self.md5.endswith(dag.FOLDER)


def recorded(root: Path) -> list[Out]:
    """Return the outs of all stages, as dvc.lock records them. Raises LatentworksError."""
    locks = dag.locked(root)
    outs = []
    for stage, written in dag.stages(root).items():
        known = dag.options(written)
        for entry in locks.get(stage, {}).get("outs", ()):
            name, md5, size = str(entry["path"]), str(entry.get("md5")), int(entry.get("size", 0))
            if not MD5.fullmatch(md5):
                raise LatentworksError(
                    f"{dag.LOCK} has no MD5 of {name}. Received: {md5!r}. Run `make repro`."
                )
            flags = known.get(name, dag.options({"outs": [name]})[name])
            outs.append(Out(name, root / name, md5, stage, size, flags["cache"], flags["persist"]))
    return outs


def inputs(root: Path, outs: list[Out]) -> list[Out]:
    """Return the deps that are no outs: images in DVC, and code."""
    made = {out.md5 for out in outs}
    names = {str(dep.get("md5")): str(dep["path"]) for dep in _deps(root)}
    return [
        Out(name, root / name, md5, needed=False)
        for md5, name in names.items()
        if MD5.fullmatch(md5) and md5 not in made
    ]


def changed_sources(root: Path, outs: list[Out]) -> tuple[dict[str, str], int]:
    """Return notes on the user's own files that differ from dvc.lock, and the bytes read.

    These files are never repaired.
    """
    made = [Path("src"), *(Path(out.name) for out in outs)]
    deps = {(str(dep["path"]), str(dep.get("md5"))): int(dep.get("size", 0)) for dep in _deps(root)}
    notes, num_bytes = {}, 0
    for (name, md5), size in deps.items():
        if any(map(Path(name).is_relative_to, made)):
            continue
        change = _change(root / name, md5)
        if change:
            notes[name] = f"{name} {change}"
        else:
            num_bytes += size
    return notes, num_bytes


def _change(path: Path, md5: str) -> str:
    """How a file or folder differs from the recorded one, and what to do; "" if it does not."""
    try:
        if not path.exists():
            return f"is missing. {dag.LOCK} records it as an input. Restore it."
        if not (path.is_file() or path.is_dir()):  # reading a pipe would never end
            return f"is neither a file nor a folder. Restore the input that {dag.LOCK} records."
        if dag.md5_of(path) == md5:
            return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}. Make it readable, or restore it."
    return (
        f"differs from {dag.LOCK}: it was edited, or damaged. It is your own file, and was left "
        "alone; the next `make repro` reads it again."
    )


def _deps(root: Path) -> list[dict[str, Any]]:
    return [dep for stage in dag.locked(root).values() for dep in stage.get("deps", ())]
