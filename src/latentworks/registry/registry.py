"""Registered models: results become versions, and the gate moves the alias that clients follow.

Aliases: `challenger`, the newest version; `champion`, the version to serve; `previous`, the
champion before the current one. A decision is recorded before an alias moves. Both happen under a
lock, since two processes that read, compare and set at the same time could choose the wrong
champion.
"""

import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from latentworks import params
from latentworks.config import Config
from latentworks.errors import Refused, RegistryError, Unavailable
from latentworks.promotion.decision import Decision, PromotionConfig, decide
from latentworks.promotion.scores import Scores, scorer_digest
from latentworks.registry import candidates, tables
from latentworks.registry.candidates import Candidate
from latentworks.registry.decisions import Entry
from latentworks.registry.store import RegistryStore
from latentworks.registry.versions import Version, one_line
from latentworks.repository.result import recorded_result
from latentworks.serving import packaging, preflight
from latentworks.system import disk, locks
from latentworks.tracking import outbox
from latentworks.tracking.uri import tracking_uri, without_password

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
PROMOTED, REFUSED, RESTORED = "promoted", "refused", "restored"
SINCE = "champion.since"  # tag of a version: when it last became champion
WITHDRAWN = "withdrawn"  # tag of a version: why it was rolled back
MLFLOW_PAGES = "http://127.0.0.1:5000"  # address that `make ui` gives a store without a server
MAX_REASON = 500  # characters, since pages and tables show the reason


class _Params(Config):
    promotion: PromotionConfig


@dataclass(frozen=True)
class Compared:
    """A version in a comparison, with its files and scores."""

    version: Version
    folder: Path
    scores: Scores


class Registry:
    """The registered model that params.yaml names, at the tracking URI of a checkout."""

    def __init__(self, root: Path, uri: str | None = None) -> None:
        """Open the registry of the checkout `root`; `uri` replaces the checkout's own store."""
        self.root = root
        self.config = params.load(_Params, root / params.PARAMS).promotion
        self.name = self.config.model_name
        self.uri = uri or tracking_uri(root)
        with self.one_line("Try again when MLflow answers."):
            self.store = RegistryStore(self.uri, root)
        self._working: set[str] = set()  # sha256 of versions that passed a pre-flight

    # --- from a result to a version --------------------------------------------------------------

    def register(self) -> Version:
        """Register the result of this checkout as a version with the alias `challenger`.

        A result that is registered already returns its version. A new result is first scored on
        its own test data, in a fresh process. Raises Refused if the origin of the result is
        unknown, and RegistryError if its model does not work.
        """
        candidate = candidates.check(self.root)
        with self.one_line("Run `latentworks register` again."):
            self._refuse_other_interface(candidate)
            known = self._registered(candidate)
            if known:
                return known
            if outbox.sync(candidate.result, self.root) is not None:
                raise Unavailable("Cannot register: MLflow did not take the run of this result.")
            uploaded = self.store.upload(self.name, candidate)
            self.store.create(self.name, candidate)
            self._refuse_other_interface(candidate)
            with self._lock("register"):
                known = self._registered(candidate)
                if known:  # another process was faster
                    self.store.discard(uploaded)
                    return known
                version = self.store.create_version(self.name, candidate, uploaded)
                self.store.move_alias(self.name, CHALLENGER, version.number)
        return version

    def _registered(self, candidate: Candidate) -> Version | None:
        """Return the version of this result; without a decision it becomes the challenger again."""
        for version in reversed(self.store.versions(self.name, candidate.content())):
            try:
                self.store.fetch(version)
            except Unavailable:
                raise
            except RegistryError:  # its files were changed: register the result anew
                continue
            if "decision" not in version.tags:
                self.store.move_alias(self.name, CHALLENGER, version.number)
            return version
        return None

    def decided(self) -> Version | None:
        """Return the version of this result if a decision about it exists. Fast: fetches no files.

        Completes first a decision that a killed process had recorded but not carried out.
        """
        result = recorded_result(self.root)
        if result is None or not {"servable", "prepared"} <= result.outs.keys():
            return None
        content = candidates.content(result)
        with self.one_line("Try again when MLflow answers."):
            known = self.store.versions(self.name, content)
            if known and self.store.decisions.of(self.name, unfinished=True):
                with self._lock("complete an interrupted decision"):
                    self._finish_interrupted()
                known = self.store.versions(self.name, content)
        return next((version for version in known if "decision" in version.tags), None)

    def _refuse_other_interface(self, candidate: Candidate) -> None:
        known, ours = self.store.interface(self.name), candidate.interface()
        if known not in (None, ours):
            raise Refused(
                f"Cannot register: {self.name} holds models of {known}, and its clients rely on "
                f"that. Received: {ours}. Set promotion.model_name to another name."
            )

    # --- from a version to the champion ----------------------------------------------------------

    def promote(self, number: int | None = None) -> Entry:
        """Let the gate decide if a version, by default the challenger, becomes champion.

        Records and returns the decision, which may be a refusal. Raises RegistryError if no
        decision is possible.
        """
        with self.one_line("Run `latentworks promote` again."):
            if self.store.interface(self.name) is not None:
                with self._lock("complete an interrupted decision"):
                    finished = self._finish_interrupted()
                if finished and number in (None, finished.version):
                    return finished
            challenger = self._version(number, CHALLENGER, "Run `latentworks register`.")
            self._refuse_champion(challenger)
            fault = self._fault(challenger)
            if fault is None:
                return self._decide(challenger)
            with self._lock(f"promote {challenger}"):
                self._finish_interrupted()
                champion = self.store.aliased(self.name, CHAMPION)
                return self._write(REFUSED, fault, challenger, champion, champion)

    def _refuse_champion(self, version: Version) -> None:
        champion = self.store.aliased(self.name, CHAMPION)
        if champion is not None and champion.number == version.number:
            raise RegistryError(f"Cannot promote {version}: it is champion already.")

    def _fault(self, version: Version) -> str | None:
        """The reason to refuse this version whatever its scores; None if there is none."""
        if WITHDRAWN in version.tags:
            return (
                f"it was rolled back: {version.tags[WITHDRAWN]}. `latentworks rollback "
                f"{version.number}` would make it champion again"
            )
        try:
            self._preflight(version)
        except Unavailable:
            raise
        except RegistryError as error:
            return str(error).rstrip(".")
        return None

    def _preflight(self, version: Version, trial: preflight.Trial | None = None) -> None:
        """Compare a version's files with their hashes, and test its golden answers.

        The answers are tested once in each process. Raises RegistryError.
        """
        folder = self.store.fetch(version)
        if version.sha256 not in self._working:
            (trial.run if trial else preflight.run)(folder)
            self._working.add(version.sha256)

    def _decide(self, challenger: Version) -> Entry:
        while True:
            champion = self.store.aliased(self.name, CHAMPION)
            # Scoring takes long, so it runs before the lock is taken.
            ours = self.scores(challenger, challenger.data)
            theirs = self.scores(champion, challenger.data) if champion else None
            with self._lock(f"promote {challenger}"):
                self._finish_interrupted()
                now = self.store.aliased(self.name, CHAMPION)
                if _number(now) != _number(champion):
                    continue  # the champion changed meanwhile: compare with the new one
                self._refuse_champion(challenger)
                if WITHDRAWN in self.store.get(self.name, challenger.number).tags:
                    raise RegistryError(
                        f"Cannot promote {challenger}: it was rolled back meanwhile."
                    )
                decision = decide(ours, theirs, self.config)
                winner = challenger if decision.promoted else champion
                return self._write(
                    PROMOTED if decision.promoted else REFUSED,
                    decision.reason,
                    challenger,
                    champion,
                    winner,
                    decision,
                )

    def scores(self, version: Version, data: str) -> Scores:
        """Return the scores of a version on the data with the fingerprint `data`.

        These are the scores recorded at registration, if they are of the same data and the same
        scoring code. Else the version is scored on the prepared data of this checkout, and the
        scores are kept. Raises RegistryError if this checkout has other data.
        """
        folder = self.store.fetch(version)
        kept = self.root / ".latentworks" / "scores" / f"{version.sha256}-{data}.json"
        for path in (folder / packaging.SCORES, kept):
            with suppress(
                OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError
            ):  # no file, or a file in an old format
                scores = Scores.from_json(disk.read_json(path))
                if (scores.data, scores.scorer) == (data, scorer_digest()):
                    return scores
        result = recorded_result(self.root)
        prepared = result.outs.get("prepared") if result else None
        if prepared is None or candidates.fingerprint(prepared) != data:
            raise RegistryError(
                f"Cannot score {version}: it was scored on other test data, or by other code, and "
                "this checkout does not have the challenger's data. Run the command in the "
                "checkout that made the challenger, after `dvc checkout`."
            )
        preflight.run(folder, prepared, kept)
        return Scores.from_json(disk.read_json(kept))

    # --- rollback and history --------------------------------------------------------------------

    def rollback(
        self, number: int | None = None, reason: str = "", trial: preflight.Trial | None = None
    ) -> Entry:
        """Make the previous champion, or version `number`, champion again.

        Its hashes and golden answers are tested first, in the process `trial` if given. Raises
        RegistryError for a version that was never champion.
        """
        reason = " ".join("".join(filter(str.isprintable, reason.replace("\n", " "))).split())
        if len(reason) > MAX_REASON:
            raise RegistryError(
                f"--reason must have at most {MAX_REASON} characters. Received: {len(reason)}."
            )
        if self.store.interface(self.name) is None:
            raise RegistryError(
                f"Cannot roll back: no model {self.name} is registered. Run `latentworks register`."
            )
        with self.one_line("Run `latentworks rollback` again."), self._lock("roll back"):
            finished = self._finish_interrupted()
            if finished and finished.decision == RESTORED and number in (None, finished.version):
                return finished  # the same rollback, repeated after an interruption
            champion = self.store.aliased(self.name, CHAMPION)
            target = self._version(number, PREVIOUS, "No earlier champion exists.")
            if target.number == _number(champion):
                raise RegistryError(f"Cannot roll back to {target}: it is champion already.")
            if SINCE not in target.tags:
                raise RegistryError(
                    f"Cannot roll back to {target}: it was never champion. "
                    "Use `latentworks promote`."
                )
            self._preflight(target, trial)
            if not reason:
                reason = f"version {champion.number} was withdrawn" if champion else "no champion"
            return self._write(RESTORED, reason, target, champion, target)

    def history(self) -> list[Entry]:
        """Every decision about this model, oldest first."""
        with self.one_line("Try again when MLflow answers."):
            return self.store.decisions.of(self.name)

    def history_table(self) -> str:
        """The decisions as text, one per line, and the current champion."""
        entries = self.history()
        with self.one_line("Try again when MLflow answers."):
            champion = _number(self.store.aliased(self.name, CHAMPION))
        return tables.history(self.name, entries, champion)

    def compared(self, first: int, second: int) -> list[Compared]:
        """Two versions with their files and scores, both scored on the data of the second.

        If this checkout does not have that data, each version keeps the scores recorded with it.
        """
        with self.one_line("Try again when MLflow answers."):
            versions = [self.store.get(self.name, number) for number in (first, second)]
            folders = [self.store.fetch(version) for version in versions]
            try:
                scores = [self.scores(version, versions[1].data) for version in versions]
            except RegistryError:
                scores = [self.scores(version, version.data) for version in versions]
        return [Compared(*each) for each in zip(versions, folders, scores, strict=True)]

    def tidy(self) -> None:
        """Remove the local copies of versions without an alias; they can be fetched again."""
        with self.one_line("Try again when MLflow answers."):
            self.store.forget(self.name, (CHALLENGER, CHAMPION, PREVIOUS))

    def pages(self, number: int, run_id: str) -> dict[str, str]:
        """Addresses of MLflow's pages for a version and its run."""
        base = self.uri if self.uri.startswith("http") else MLFLOW_PAGES
        base = f"{without_password(base).rstrip('/')}/#"
        with self.one_line("Try again when MLflow answers."):
            experiment = self.store.store.experiment_id
        return {
            "version": f"{base}/models/{self.name}/versions/{number}",
            "run": f"{base}/experiments/{experiment}/runs/{run_id}",
        }

    # --- under the lock --------------------------------------------------------------------------

    def _write(
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
            _number(before),
            _number(after),
            text,
        )
        entry = self.store.decisions.record(entry, _metrics(scored) if scored else {})
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
        self.store.decisions.close(entry)

    def _finish_interrupted(self) -> Entry | None:
        """Complete a decision that a killed process had recorded but not carried out; return it.

        The caller holds the lock, so that no other process can be completing the same decision.
        """
        finished = None
        for entry in self.store.decisions.of(self.name, unfinished=True):
            number = _number(self.store.aliased(self.name, CHAMPION))
            numbers = {version.number for version in self.store.versions(self.name)}
            unmoved = number in (entry.champion_before, entry.champion_after)
            if unmoved and {entry.version, entry.champion_after or entry.version} <= numbers:
                before = entry.champion_before if entry.champion_before in numbers else None
                finished = replace(entry, champion_before=before)
                self._apply(finished)
            else:  # the alias was moved, or the version deleted, by hand since the decision
                self.store.decisions.close(entry, "KILLED")
        return finished

    @contextmanager
    def _lock(self, purpose: str) -> Iterator[None]:
        with locks.exclusive(self._lock_name, purpose):
            yield

    @cached_property
    def _lock_name(self) -> str:
        return self.store.identity(self.name)

    def _version(self, number: int | None, alias: str, cure: str) -> Version:
        if number is not None:
            return self.store.get(self.name, number)
        found = self.store.aliased(self.name, alias)
        if found is None:
            raise RegistryError(f"{self.name} has no version with the alias {alias}. {cure}")
        return found

    def one_line(self, resume: str) -> Any:
        """Turn what MLflow raises in a `with` block into one line that ends with `resume`."""
        return one_line(self.uri, resume)


def _number(version: Version | None) -> int | None:
    return version.number if version else None


def _metrics(decision: Decision) -> dict[str, float]:
    """The scores of a decision, named so that MLflow lists challenger and champion together."""
    numbers: dict[str, float] = {}
    for row in decision.rows:
        for role, value in {"challenger": row.challenger, "champion": row.champion}.items():
            if value is not None and math.isfinite(value):
                numbers[f"{row.metric}.{role}"] = value
    return numbers
