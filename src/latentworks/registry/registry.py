"""Registered models: from a result to a version, from a version to the alias that clients follow.

Aliases: `challenger`, the newest version; `champion`, the one to serve; `previous`, the champion
before it. A decision is written down before an alias moves, and both happen under a lock: two
processes that read, compare and set at once would choose the wrong champion.
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
from latentworks.repository.result import recorded_outputs
from latentworks.serving import packaging, preflight
from latentworks.system import disk, locks
from latentworks.tracking import outbox
from latentworks.tracking.uri import tracking_uri, without_password

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
PROMOTED, REFUSED, RESTORED = "promoted", "refused", "restored"
SINCE = "champion.since"  # tags of a version: when it last became champion,
WITHDRAWN = "withdrawn"  # and why it was rolled back
MLFLOW_PAGES = "http://127.0.0.1:5000"  # of a store without a server, while `make ui` runs
MAX_REASON = 500  # characters: it stands on pages and in tables


class _Params(Config):
    promotion: PromotionConfig


@dataclass(frozen=True)
class Compared:
    """One of the versions that are compared."""

    version: Version
    folder: Path
    scores: Scores


class Registry:
    """The registered model that params.yaml names, at the tracking URI of a checkout."""

    def __init__(self, root: Path, uri: str | None = None) -> None:
        """For the checkout `root`; `uri` where it has no store of its own."""
        self.root = root
        self.config = params.load(_Params, root / params.PARAMS).promotion
        self.name = self.config.model_name
        self.uri = uri or tracking_uri(root)
        with self.one_line("Try again when it answers."):
            self.store = RegistryStore(self.uri, root)
        self._working: set[str] = set()  # versions, by sha256, that passed in this process

    # --- from a result to a version --------------------------------------------------------------

    def register(self) -> Version:
        """Make the result of this checkout a version, the challenger; the same one only once.

        It is scored on its own test data first, in a process of its own. Raises Refused where it
        cannot be told what the version would be, or it does not work.
        """
        candidate = candidates.check(self.root)
        with self.one_line("Run `latentworks register` again."):
            self._refuse_other_interface(candidate)
            known = self._registered(candidate)
            if known:
                return known
            if outbox.sync(candidate.outputs, self.root) is not None:
                raise Unavailable("the run of this result could not be written.")
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
        """The version that this result is already; the challenger, if nothing was decided on it."""
        for version in reversed(self.store.versions(self.name, candidate.content())):
            try:
                self.store.fetch(version)
            except Unavailable:
                raise
            except RegistryError:  # its files were changed: another one takes its place
                continue
            if "decision" not in version.tags:
                self.store.move_alias(self.name, CHALLENGER, version.number)
            return version
        return None

    def decided(self) -> Version | None:
        """The version that this result is, if something was decided on it. A quick look.

        A decision that a killed process had written down, and no more, is carried out first.
        """
        outputs = recorded_outputs(self.root)
        if outputs is None or outputs.servable is None or outputs.prepared is None:
            return None
        content = candidates.content(outputs)
        with self.one_line("Try again when it answers."):
            known = self.store.versions(self.name, content)
            if known and self.store.decisions.of(self.name, unfinished=True):
                with self._lock("finish what was interrupted"):
                    self._finish_interrupted()
                known = self.store.versions(self.name, content)
        return next((version for version in known if "decision" in version.tags), None)

    def _refuse_other_interface(self, candidate: Candidate) -> None:
        known, ours = self.store.interface(self.name), candidate.interface()
        if known not in (None, ours):
            raise Refused(
                f"{self.name} holds models of {known}, and its clients rely on that. "
                f"Received: {ours}. Set promotion.model_name to another name."
            )

    # --- from a version to the champion ----------------------------------------------------------

    def promote(self, number: int | None = None) -> Entry:
        """Decide whether a version, by default the challenger, becomes champion; write it down.

        Returns the decision, which may be a refusal. Raises RegistryError where none can be made.
        """
        with self.one_line("Run `latentworks promote` again."):
            if self.store.interface(self.name) is not None:
                with self._lock("finish what was interrupted"):
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
            raise RegistryError(f"{version} is champion already.")

    def _fault(self, version: Version) -> str | None:
        """Why this version cannot be champion, whatever it scores; None where nothing is wrong."""
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
        """Raises RegistryError; the hashes are compared always, the answers once in a process."""
        folder = self.store.fetch(version)
        if version.sha256 not in self._working:
            (trial.run if trial else preflight.run)(folder)
            self._working.add(version.sha256)

    def _decide(self, challenger: Version) -> Entry:
        while True:
            champion = self.store.aliased(self.name, CHAMPION)
            # Scoring takes long, so it comes before the lock.
            ours = self.scores(challenger, challenger.data)
            theirs = self.scores(champion, challenger.data) if champion else None
            with self._lock(f"promote {challenger}"):
                self._finish_interrupted()
                now = self.store.aliased(self.name, CHAMPION)
                if _number(now) != _number(champion):
                    continue  # another one was promoted meanwhile: compare with that
                self._refuse_champion(challenger)
                if WITHDRAWN in self.store.get(self.name, challenger.number).tags:
                    raise RegistryError(f"{challenger} was rolled back meanwhile.")
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
        """What the gate measures of a version on the data with the fingerprint `data`.

        Recorded at registration where that was on the same data, else measured on the prepared
        data of this checkout, and kept. Raises RegistryError where that is other data.
        """
        folder = self.store.fetch(version)
        kept = self.root / ".latentworks" / "scores" / f"{version.sha256}-{data}.json"
        for path in (folder / packaging.SCORES, kept):
            with suppress(
                OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError
            ):  # none there, or an old one
                scores = Scores.from_json(disk.read_json(path))
                if (scores.data, scores.scorer) == (data, scorer_digest()):
                    return scores
        outputs = recorded_outputs(self.root)
        prepared = outputs.prepared if outputs else None
        if prepared is None or candidates.fingerprint(prepared) != data:
            raise RegistryError(
                f"{version} was scored on other test data, or by other code, and the data of the "
                "challenger is not in this checkout. Run this in the checkout that made it, "
                "after `dvc checkout`."
            )
        preflight.run(folder, prepared, kept)
        return Scores.from_json(disk.read_json(kept))

    # --- back, and what was ----------------------------------------------------------------------

    def rollback(
        self, number: int | None = None, reason: str = "", trial: preflight.Trial | None = None
    ) -> Entry:
        """Make the previous champion, or version `number`, champion again.

        Its hashes and golden answers are checked first, in `trial` where somebody has started one.
        Only what was champion once can be again.
        """
        reason = " ".join("".join(filter(str.isprintable, reason.replace("\n", " "))).split())
        if len(reason) > MAX_REASON:
            raise RegistryError(f"a reason has at most {MAX_REASON} characters.")
        if self.store.interface(self.name) is None:
            raise RegistryError(
                f"there is no registered model {self.name}. Run `latentworks register`."
            )
        with self.one_line("Run `latentworks rollback` again."), self._lock("roll back"):
            finished = self._finish_interrupted()
            if finished and finished.decision == RESTORED and number in (None, finished.version):
                return finished  # asked for again after it was interrupted
            champion = self.store.aliased(self.name, CHAMPION)
            target = self._version(number, PREVIOUS, "There is nothing to go back to.")
            if target.number == _number(champion):
                raise RegistryError(f"{target} is champion already.")
            if SINCE not in target.tags:
                raise RegistryError(f"{target} was never champion. Use `latentworks promote`.")
            self._preflight(target, trial)
            if not reason:
                reason = f"version {champion.number} was withdrawn" if champion else "no champion"
            return self._write(RESTORED, reason, target, champion, target)

    def history(self) -> list[Entry]:
        """Every decision about this model, the oldest first."""
        with self.one_line("Try again when it answers."):
            return self.store.decisions.of(self.name)

    def history_table(self) -> str:
        """The decisions as text, one a line, and who is champion now."""
        entries = self.history()
        with self.one_line("Try again when it answers."):
            champion = _number(self.store.aliased(self.name, CHAMPION))
        return tables.history(self.name, entries, champion)

    def compared(self, first: int, second: int) -> list[Compared]:
        """Two versions with their files and scores on the same data, that of the second.

        Where that is not in this checkout and the first one was scored on other data, each has the
        scores that were recorded with it.
        """
        with self.one_line("Try again when it answers."):
            versions = [self.store.get(self.name, number) for number in (first, second)]
            folders = [self.store.fetch(version) for version in versions]
            try:
                scores = [self.scores(version, versions[1].data) for version in versions]
            except RegistryError:
                scores = [self.scores(version, version.data) for version in versions]
        return [Compared(*each) for each in zip(versions, folders, scores, strict=True)]

    def tidy(self) -> None:
        """Remove the copies of versions that no alias names; they can be fetched again."""
        with self.one_line("Try again when it answers."):
            self.store.forget(self.name, (CHALLENGER, CHAMPION, PREVIOUS))

    def pages(self, number: int, run_id: str) -> dict[str, str]:
        """Where MLflow shows a version and its run."""
        base = self.uri if self.uri.startswith("http") else MLFLOW_PAGES
        base = f"{without_password(base).rstrip('/')}/#"
        with self.one_line("Try again when it answers."):
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
        """Record a decision, then do what it says."""
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
        """Do what a decision says; doing it again changes nothing."""
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
        """Do what was decided by a process that was killed before it had done it, and return it.

        Whoever decides holds the lock, so that nobody is still at it.
        """
        finished = None
        for entry in self.store.decisions.of(self.name, unfinished=True):
            number = _number(self.store.aliased(self.name, CHAMPION))
            there = {version.number for version in self.store.versions(self.name)}
            unmoved = number in (entry.champion_before, entry.champion_after)
            if unmoved and {entry.version, entry.champion_after or entry.version} <= there:
                before = entry.champion_before if entry.champion_before in there else None
                finished = replace(entry, champion_before=before)
                self._apply(finished)
            else:  # somebody has moved the alias, or deleted the version, by hand since
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
        """What MLflow raises in a `with` block, as one line with the way to go on."""
        return one_line(self.uri, resume)


def _number(version: Version | None) -> int | None:
    return version.number if version else None


def _metrics(decision: Decision) -> dict[str, float]:
    """The numbers of a decision as MLflow shows them beside one another."""
    numbers: dict[str, float] = {}
    for row in decision.rows:
        for whose, value in {"challenger": row.challenger, "champion": row.champion}.items():
            if value is not None and math.isfinite(value):
                numbers[f"{row.metric}.{whose}"] = value
    return numbers
