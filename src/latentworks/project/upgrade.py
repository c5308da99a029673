"""Upgrade of a project: its files follow a newer commit of the template, and edits stay."""

from dataclasses import dataclass
from pathlib import Path

from latentworks.errors import LatentworksError
from latentworks.project import template
from latentworks.repository import git, package
from latentworks.system import disk
from latentworks.system.state import STATE

BEGUN = STATE / "upgrade.json"  # exists while an upgrade runs, and after one that was killed
UNDO = "`git reset --hard && git clean --force -d`"
MAX_SHOWN = 3  # files in a message


@dataclass(frozen=True)
class Upgraded:
    """The commit that a project follows now, and the files whose edits clash with the new ones."""

    commit: str
    conflicts: list[str]
    is_new: bool = True


def upgrade(root: Path, revision: str = "HEAD") -> Upgraded:
    """Merge the template at a revision of its repository into a project; nothing is committed.

    The caller holds the lock of the checkout. Raises LatentworksError for a folder that was not
    made by `latentworks new`, and for files that git does not have yet: all that an upgrade could
    overwrite is in a commit.
    """
    source = template.source_of(root)
    if source is None:
        raise LatentworksError(
            f"{root} was not made by `latentworks new --images PATH FOLDER`, so it follows no "
            "template. A clone of latentworks gets a new version by `git pull`."
        )
    _refuse_uncommitted(root)
    commit = template.commit_at(root, source, revision)
    if commit == package.pinned(root):
        return Upgraded(commit, [], is_new=False)
    disk.write_json(root / BEGUN, {"commit": git.object_id(root, "HEAD")})
    try:
        conflicts = template.update(root, commit)
    except LatentworksError as error:
        undone = " Nothing was changed." if not _uncommitted(root) else f" Undo it: {UNDO}."
        raise LatentworksError(f"{error}{undone}") from None
    (root / BEGUN).unlink(missing_ok=True)
    return Upgraded(commit, conflicts)


def _uncommitted(root: Path) -> list[str]:
    status = git.run(root, "status", "--porcelain", "--no-renames", "-z", "--", ".").split("\0")
    return [entry[3:] for entry in status if entry]


def _refuse_uncommitted(root: Path) -> None:
    files = _uncommitted(root)
    begun = root / BEGUN
    if not files:
        begun.unlink(missing_ok=True)
        return
    more = f" and {len(files) - MAX_SHOWN} more" if files[MAX_SHOWN:] else ""
    cure = "Commit them, then run the same command again: `git add --all && git commit`."
    if begun.exists():
        cure = f"An upgrade was interrupted here. Undo it, then run the same command again: {UNDO}."
    raise LatentworksError(
        f"Cannot upgrade: edits are not committed, in {', '.join(files[:MAX_SHOWN])}{more}. {cure}"
    )
