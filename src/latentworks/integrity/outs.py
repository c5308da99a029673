"""The files that dvc.lock records: outs of stages, and their deps."""

import os
from dataclasses import dataclass
from pathlib import Path

from latentworks.errors import LatentworksError
from latentworks.integrity.report import Verified
from latentworks.repository import dag
from latentworks.repository.cache import MD5, Cache


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
    advice: str = ""  # for damage that was not repaired, if no stage makes the files

    @property
    def needed(self) -> bool:
        """False if only its cache objects count, and those that exist."""
        return not self.advice

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


def inputs(outs: list[Out], cache: Cache) -> list[Out]:
    """Return the deps that no stage makes and DVC's cache has: images that were added to DVC."""
    made = {out.md5 for out in outs}
    advice = "If the file in the checkout is intact, run `dvc commit`."
    names = {str(dep.get("md5")): str(dep["path"]) for dep in _deps(cache.root)}
    return [
        Out(name, cache.root / name, md5, advice=advice)
        for md5, name in names.items()
        if MD5.fullmatch(md5) and md5 not in made and os.path.lexists(cache.path(md5))
    ]


def verify_sources(root: Path, outs: list[Out]) -> Verified:
    """Note which of the user's own files differ from dvc.lock. These are never repaired."""
    made = [Path("src"), *(Path(out.name) for out in outs)]
    deps = {(str(dep["path"]), str(dep.get("md5"))): int(dep.get("size", 0)) for dep in _deps(root)}
    seen = Verified()
    for (name, md5), size in deps.items():
        if not any(map(Path(name).is_relative_to, made)):
            change = _change(root / name, md5)
            seen += Verified(notes=(f"{name} {change}",)) if change else Verified(num_bytes=size)
    return seen


def _change(path: Path, md5: str) -> str:
    """How a file or folder differs from the recorded one, and what to do; "" if it does not."""
    restore = f"Restore the input that {dag.LOCK} records."
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe never ends
            return f"is neither a file nor a folder. {restore}"
        if dag.md5_of(path) == md5:
            return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}. {restore}"
    return (
        f"differs from {dag.LOCK}: it was edited, or damaged. It is your own file, and was left "
        "alone; the next `make repro` reads it again."
    )


def _deps(root: Path) -> list[dag.File]:
    return [dep for stage in dag.locked(root).values() for dep in stage.get("deps", ())]
