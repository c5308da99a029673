"""Registered models: results become versions, and the gate chooses the one that clients follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latentworks import params
from latentworks.config import Config
from latentworks.errors import RegistryError, Tampered, Unavailable, Untrusted
from latentworks.promotion.decision import PromotionConfig, decide
from latentworks.promotion.scores import Scores
from latentworks.registry import candidates, refusals, tables, version_scores
from latentworks.registry.aliases import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    PROMOTED,
    REFUSED,
    RESTORED,
    Aliases,
    number_of,
)
from latentworks.registry.candidates import Candidate
from latentworks.registry.decisions import Entry
from latentworks.registry.store import RegistryStore
from latentworks.registry.versions import DECISION, SINCE, WITHDRAWN, Version
from latentworks.repository.result import Result, recorded_result
from latentworks.serving import preflight
from latentworks.system.console import slow
from latentworks.tracking import bounded, outbox
from latentworks.tracking.faults import one_line
from latentworks.tracking.pages import WORKFLOW
from latentworks.tracking.uri import tracking_uri, without_password

MLFLOW_PAGES = "http://127.0.0.1:5000"  # address that `make ui` gives a store without a server
DAY = 86_400.0  # seconds
MAX_REASON = 500  # characters, since pages and tables show the reason


class PromotionParams(Config):
    promotion: PromotionConfig


class Registry:
    """The registered model that params.yaml names, at the tracking URI of a checkout."""

    def __init__(
        self, root: Path, uri: str | None = None, *, patience: float | None = None
    ) -> None:
        """Open the registry of the checkout `root`; `uri` replaces the checkout's own store.

        All calls of MLflow together may take `patience` seconds, if given.
        """
        self.root = root
        self.config = params.load(PromotionParams, root / params.PARAMS).promotion
        self.name = self.config.model_name
        self.uri = uri or tracking_uri(root)
        self.budget = bounded.Budget(patience)  # of all calls of the command that opens this
        with self.one_line("Try again when MLflow answers."):
            self.store = RegistryStore(self.uri, root)
        self.aliases = Aliases(self.store, self.name)
        self._working: set[str] = set()  # sha256 of versions that passed a pre-flight

    # --- from a result to a version --------------------------------------------------------------

    def register(self) -> Version:
        """Register the result of this checkout as a version with the alias `challenger`.

        A result that is registered already returns its version. A new result is first scored on
        its own test data, in a fresh process. Raises Refused if the origin of the result is
        unknown, and RegistryError if its model does not work.
        """
        with slow("Comparing this result with git and dvc.lock"):
            candidate = candidates.check(self.root)
        with self.one_line("Run `latentworks register` again."):
            refusals.refuse_other_interface(self.aliases, candidate)
            with slow("Looking for a version of this result"):
                known = self._registered(candidate)
            if known:
                with self.aliases.lock("register"):
                    self._take_interface(candidate)
                    self._make_challenger(known)
                    self.store.link_scores(known, candidate)
                    self.store.keep(self.name)
                return known
            with slow("Writing the run of this result to MLflow"):
                fault = outbox.sync(candidate.result, self.root)
            if fault is not None:
                raise Unavailable("Cannot register: MLflow did not take the run of this result.")
            uploaded = self.store.upload(self.name, candidate)
            self.store.create(self.name, candidate)
            with self.aliases.lock("register"):
                self._take_interface(candidate)
                known = self._registered(candidate)  # another process may have been faster
                version = known or self.store.create_version(self.name, candidate, uploaded)
                self._make_challenger(version)
                self.store.link_scores(version, candidate)
                self.store.keep(self.name, [version.number])
            if known:
                self.store.discard(uploaded.model_id)
        return version

    def _registered(self, candidate: Candidate) -> Version | None:
        """Return the version of this result; None if it has no version with intact files."""
        for version in reversed(self.store.versions(self.name, candidate.content())):
            try:
                self.store.fetch(version)
            except (Unavailable, Untrusted) as error:
                if not isinstance(error, Tampered):
                    raise
            except RegistryError:
                pass
            else:
                return version
            # Its files or their recorded hash were changed: register the result anew.
        return None

    def _make_challenger(self, version: Version) -> None:
        """Give a version the alias, unless it has a decision. The caller holds the lock."""
        if DECISION not in self.store.get(self.name, version.number).tags:
            self.store.move_alias(self.name, CHALLENGER, version.number)

    def standing(self, version: Version) -> str:
        """Say what a registered version is now, or how to decide on it."""
        with self.one_line("Try again when MLflow answers."):
            champion = self.aliases.champion
            decision = self.store.get(self.name, version.number).tags.get(DECISION, "")
        if champion is not None and champion.number == version.number:
            return "it is champion"
        if WITHDRAWN in version.tags:
            return f"it was rolled back: {version.tags[WITHDRAWN]}"
        asked = f"with `latentworks promote {version.number}`"
        return (
            f"it was {decision} before; decide anew {asked}"
            if decision
            else f"decide on it {asked}"
        )

    def known(self, result: Result) -> Version | None:
        """Return the newest version of a complete result; None if it has none. Fetches no files."""
        with self.one_line("Try again when MLflow answers."):
            versions = self.store.versions(self.name, candidates.content(result))
        return versions[-1] if versions else None

    def is_decided(self, version: Version) -> bool:
        """True if a decision about a version exists. Asks nobody."""
        return DECISION in version.tags

    def champion(self) -> Version | None:
        """Return the version that clients get; None without one."""
        with self.one_line("Try again when MLflow answers."):
            return self.aliases.champion

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
                with self.aliases.lock("complete an interrupted decision"):
                    self.aliases.finish_interrupted()
                known = self.store.versions(self.name, content)
        return next((version for version in known if DECISION in version.tags), None)

    def _take_interface(self, candidate: Candidate) -> None:
        """Make the candidate's interface the model's. The caller holds the lock."""
        refusals.refuse_other_interface(self.aliases, candidate)
        if self.store.interface(self.name) != candidate.interface():
            self.store.take_interface(self.name, candidate)

    # --- from a version to the champion ----------------------------------------------------------

    def promote(self, number: int | None = None) -> Entry:
        """Let the gate decide if a version, by default the challenger, becomes champion.

        Records and returns the decision, which may be a refusal. Raises RegistryError if no
        decision is possible.
        """
        with self.one_line("Run `latentworks promote` again."):
            if self.store.interface(self.name) is not None:
                with self.aliases.lock("complete an interrupted decision"):
                    finished = self.aliases.finish_interrupted()
                if finished and number in (None, finished.version):
                    return finished
            challenger = self.aliases.version(number, CHALLENGER, "Run `latentworks register`.")
            refusals.refuse_champion(self.aliases, challenger)
            reason = refusals.reason(self.aliases, challenger, self._preflight)
            if reason is None:
                refusals.refuse_former_interface(self.aliases, challenger)
                return self._decide(challenger)
            with self.aliases.lock(f"promote {challenger}"):
                self.aliases.finish_interrupted()
                champion = self.aliases.champion
                return self.aliases.carry_out(REFUSED, reason, challenger, champion, champion)

    def _preflight(self, version: Version, trial: preflight.Trial | None = None) -> None:
        """Compare a version's files with their hashes, and test its golden answers.

        The answers are tested once in each process. Raises RegistryError.
        """
        with slow(f"Fetching {version} and checking its files"):
            folder = self.store.fetch(version)
        if version.sha256 not in self._working:
            with slow(f"Testing {version} in a new process"):
                (trial.run if trial else preflight.run)(folder)
            self._working.add(version.sha256)

    def _decide(self, challenger: Version) -> Entry:
        while True:
            champion = self.aliases.champion
            # Scoring takes long, so it runs before the lock is taken.
            ours = self.scores(challenger, challenger.data)
            theirs = self.scores(champion, challenger.data) if champion else None
            with self.aliases.lock(f"promote {challenger}"):
                self.aliases.finish_interrupted()
                now = self.aliases.champion
                if number_of(now) != number_of(champion):
                    continue  # the champion changed meanwhile: compare with the new one
                refusals.refuse_champion(self.aliases, challenger)
                refusals.refuse_former_interface(self.aliases, challenger)
                if WITHDRAWN in self.store.get(self.name, challenger.number).tags:
                    raise RegistryError(
                        f"Cannot promote {challenger}: it was rolled back meanwhile."
                    )
                decision = decide(ours, theirs, self.config)
                winner = challenger if decision.promoted else champion
                return self.aliases.carry_out(
                    PROMOTED if decision.promoted else REFUSED,
                    decision.reason,
                    challenger,
                    champion,
                    winner,
                    decision,
                )

    def scores(self, version: Version, data: str) -> Scores:
        """Return the scores of a version on the data with the fingerprint `data`.

        Raises RegistryError if they were not recorded and this checkout has other data.
        """
        with slow(f"Scoring {version}, or reading its scores"):
            return version_scores.scores(self.store, self.root, version, data)

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
        again = "Run `latentworks rollback` again."
        with self.one_line(again):
            known = self.store.interface(self.name)
        if known is None:
            raise RegistryError(
                f"Cannot roll back: no model {self.name} is registered"
                f"{self.store.doubt(self.name)}. Run `latentworks register`."
            )
        with self.one_line(again), self.aliases.lock("roll back"):
            finished = self.aliases.finish_interrupted()
            if finished and finished.decision == RESTORED and number in (None, finished.version):
                return finished  # the same rollback, repeated after an interruption
            champion = self.aliases.champion
            target = self.aliases.version(number, PREVIOUS, "No earlier champion exists.")
            if target.number == number_of(champion):
                raise RegistryError(f"Cannot roll back to {target}: it is champion already.")
            if SINCE not in target.tags:
                raise RegistryError(
                    f"Cannot roll back to {target}: it was never champion. "
                    "Use `latentworks promote`."
                )
            self._preflight(target, trial)
            if not reason:
                reason = f"version {champion.number} was withdrawn" if champion else "no champion"
            return self.aliases.carry_out(RESTORED, reason, target, champion, target)

    def history(self) -> list[Entry]:
        """Every decision about this model, oldest first."""
        with self.one_line("Try again when MLflow answers."):
            return self.store.decisions.of(self.name)

    def history_table(self) -> str:
        """The decisions as text, one per line, and the current champion."""
        entries = self.history()
        with self.one_line("Try again when MLflow answers."):
            champion = number_of(self.aliases.champion)
        return tables.history(self.name, entries, champion)

    def tidy(self, abandoned: float = DAY) -> None:
        """Remove what nobody needs: local copies of versions without an alias, and failed uploads.

        The copies can be fetched again. An upload that is `abandoned` seconds old, and no version,
        is that of a killed `register`. The files of a model that somebody deleted in MLflow stay:
        its deletion can be undone until `mlflow gc` removes them.
        """
        with self.one_line("Try again when MLflow answers."):
            self.store.forget(self.name, (CHALLENGER, CHAMPION, PREVIOUS))
            self.store.discard_abandoned(self.name, abandoned)

    def pages(self, number: int, run_id: str) -> dict[str, str]:
        """Addresses of MLflow's pages for a version and its run."""
        base = self.uri if self.uri.startswith("http") else MLFLOW_PAGES
        base = f"{without_password(base).rstrip('/')}/#"
        with self.one_line("Try again when MLflow answers."):
            experiment = self.store.store.experiment_id
        return {
            "version": f"{base}/models/{self.name}/versions/{number}",
            "run": f"{base}/experiments/{experiment}/runs/{run_id}?{WORKFLOW}",
        }

    @contextmanager
    def one_line(self, resume: str) -> Iterator[None]:
        """Turn an exception of MLflow in a `with` block into one line that ends with `resume`.

        The calls of all blocks together have one deadline.
        """
        with one_line(self.uri, resume), bounded.together(self.budget):
            yield
