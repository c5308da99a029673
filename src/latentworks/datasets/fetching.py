"""Download of pinned files from the first mirror that serves their content."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from latentworks.datasets.pinned import Mirror, MirrorError, PinnedFile
from latentworks.errors import DataError


def fetch(
    files: Sequence[PinnedFile], mirrors: Sequence[Mirror], downloads: Path, folder: Path
) -> list[str]:
    """Download all files into `folder`. `downloads` keeps incomplete files for the next try.

    Returns the outcome for each mirror tried. Raises DataError if every mirror failed.
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
        f"No mirror could serve {files[0].name} and the files with it: {'; '.join(outcomes)}. "
        "Check the network and run the command again: the download resumes."
    )
