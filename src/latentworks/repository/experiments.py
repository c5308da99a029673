"""DVC's experiments, some of which run in a copy of the checkout: `--temp` and `--queue`."""

import os
from pathlib import Path

COPIES = (".dvc", "tmp", "exps")  # the folder of a checkout in which DVC makes copies
ALONE = "standalone"  # a folder in it, for --temp
NAME = "DVC_EXP_NAME"  # environment variable of a stage: the name of the experiment


def project(root: Path) -> Path:
    """Return the user's checkout: `root`, or the one of which DVC has made the copy `root`."""
    for folder in root.resolve().parents:
        if folder.parts[-len(COPIES) :] == COPIES:
            return folder.parents[len(COPIES) - 1]
    return root


def name() -> str:
    """Return the name of the experiment that runs this process; "" if it is none."""
    return os.environ.get(NAME, "")


def link_images(root: Path, path: Path) -> None:
    """Make a relative path that leaves the checkout, as `../photos`, lead there from copies, too.

    In a copy, the path ends in the folder of copies, where a link is put. Other paths need none:
    git or DVC has the images in the checkout, or the path is absolute.
    """
    copies = root.joinpath(*COPIES)
    for folder in (copies, copies / ALONE):  # of --queue, and of --temp
        place = Path(os.path.normpath(folder / "copy" / path))
        if place.is_relative_to(folder / "copy") or not place.is_relative_to(copies.parent):
            continue
        if place.is_symlink() or not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            place.symlink_to(os.path.normpath(root / path))
