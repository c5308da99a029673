"""Aliases of a registered model, and the decisions that move them.

`challenger` is the version that waits for the gate, `champion` the version to serve, `previous` the
champion before the current one. A decision is recorded before an alias moves, so that the next
command completes what a killed process has begun. Both happen under a lock, since two processes
that read, compare and set at the same time could choose the wrong champion.
"""

import math
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from latentworks.errors import RegistryError
from latentworks.promotion.decision import Decision
from latentworks.registry import tables
from latentworks.registry.decisions import Entry
from latentworks.registry.store import RegistryStore
from latentworks.registry.versions import SINCE, WITHDRAWN, Version
from latentworks.system import locks

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
PROMOTED, REFUSED, RESTORED = "promoted", "refused", "restored"


@dataclass
class Aliases:
    """The aliases of the registered model `name`."""

    store: RegistryStore
    name: str

    @property
    def champion(self) -> Version | None:
        return self.store.aliased(self.name, CHAMPION)

    def version(self, number: int | None, alias: str, cure: str) -> Version:
        """Return version `number`, by default the one with the alias `alias`.

        Raises RegistryError, with `cure` at its end, if no version has the alias.
        """
        if number is not None:
            return self.store.get(self.name, number)
        found = self.store.aliased(self.name, alias)
        if found is None:
            doubt = self.store.doubt(self.name)
            raise RegistryError(f"{self.name} has no version with the alias {alias}{doubt}. {cure}")
        return found

    def lock(self, purpose: str) -> AbstractContextManager[None]:
        """Hold the lock under which commands move the aliases of this model."""
        return locks.exclusive(self._lock_name, purpose)

    @cached_property
    def _lock_name(self) -> str:
        return self.store.identity(self.name)

    # --- under the lock --------------------------------------------------------------------------

    def carry_out(
        self,
        decision: str,
        reason: str,
        version: Version,
        before: Version | None,
        after: Version | None,
        scored: Decision | None = None,
    ) -> Entry:
        """Record a decision, then carry it out."""
        text = f"{decision.capitalize()}: {reason}"
        if scored is not None:
            text += f"\n\n{tables.decision(scored)}"
        entry = Entry(
            uuid.uuid4().hex,
            self.name,
            version.number,
            decision,
            reason,
            number_of(before),
            number_of(after),
            text,
            scored is not None,
            _metrics(scored) if scored else {},
        )
        entry = self.store.decisions.record(entry)
        self._apply(entry)
        return entry

    def _apply(self, entry: Entry) -> None:
        """Carry out a decision. Repeating this changes nothing."""
        self.store.describe(entry)
        before, after = entry.champion_before, entry.champion_after
        if entry.decision != REFUSED and after is not None:
            if entry.decision == RESTORED and before is not None:
                self.store.tag(self.name, before, WITHDRAWN, entry.reason)
                self.store.untag(self.name, after, WITHDRAWN)
            if before is not None:
                self.store.move_alias(self.name, PREVIOUS, before)
            when = datetime.fromtimestamp(entry.milliseconds / 1000).astimezone()
            self.store.tag(self.name, after, SINCE, when.isoformat(timespec="seconds"))
            self.store.move_alias(self.name, CHAMPION, after)
            challenger = self.store.aliased(self.name, CHALLENGER)
            if challenger is not None and challenger.number == after:
                self.store.move_alias(self.name, CHALLENGER, None)
        # Recorded before it is closed: after a kill, the next command completes both.
        self.store.keep(self.name, filter(None, (entry.version, before, after)))
        self.store.decisions.close(entry)
        self.store.keep(self.name, decisions=[entry.run_id])

    def finish_interrupted(self) -> Entry | None:
        """Complete a decision that a killed process had recorded but not carried out; return it.

        The caller holds the lock, so that no other process can be completing the same decision.
        """
        finished = None
        for entry in self.store.decisions.of(self.name, unfinished=True):
            number = number_of(self.champion)
            numbers = {version.number for version in self.store.versions(self.name)}
            unmoved = number in (entry.champion_before, entry.champion_after)
            if unmoved and {entry.version, entry.champion_after or entry.version} <= numbers:
                before = entry.champion_before if entry.champion_before in numbers else None
                finished = replace(entry, champion_before=before)
                self._apply(finished)
            else:  # the alias was moved, or the version deleted, by hand since the decision
                self.store.decisions.close(entry, "KILLED")
                self.store.keep(self.name, decisions=[entry.run_id])
        return finished


def number_of(version: Version | None) -> int | None:
    return version.number if version else None


def _metrics(decision: Decision) -> dict[str, float]:
    """The scores of a decision, named so that MLflow groups challenger and champion by metric."""
    numbers: dict[str, float] = {}
    for row in decision.rows:
        for role, value in {"challenger": row.challenger, "champion": row.champion}.items():
            if value is not None and math.isfinite(value):
                numbers[f"{row.metric}/{role}"] = value
    return numbers
