"""One run of a job: redraw the canary, measure the champion, search from earlier results, and compare what was found.

If neither the snapshot nor the champion has changed since the last run and the canary shows no drift, that is all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.budget import Caps, Usage
from agentopt.core.errors import AgentoptError, BudgetExceeded, EvaluationStopped, NothingEvaluated, RunLostError
from agentopt.core.events import Event
from agentopt.core.message_text import counted, in_words, three_digits
from agentopt.core.records import Evaluation
from agentopt.core.stop_reason import StopReason
from agentopt.jobs.canary import Canary, alarm_of
from agentopt.jobs.caps import MEASURES, CapLeft, JobCapsLeft, caps_left, caps_of, less, month_name, month_start
from agentopt.jobs.champion import Champion, Champions
from agentopt.jobs.contest import NOTHING_ELSE, Contest, Decision
from agentopt.jobs.drift import ALARM
from agentopt.jobs.measurer import Measurer, open_measurer
from agentopt.jobs.outcome import RunOutcome
from agentopt.jobs.searches import Searches
from agentopt.jobs.snapshot import Snapshot, load_snapshot
from agentopt.jobs.store import JobStore
from agentopt.jobs.tables import JobRun, KnownJob
from agentopt.models.base import ChatModel
from agentopt.models.session import open_existing_journal
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Result

RunLog = Callable[[str, str], None]
"""Logs (kind of event, message)."""

REPLACED = "the previous champion no longer fits the task"
"""The recorded reason of a baseline that replaced a champion, and the alarm of such a run."""

NOT_SEEN = "canary is 0, so no row is drawn anew and a model that changed under its name is not seen"
"""What a job without a canary does not see."""


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
        current = self.champions.current()
        if self._canary is None and self._is_settled(current):
            return self._unchanged(current, NOT_SEEN)
        limits = self._limits()
        if exhausted := [limits[name] for name in MEASURES if name in limits and limits[name].left == 0]:
            message = "; ".join(f"{limit.setting} is spent: {limit.amount()}" for limit in exhausted)
            return RunOutcome("refused", message, (), current)
        try:
            await self._draw_canary(current, caps_of(limits))
            if self._is_settled(current):
                return self._unchanged(current, "")
            return await self._compete(current, limits)
        except (BudgetExceeded, NothingEvaluated) as error:
            cut = self._cut_short(limits, error.stopped)
            if not cut or (isinstance(error, NothingEvaluated) and error.failures):
                raise
            hint = "" if self._measured else "measuring the champion costs more than that: raise the cap, or "
            of_month = any(limit.period for _, limit in _reached(limits, error.stopped))
            continues = "a run of next month continues" if of_month else "the next run continues"
            message = f"{cut} before anything could be decided; {hint}{continues}"
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
        """Spend of the run so far, by the ledger; zero if no call was made, as last recorded if it cannot be read."""
        try:
            runs = [self._ledger, *(RunFolder.open(folder).id for folder in self._searches.folders())]
            journal = open_existing_journal(self._snapshot.config.journal)
            if journal is None:
                return Usage()
            with closing(journal):
                return sum((use for run in runs for use in journal.spend(run).by_purpose.values()), Usage())
        except (AgentoptError, OSError, SQLAlchemyError):  # the run must end in the store all the same
            return self.run.spent

    # ---- the steps of a run

    async def _draw_canary(self, current: Champion | None, caps: Caps) -> None:
        """Redraw rows of the champion. On drift, the snapshot draws everything anew from now on."""
        canary, snapshot = self._canary, self._snapshot
        if canary is None:
            return
        night = canary.stored()
        if night is None and current and not snapshot.misfit(current.candidate):
            async with self._measurer(caps) as measurer:
                if canary.is_ready(snapshot.subject(current.candidate)):
                    night = await canary.draw(measurer, current)
                elif self._is_settled(current):  # its first canary follows in the next run
                    held = await measurer.measure(current.candidate)
                    await canary.take_reference(measurer, current, held)
                    self.log("canary", "the reference of the champion is complete")
        if night:
            drift = f"evidence of drift {three_digits(night.evidence or 0.0)}, an alarm at {ALARM:g}"
            self.log("canary", f"{counted(len(night.scores), 'row')} drawn anew, {drift}")
            if alarm := alarm_of(night):
                self._alarms.append(alarm)
                self._snapshot = self._after_alarms()

    async def _compete(self, current: Champion | None, limits: JobCapsLeft) -> RunOutcome:
        caps, snapshot = caps_of(limits), self._snapshot
        current, held, seconds = await self._measure_champion(current, caps)
        self._measured = True
        left, warm_start = less(caps, self.spent(), seconds), self.known.job.warm_start
        result = await self._searches.search(snapshot, current.candidate, left, warm_start)
        left = less(caps, result.total, result.seconds)
        async with self._measurer(left) as measurer:
            contest = self._contest(await measurer.in_unit_of_search(), current)
            self._alarms += await contest.alarms()
            if _came_from(current, self.run):  # promoted before the process was killed
                decision = Decision(current.record.reason)
            else:
                decision = await contest.decide(result, self.log)
        outcome = self._outcome(current, decision, result, limits)
        if outcome.champion and not outcome.by_hand:
            await self._take_reference(outcome.champion, held if outcome.champion == current else None, left)
        return outcome

    def _outcome(self, current: Champion, decision: Decision, result: Result, limits: JobCapsLeft) -> RunOutcome:
        # Not final if the month's cap ended the search, which continues next month, or if a failed call may succeed.
        limited = any(limit.period for _, limit in _reached(limits, result.ended, result.test_ended))
        unfinished = limited or not decision.conclusive or _left_incomplete(result)
        settled = None if unfinished else self._snapshot.hash
        if (in_place := self.champions.current()) != current:
            finding = "the champion was changed by hand during the run"
            return RunOutcome("kept", finding, self.alarms, in_place, settled, by_hand=True)
        if decision.winner or _came_from(current, self.run):
            current = self._promote(current, decision) if decision.winner else current
            return RunOutcome("promoted", decision.finding, self.alarms, current, settled)
        finding = decision.finding
        if cut := self._cut_short(limits, result.ended, result.test_ended):
            found = "" if decision is NOTHING_ELSE else f"{finding}; "
            continues = f"; {'a run of next month' if limited else 'the next run'} continues" if unfinished else ""
            finding = f"{found}the search was {cut}{continues}"
        return RunOutcome("kept", finding, self.alarms, current, settled)

    def _cut_short(self, limits: JobCapsLeft, *ends: StopReason | None) -> str:
        """Which caps are among `ends`, and how much of each is spent; empty if there are none."""
        spent = self.spent()
        cuts = [(limit, getattr(spent, name, None)) for name, limit in _reached(limits, *ends)]
        shown = [
            f"{cap.setting} ({cap.cap:g})" if used is None else f"{cap.setting} ({cap.amount(used)})"
            for cap, used in cuts
        ]
        return f"cut short by {in_words(dict.fromkeys(shown))}" if shown else ""

    async def _measure_champion(self, current: Champion | None, caps: Caps) -> tuple[Champion, Evaluation, float]:
        """Measure the champion, at first the baseline, on the current test split; also returns the seconds."""
        snapshot, reason = self._snapshot, "the first champion is the baseline"
        if current and (misfit := snapshot.misfit(current.candidate)):
            self._alarms.append(f"the champion no longer fits the task: {misfit}")
            current, reason = None, REPLACED
        elif current and (current.record.run, current.record.reason) == (self.run.id, REPLACED):
            self._alarms.append(REPLACED)  # replaced before the process was killed
        candidate = current.candidate if current else snapshot.task.baseline
        async with self._measurer(caps) as measurer:
            evaluation = await measurer.measure(candidate)
            seconds = measurer.session.budget.seconds
        self.log("champion", f"score {_score(evaluation)} on the test split")
        if current is None:
            self._check_held()
            scores = snapshot.recorded(snapshot.keyed(evaluation.scores))
            current = self.champions.promote(
                candidate, time=self._time(), run=self.run.id, reason=reason, scores=scores
            )
        return current, evaluation, seconds

    def _contest(self, measurer: Measurer, current: Champion) -> Contest:
        settings, evidence = self.known.job.promotion, self.store.evidence
        return Contest(measurer, settings, self.run, self.champions, current, self._canary, evidence, self.now)

    def _promote(self, current: Champion, decision: Decision) -> Champion:
        self._check_held()
        assert decision.winner is not None
        anchor = None if decision.new_anchor else current.record.anchor
        made = {"time": self._time(), "run": self.run.id, "reason": decision.finding}
        scores = self._snapshot.recorded(decision.scores)
        return self.champions.promote(decision.winner, **made, won=True, anchor=anchor, scores=scores)

    async def _take_reference(self, champion: Champion, held: Evaluation | None, caps: Caps) -> None:
        """Draw what later canaries are compared with; what a cap or a failure leaves out, a later run draws."""
        if self._canary is None:
            return
        try:
            async with self._measurer(caps) as measurer:
                await self._canary.take_reference(measurer, champion, held)
        except EvaluationStopped as error:
            self.log("canary", f"the reference is incomplete, a later run continues: {error}")

    def _check_held(self) -> None:
        """Raises `RunLostError` if this process, suspended for longer than its lease, has lost the run."""
        if not self.store.holds(self.run.id, self.run.owner):
            raise RunLostError("another process took over this run; the champion is unchanged")

    def _is_settled(self, current: Champion | None) -> bool:
        """Whether the last outcome is final for these inputs and this champion."""
        return current is not None and self.known.settled == (self._snapshot.hash, current.candidate.key)

    def _unchanged(self, current: Champion | None, remark: str) -> RunOutcome:
        message = "; ".join(filter(None, ["nothing has changed since the last run", remark]))
        return RunOutcome("unchanged", message, (), current, self._snapshot.hash)

    # ---- resources

    @cached_property
    def _loaded(self) -> Snapshot:
        """The inputs, loaded once, so that edits during a run have no effect on it."""
        return load_snapshot(self.known.job, self.known.folder, self.champions.folder / "runs")

    @cached_property
    def _snapshot(self) -> Snapshot:
        return self._after_alarms()

    def _after_alarms(self) -> Snapshot:
        return self._loaded.after_alarms(self.store.evidence.alarms(self.known.job.name, ALARM))

    @cached_property
    def _searches(self) -> Searches:
        return Searches(self.run, self.store, self.log, self.provider)

    @cached_property
    def _canary(self) -> Canary | None:
        share = self.known.job.canary
        return Canary(self.run, share, self.store.evidence, self.now) if share else None

    @property
    def _ledger(self) -> str:
        """The run's name in the ledger for calls outside the search."""
        return f"job {self.known.job.name} {self.run.id}"

    def _measurer(self, caps: Caps) -> AbstractAsyncContextManager[Measurer]:
        def observe(event: Event) -> None:
            self.log(event.kind, event.message)

        return open_measurer(self._snapshot, self._ledger, caps, self.provider, observe)

    def _limits(self) -> JobCapsLeft:
        job, started = self.known.job, self.run.started
        spent = self.store.spent_since(job.name, month_start(started, job.schedule), but=self.run.id)
        return caps_left(self._snapshot.config.budget.caps(), job.caps, spent, month_name(started, job.schedule))

    def _time(self) -> str:
        return datetime.fromtimestamp(self.now(), UTC).isoformat(timespec="seconds")


def _reached(limits: JobCapsLeft, *ends: StopReason | None) -> list[tuple[str, CapLeft]]:
    """The caps of the whole run that are among `ends`, by measure."""
    caps = [end.run_cap for end in ends if end and end.run_cap]
    return [(name, limits[name]) for name in caps if name in limits]


def _came_from(champion: Champion, run: JobRun) -> bool:
    return champion.record.run == run.id and champion.record.won


def _score(evaluation: Evaluation) -> str:
    return "none" if evaluation.score is None else f"{evaluation.score:.3f}"


def _left_incomplete(result: Result) -> bool:
    last = {trial.candidate: trial.state for trial in result.trials}
    return "incomplete" in last.values()
