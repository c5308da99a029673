"""Refusals of candidates and versions whatever their scores."""

from collections.abc import Callable

from latentworks.errors import Refused, RegistryError, Unavailable, Untrusted
from latentworks.registry import candidates
from latentworks.registry.aliases import REFUSED, Aliases
from latentworks.registry.candidates import Candidate
from latentworks.registry.versions import WITHDRAWN, Version
from latentworks.serving import loading


def refuse_other_interface(aliases: Aliases, candidate: Candidate) -> None:
    """Raise Refused if the model had a champion, whose clients rely on another interface."""
    known, ours = aliases.store.interface(aliases.name), candidate.interface()
    if known not in (None, ours) and _had_champion(aliases):
        raise Refused(
            f"Cannot register: {aliases.name} holds models of {known}, and its clients rely on "
            f"that. Received: {ours}. Set promotion.model_name to another name."
        )


def _had_champion(aliases: Aliases) -> bool:
    decisions = aliases.store.decisions.of(aliases.name)
    return aliases.champion is not None or any(entry.decision != REFUSED for entry in decisions)


def refuse_former_interface(aliases: Aliases, version: Version) -> None:
    """Raise RegistryError if another version has given the model its interface since."""
    ours = candidates.interface_of(aliases.store.fetch(version) / loading.SERVABLE)
    known = aliases.store.interface(aliases.name)
    if known not in ("", ours):
        raise RegistryError(
            f"Cannot promote {version}: it has {ours}, and a result with {known} was "
            "registered after it. Run `latentworks register` where its result is, then "
            f"`latentworks promote {version.number}`."
        )


def refuse_champion(aliases: Aliases, version: Version) -> None:
    """Raise RegistryError if the version is champion."""
    champion = aliases.champion
    if champion is not None and champion.number == version.number:
        raise RegistryError(f"Cannot promote {version}: it is champion already.")


def reason(aliases: Aliases, version: Version, preflight: Callable[[Version], None]) -> str | None:
    """The reason to refuse a version: in its history, or the error of its pre-flight; else None."""
    if found := _in_history(aliases, version):
        return found
    try:
        preflight(version)
    except (Unavailable, Untrusted):
        raise
    except RegistryError as error:
        return str(error).rstrip(".")
    return None


def _in_history(aliases: Aliases, version: Version) -> str | None:
    if WITHDRAWN in version.tags:
        return (
            f"it was rolled back: {version.tags[WITHDRAWN]}. `latentworks rollback "
            f"{version.number}` would make it champion again"
        )
    if lost := _deleted_champion(aliases, version):
        return (
            f"it was refused against version {lost}, which was champion, and no champion is "
            "left to compare it with. Register another result"
        )
    return None


def _deleted_champion(aliases: Aliases, version: Version) -> int | None:
    """The champion against which a version was refused, if there is no champion now."""
    if aliases.champion is not None:
        return None
    for entry in reversed(aliases.store.decisions.of(aliases.name)):
        if entry.version == version.number:
            if entry.decision != REFUSED:
                return None
            if entry.champion_before is not None and entry.scored:
                return entry.champion_before
    return None
