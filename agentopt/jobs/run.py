"""One run of a job: measure the champion, search from earlier results, and apply the promotion rules.

If neither the snapshot nor the champion has changed since the last run, no model is called.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal

from agentopt.api import LoadedTask, aoptimize
from agentopt.core.budget import Caps, Usage
from agentopt.core.candidate import Candidate
from agentopt.core.errors import (
    AgentoptError,
    BudgetExceeded,
    CandidateError,
    ConfigError,
    NothingEvaluated,
    RunLostError,
)
from agentopt.core.events import Event, FallbackUsed, RunDone, RunStarted, TrialDone
from agentopt.core.files import write_atomically
from agentopt.core.records import Evaluation
from agentopt.core.stop_reason import StopReason
from agentopt.evaluation.evaluator import Evaluator, check_candidate
from agentopt.jobs.caps import MEASURES, CapLeft, JobCapsLeft, caps_left, caps_of, less, month_name, month_start
from agentopt.jobs.champion import Champion, Champions, digest
from agentopt.jobs.promotion import Decision, Measurement, alarms, beats, decide
from agentopt.jobs.snapshot import Snapshot, load_snapshot
from agentopt.jobs.store import JobStore
from agentopt.jobs.tables import JobRun, KnownJob
from agentopt.models.base import ChatModel
from agentopt.models.session import Session, open_existing_journal, open_session
from agentopt.runs.config import BudgetConfig
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Result, load_result

State = Literal["promoted", "kept", "undecided", "unchanged", "refused", "failed"]
RunLog = Callable[[str, str], None]
"""Logs (kind of event, message)."""

REPLACED = "the previous champion no longer fits the task"
"""The recorded reason of a baseline that replaced a champion, and the alarm of such a run."""

NOTHING_ELSE = Decision("the search found nothing else")

SNAPSHOT_FILE = "snapshot.txt"
"""File in a search's run folder that holds the hash of the snapshot."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The outcome of a run.

    Attributes:
        state: How it ended.
        message: The reason in one sentence.
        alarms: The alarms that the champion raised.
        champion: The champion at the end.
        snapshot: Hash of the inputs that the outcome is final for; None if a later run should try again.
        by_hand: Whether a person replaced the champion during the run.
    """

    state: State
    message: str
    alarms: tuple[str, ...] = ()
    champion: Champion | None = None
    snapshot: str | None = None
    by_hand: bool = False


@dataclass
class RunOfJob:
    """One run of one job, new or taken over.

    Attributes:
        known: The job.
        run: Its entry in the store.
        store: The store.
        champions: The job's champions.
        log: Logs events.
        now: The clock, in seconds since the epoch.
        provider: Makes the model calls in place of the catalogue's transports.
    """

    known: KnownJob
    run: JobRun
    store: JobStore
    champions: Champions
    log: RunLog
    now: Callable[[], float]
    provider: ChatModel | None = None
    _alarms: list[str] = field(default_factory=list)
    _measured: bool = False
    """Whether the champion's measurement is complete."""

    async def outcome(self) -> RunOutcome:
        """Do the run; call it once.

        Raises:
            AgentoptError: The job's inputs are not valid, or its models failed.
            RunLostError: Another process has taken over the run.
        """
        snapshot, current = self._snapshot, self.champions.current()
        if current and self.known.settled == (snapshot.hash, current.candidate.key):
            return RunOutcome("unchanged", "nothing has changed since the last run", (), current, snapshot.hash)
        limits = self._limits(snapshot)
        if exhausted := [limits[name] for name in MEASURES if name in limits and limits[name].left == 0]:
            message = "; ".join(f"{limit.setting} is spent: {limit.amount()}" for limit in exhausted)
            return RunOutcome("refused", message, (), current)
        try:
            return await self._compete(snapshot, current, limits)
        except (BudgetExceeded, NothingEvaluated) as error:
            cut = self._cut_short(limits, error.stopped)
            if not cut or (isinstance(error, NothingEvaluated) and error.failures):
                raise
            hint = "" if self._measured else "measuring the champion costs more than that: raise the cap, or "
            message = f"{cut} before anything could be decided; {hint}the next run continues"
            return RunOutcome("undecided", message, self.alarms, self.champions.current())

    @property
    def alarms(self) -> tuple[str, ...]:
        """The alarms that the champion has raised so far."""
        return tuple(self._alarms)

    def secret_variables(self) -> list[str]:
        """The environment variables whose values must be redacted from messages."""
        target = self.known.job.webhook
        names = [target.secret_env] if target else []
        with suppress(AgentoptError):
            names += [spec.api_key_env for spec in self._snapshot.specs.values() if spec.api_key_env]
        return names

    def spent(self) -> Usage:
        """Spend of the run so far, by the ledger; zero if no call was made."""
        try:
            runs = [self._ledger, *(RunFolder.open(folder).id for folder in self._folders())]
            journal = open_existing_journal(self._snapshot.config.journal)
        except AgentoptError:
            return self.run.spent
        if journal is None:
            return Usage()
        with closing(journal):
            return sum((use for run in runs for use in journal.spend(run).by_purpose.values()), Usage())

    # ---- the steps of a run

    async def _compete(self, snapshot: Snapshot, current: Champion | None, limits: JobCapsLeft) -> RunOutcome:
        caps = caps_of(limits)
        current, held, seconds = await self._measure_champion(snapshot, current, caps)
        self._measured = True
        result = await self._search(snapshot, current, less(caps, self.spent(), seconds))
        async with self._evaluator(snapshot, less(caps, result.total, result.seconds)) as (evaluator, _):
            first = await evaluator.evaluate(snapshot.task.baseline, "test")
            self._note_alarms(snapshot, current, held, first)
            winner, decision, evaluation = await self._decide(snapshot, evaluator, current, held, result)
        # Not final if the month's cap ended the search, which continues next month, or if a failed call may succeed.
        limited = any(limit.period for _, limit in _reached(limits, result.ended, result.test_ended))
        unfinished = limited or not decision.conclusive or _left_incomplete(result)
        settled = None if unfinished else snapshot.hash
        if (in_place := self.champions.current()) != current:
            finding = "the champion was changed by hand during the run"
            return RunOutcome("kept", finding, self.alarms, in_place, settled, by_hand=True)
        state: State = "kept"
        if _came_from(current, self.run):  # promoted before the process was killed
            state, decision = "promoted", Decision(current.record.reason)
        elif winner and decision.promotes:
            current, state = self._promote(snapshot, current, winner, decision, evaluation), "promoted"
        finding = decision.finding
        if state == "kept" and (cut := self._cut_short(limits, result.ended, result.test_ended)):
            found = "" if decision is NOTHING_ELSE else f"{finding}; "
            finding = f"{found}the search was {cut}{'; the next run continues' if unfinished else ''}"
        return RunOutcome(state, finding, self.alarms, current, settled)

    def _cut_short(self, limits: JobCapsLeft, *ends: StopReason | None) -> str:
        """Which caps are among `ends`, and how much of each is spent; empty if there are none."""
        spent = self.spent()
        cuts = [(limit, getattr(spent, name, None)) for name, limit in _reached(limits, *ends)]
        shown = [
            f"{cap.setting} ({cap.cap:g})" if used is None else f"{cap.setting} ({cap.amount(used)})"
            for cap, used in cuts
        ]
        return f"cut short by {' and '.join(dict.fromkeys(shown))}" if shown else ""

    async def _measure_champion(
        self, snapshot: Snapshot, current: Champion | None, caps: Caps
    ) -> tuple[Champion, Evaluation, float]:
        """Measure the champion, at first the baseline, on the current test split; also returns the seconds."""
        reason = "the first champion is the baseline"
        if current and (misfit := _misfit(current, snapshot)):
            self._alarms.append(f"the champion no longer fits the task: {misfit}")
            current, reason = None, REPLACED
        elif current and (current.record.run, current.record.reason) == (self.run.id, REPLACED):
            self._alarms.append(REPLACED)  # replaced before the process was killed
        candidate = current.candidate if current else snapshot.task.baseline
        async with self._evaluator(snapshot, caps) as (evaluator, session):
            evaluation = await evaluator.evaluate(candidate, "test")
            seconds = session.budget.seconds
        self.log("champion", f"score {_score(evaluation)} on the test split")
        if current is None:
            self._check_held()
            scores = _scores(snapshot, evaluation)
            current = self.champions.promote(
                candidate, time=self._time(), run=self.run.id, reason=reason, scores=scores
            )
        return current, evaluation, seconds

    async def _search(self, snapshot: Snapshot, current: Champion, caps: Caps) -> Result:
        """Resume the interrupted search, or start one from the champion and the best candidates of earlier runs."""

        def observe(event: Event) -> None:
            if isinstance(event, RunStarted):
                self._note_folder(event.folder, snapshot)
            if isinstance(event, RunStarted | TrialDone | FallbackUsed | RunDone):
                self.log(event.kind, event.message)

        loaded = LoadedTask(snapshot.task, snapshot.specs)
        if folder := self._resumable(snapshot):
            return await aoptimize(loaded, resume=folder, provider=self.provider, callbacks=[observe])
        trials = caps.trials or snapshot.config.budget.trials
        given = [current.candidate, *self._archive()][: max(1, min(1 + self.known.job.warm_start, trials // 2))]
        budget = BudgetConfig(usd=caps.usd, tokens=caps.tokens, calls=caps.calls, seconds=caps.seconds, trials=trials)
        config = snapshot.config.model_copy(update={"budget": budget})
        start = [candidate for candidate in given if candidate != snapshot.task.baseline]
        return await aoptimize(loaded, config, warm_start=start, provider=self.provider, callbacks=[observe])

    async def _decide(
        self, snapshot: Snapshot, evaluator: Evaluator, current: Champion, held: Evaluation, result: Result
    ) -> tuple[Candidate | None, Decision, Evaluation | None]:
        """The first of best, recommended and cheapest that the rules promote, with its evaluation on the test split."""
        rule, champion = self.known.job.promotion, Measurement.of(held)
        anchor = await self._anchor(snapshot, evaluator, current, champion)
        decision = NOTHING_ELSE
        cheapest = await self._cheapest(snapshot, evaluator, result)
        for challenger in dict.fromkeys((result.best_candidate, result.recommended_candidate, cheapest)):
            if challenger == current.candidate:
                continue
            evaluation = await evaluator.evaluate(challenger, "test")
            found = decide(rule, champion, Measurement.of(evaluation), anchor)
            self.log("decision", found.finding)
            if found.promotes:
                return challenger, found, evaluation
            if decision.conclusive and (decision.difference is None or not found.conclusive):
                decision = found
        return None, decision, None

    async def _cheapest(self, snapshot: Snapshot, evaluator: Evaluator, result: Result) -> Candidate:
        """The candidate with the lowest cost in USD that is not significantly worse than the best on validation.

        `recommended` compares units, which do not depend on prices. All responses come from the journal.
        """
        if not any(spec.prices.usd(1, 1) for spec in snapshot.specs.values()):
            return result.recommended_candidate
        complete = [t.candidate for t in result.trials if t.state == "complete"]
        candidates = dict.fromkeys([result.best_candidate, *complete])
        found = {c: Measurement.of(await evaluator.evaluate(c)) for c in candidates}
        best, confidence = found[result.best_candidate], self.known.job.promotion.confidence
        as_good = [c for c, measured in found.items() if not beats(best, measured, confidence)]
        return min(as_good, key=lambda c: found[c].usd)

    async def _anchor(
        self, snapshot: Snapshot, evaluator: Evaluator, current: Champion, champion: Measurement
    ) -> Measurement:
        if current.record.anchor == current.number:
            return champion
        anchor = self.champions.get(current.record.anchor)
        if _misfit(anchor, snapshot):
            return champion
        return Measurement.of(await evaluator.evaluate(anchor.candidate, "test"))

    def _promote(
        self,
        snapshot: Snapshot,
        current: Champion,
        winner: Candidate,
        decision: Decision,
        evaluation: Evaluation | None,
    ) -> Champion:
        self._check_held()
        anchor = None if decision.new_anchor else current.record.anchor
        scores = _scores(snapshot, evaluation) if evaluation else {}
        return self.champions.promote(
            winner, time=self._time(), run=self.run.id, reason=decision.finding, won=True, anchor=anchor, scores=scores
        )

    def _check_held(self) -> None:
        """Raises `RunLostError` if this process, suspended for longer than its lease, has lost the run."""
        if not self.store.holds(self.run.id, self.run.owner):
            raise RunLostError("another process took over this run; the champion is unchanged")

    def _note_alarms(self, snapshot: Snapshot, current: Champion, held: Evaluation, first: Evaluation) -> None:
        recorded = current.record.scores_of(snapshot.task.splits["test"])
        confidence = self.known.job.promotion.confidence
        self._alarms += alarms(Measurement.of(held), recorded, Measurement.of(first), confidence)

    # ---- resources

    @cached_property
    def _snapshot(self) -> Snapshot:
        """The inputs, loaded once: edits during a run have no effect on it."""
        return load_snapshot(self.known.job, self.known.folder, self.champions.folder / "runs")

    @property
    def _ledger(self) -> str:
        """The run's name in the ledger for calls outside the search."""
        return f"job {self.known.job.name} {self.run.id}"

    @asynccontextmanager
    async def _evaluator(self, snapshot: Snapshot, caps: Caps) -> AsyncIterator[tuple[Evaluator, Session]]:
        config, specs = snapshot.config, snapshot.specs
        seed, failed = config.response_seed, config.failed_examples
        opened = open_session(specs, self._ledger, caps=caps, journal=config.journal, provider=self.provider)
        async with opened as session:
            yield Evaluator(snapshot.task, session.model, specs, seed=seed, failed_examples=failed), session

    def _limits(self, snapshot: Snapshot) -> JobCapsLeft:
        job, started = self.known.job, self.run.started
        spent = self.store.spent_since(job.name, month_start(started, job.schedule), but=self.run.id)
        return caps_left(snapshot.config.budget.caps(), job.caps, spent, month_name(started, job.schedule))

    def _archive(self) -> list[Candidate]:
        """Candidates of earlier searches, newest search first: its Pareto front, then its other trials by score."""
        found: list[Candidate] = []
        for run in self.store.history(self.known.job.name, limit=20):
            if run.folder is None or run.id == self.run.id:
                continue
            with suppress(ConfigError):  # an unfinished run, or a removed folder
                found += _ranked(load_result(run.folder))
        return list(dict.fromkeys(found))

    def _folders(self) -> list[Path]:
        """The existing folders of the run's searches."""
        return [folder for folder in self.run.folders if (folder / "config.yaml").exists()]

    def _note_folder(self, folder: Path, snapshot: Snapshot) -> None:
        """Record the search in `folder` and its snapshot."""
        write_atomically(folder / SNAPSHOT_FILE, snapshot.hash)
        folders = tuple(dict.fromkeys([*self.run.folders, folder]))
        self.run = replace(self.run, folders=folders)
        self.store.note_folders(self.run.id, self.run.owner, folders)

    def _resumable(self, snapshot: Snapshot) -> Path | None:
        """The folder of the interrupted search, if there is one and the snapshot is unchanged.

        If it has changed, a new search is needed; responses that both need come from the journal.
        """
        for folder in self._folders()[-1:]:
            note = folder / SNAPSHOT_FILE
            if note.exists() and note.read_text(encoding="utf-8") == snapshot.hash:
                return folder
        return None

    def _time(self) -> str:
        return datetime.fromtimestamp(self.now(), UTC).isoformat(timespec="seconds")


def _reached(limits: JobCapsLeft, *ends: StopReason | None) -> list[tuple[str, CapLeft]]:
    """The caps of the whole run that are among `ends`, by measure."""
    caps = [end.run_cap for end in ends if end and end.run_cap]
    return [(name, limits[name]) for name in caps if name in limits]


def _came_from(champion: Champion, run: JobRun) -> bool:
    return champion.record.run == run.id and champion.record.won


def _misfit(champion: Champion, snapshot: Snapshot) -> str | None:
    """Why the champion does not fit the task, or None."""
    try:
        check_candidate(champion.candidate, snapshot.task)
    except CandidateError as error:
        return error.message
    return None


def _score(evaluation: Evaluation) -> str:
    return "none" if evaluation.score is None else f"{evaluation.score:.3f}"


def _scores(snapshot: Snapshot, evaluation: Evaluation) -> dict[str, tuple[str, float]]:
    examples = {example.id: example for example in snapshot.task.splits["test"]}
    return {name: (digest(examples[name]), score) for name, score in evaluation.scores.items()}


def _left_incomplete(result: Result) -> bool:
    last = {trial.candidate: trial.state for trial in result.trials}
    return "incomplete" in last.values()


def _ranked(result: Result) -> list[Candidate]:
    """The Pareto front by descending score, then the other complete trials by score."""
    front = list(reversed(result.pareto))
    rest = [t for t in result.trials if t.state == "complete" and t.number not in front]
    ranked = [*front, *(t.number for t in sorted(rest, key=lambda t: (-(t.score or 0.0), t.units)))]
    return [result.trials[number].candidate for number in ranked]
