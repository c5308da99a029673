"""Files from the network, taken from the first mirror that serves the content that is pinned."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from latentworks.datasets.pinned import Mirror, MirrorError, PinnedFile
from latentworks.errors import DataError


def fetch(
    files: Sequence[PinnedFile], mirrors: Sequence[Mirror], downloads: Path, folder: Path
) -> list[str]:
    """Bring all files into `folder`. `downloads` keeps what is incomplete for another try.

    Returns what became of each mirror that was asked. Raises DataError where none could serve.
    """
    outcomes: list[str] = []
    downloads.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for mirror in mirrors:
        try:
            mirror.fetch(files, downloads, folder)
        except MirrorError as error:
            outcomes.append(f"{mirror} failed ({error})")
        else:
            shutil.rmtree(downloads)
            return [*outcomes, f"{mirror} served"]
    raise DataError(
        f"no mirror could serve {files[0].name} and the files with it: {'; '.join(outcomes)}. "
        "Check the network and run it again, which goes on where it stopped."
    )
