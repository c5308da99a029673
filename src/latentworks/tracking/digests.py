"""Digests of what a run has, in a file of the run, so that nothing is logged to it twice."""

import tempfile
from contextlib import suppress
from pathlib import Path

from mlflow import MlflowClient

from latentworks.system import disk

FILE = "digests.json"
OF_FILES = "files."  # starts the names of digests of files, and of the tags that runs had before


class Digests:
    """The digests of one run, by name."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self._known: dict[str, str] | None = None

    def get(self, name: str) -> str | None:
        return self._all().get(name)

    def add(self, name: str, digest: str) -> None:
        """Add a digest to the file, unless it is there."""
        known = self._all()
        if known.get(name) != digest:
            self._known = {**known, name: digest}
            self.client.log_dict(self.run_id, dict(sorted(self._known.items())), FILE)

    def _all(self) -> dict[str, str]:
        if self._known is None:
            tags = self.client.get_run(self.run_id).data.tags
            before = {name: tags[name] for name in tags if name.startswith(OF_FILES)}
            self._known = {**before, **self._read()}
        return self._known

    def _read(self) -> dict[str, str]:
        """Read the file; an empty dict if it does not exist, or is damaged."""
        if FILE not in [file.path for file in self.client.list_artifacts(self.run_id)]:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(self.client.download_artifacts(self.run_id, FILE, folder))
            with suppress(ValueError):
                found = disk.read_json(path)
                return found if isinstance(found, dict) else {}
        return {}
