"""Scores of registered versions: recorded at registration, or made anew in a checkout."""

from contextlib import suppress
from pathlib import Path

from latentworks.errors import RegistryError
from latentworks.promotion.scores import Scores, scorer_digest
from latentworks.registry import candidates
from latentworks.registry.store import RegistryStore
from latentworks.registry.versions import Version
from latentworks.repository.result import recorded_result
from latentworks.serving import packaging, preflight
from latentworks.system import disk


def scores(store: RegistryStore, root: Path, version: Version, data: str) -> Scores:
    """Return the scores of a version on the data with the fingerprint `data`.

    These are the scores recorded at registration, if they are of the same data and the same
    scoring code. Else the version is scored on the prepared data of this checkout, and the
    scores are kept. Raises RegistryError if this checkout has other data.
    """
    folder = store.fetch(version)
    kept = root / ".latentworks" / "scores" / f"{version.sha256}-{data}.json"
    for path in (folder / packaging.SCORES, kept):
        with suppress(
            OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError
        ):  # no file, or a file in an old format
            recorded = Scores.from_json(disk.read_json(path))
            if (recorded.data, recorded.scorer) == (data, scorer_digest()):
                return recorded
    result = recorded_result(root)
    prepared = result.outs.get("prepared") if result else None
    if prepared is None or candidates.fingerprint(prepared) != data:
        raise RegistryError(
            f"Cannot score {version}: it was scored on other test data, or by other code, and "
            "this checkout does not have the challenger's data. Run the command in the "
            "checkout that made the challenger, after `dvc checkout`."
        )
    preflight.run(folder, prepared, kept)
    return Scores.from_json(disk.read_json(kept))
