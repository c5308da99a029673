"""The previous outputs of a stage, kept while DVC runs it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from latentworks.repository import dag
from latentworks.system import disk
from latentworks.system.state import STATE

KEPT = STATE / "kept"  # hard links to the previous outputs, while their stage runs


@contextmanager
def kept(root: Path, stage: str) -> Iterator[None]:
    """Put the previous outputs of a stage back in place if the block fails.

    DVC removes them before the stage runs. Hard links keep them: these take no space, so that it
    works with a full disk. Some file systems have no hard links; there, nothing is put back.
    """
    written = dag.stages(root)[stage]
    options = dag.options(written)
    outs = [out for out in dag.outs_of(written) if not options[out]["persist"]]
    for out in outs:
        with suppress(OSError):
            _keep(root / out, root / KEPT / out)
    try:
        yield
    except BaseException:
        for out in outs:
            with suppress(OSError):
                _put_back(root / KEPT / out, root / out)
        raise
    for out in outs:
        disk.remove(root / KEPT / out)


def _keep(path: Path, kept: Path) -> None:
    if not path.exists():
        return  # a run that was killed may have left its link in `kept`
    disk.remove(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, kept, copy_function=os.link)
    else:
        os.link(path, kept)


def _put_back(kept: Path, path: Path) -> None:
    if kept.exists():
        disk.remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept.rename(path)
