"""Evaluates proposals, stops losing trials early, and records them. All side effects of a search happen here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from agentopt.core.budget import Budget
from agentopt.core.candidate import Candidate
from agentopt.core.errors import EvaluationStopped
from agentopt.core.events import Event, ExampleDone, Observer, TrialDone, TrialStarted
from agentopt.core.records import BestSoFar, Evaluation, Trial
from agentopt.core.spans import Attribute, span
from agentopt.core.stopping import LEVEL, StopTest, bounded
from agentopt.evaluation.evaluator import Evaluator
from agentopt.runs.call_outlook import CallOutlook
from agentopt.runs.trial_store import TrialStore, highest_score
from agentopt.search.base import Proposal
from agentopt.search.measured_costs import with_measured_costs, within_limits
from agentopt.search.posterior import TOLERANCE
from agentopt.search.proposer_names import BASELINE
from agentopt.search.run_view import FailedExample

COMPLETED = "completed, because all trials together make it the best"
"""Note of a trial that was completed at the end of a run."""


class TrialRunner:
    """The `Runner` of a run. Trials run one after the other; the examples of one trial run concurrently.

    Args:
        store: Receives the trials.
        evaluator: Evaluates a candidate.
        budget: Its caps on trials and on seconds bound the search.
        observer: Receives the events.
        early_stopping: Level of the test that stops a losing trial; 0 stops only those that cannot catch up, None none.
        tolerance: With costs in USD or seconds, score that a trial which is predicted to be cheaper than the leader may
            be below it before it is stopped.
        is_at_hand: Whether a candidate's evaluation needs no call, by which batches are ordered. None: they are not.
        failures: Finds the examples that a trial answers worst. None: the search agent is shown none.
    """

    def __init__(
        self,
        store: TrialStore,
        evaluator: Evaluator,
        budget: Budget,
        observer: Observer,
        *,
        early_stopping: float | None = LEVEL,
        tolerance: float = TOLERANCE,
        is_at_hand: Callable[[Candidate], Awaitable[bool]] | None = None,
        failures: Callable[[Trial, int], Awaitable[Sequence[FailedExample]]] | None = None,
    ) -> None:
        self._is_at_hand, self._failures = is_at_hand, failures
        self._store, self._evaluator, self._budget = store, evaluator, budget
        self._observer, self._early_stopping, self._tolerance = observer, early_stopping, tolerance
        self._outlook = CallOutlook(budget)
        self._attempted: set[Candidate] = set()
        self._kept = 0

    @property
    def trials(self) -> Sequence[Trial]:
        """Every trial as the search saw it, oldest first."""
        return tuple(self._store.searched)

    @property
    def trials_left(self) -> int:
        """Number of new candidates that the caps on trials and on seconds still allow."""
        return 0 if self._budget.seconds_left == 0 else self.trials_not_begun

    @property
    def trials_not_begun(self) -> int:
        """Number of new candidates that the cap on trials still allows."""
        cap = self._budget.caps.trials
        return 1_000_000 if cap is None else max(0, cap - len(self._store.trials) - self._kept)

    def allows(self, candidate: Candidate) -> bool:
        """Whether the candidate has a trial, or one is left for it."""
        return self._store.find(candidate, unfinished=True) is not None or self.trials_left > 0

    @contextmanager
    def keeping_a_trial(self) -> Iterator[None]:
        """Inside the block, one of the remaining trials is kept for later."""
        self._kept = 1
        try:
            yield
        finally:
            self._kept = 0

    async def in_order(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The proposals of a batch: those that have a trial first, as they were run, then those that need no call."""
        if len(proposals) < 2 or self._is_at_hand is None:
            return list(proposals)
        ranks = [await self._rank(proposal.candidate, self._is_at_hand) for proposal in proposals]
        return [proposal for _, proposal in sorted(zip(ranks, proposals, strict=True), key=lambda pair: pair[0])]

    async def _rank(self, candidate: Candidate, is_at_hand: Callable[[Candidate], Awaitable[bool]]) -> tuple[int, int]:
        if self._store.find(candidate, unfinished=True):
            return 0, self._store.number_of(candidate)
        return 2 - await is_at_hand(candidate), 0

    async def run(self, proposal: Proposal) -> Trial:
        """Evaluate a proposal on the validation split and record its trial.

        An incomplete trial is continued, once by each runner: its responses are not requested again. The baseline is
        never stopped early.

        Returns:
            The candidate's trial; a recorded one unless it was incomplete.

        Raises:
            EvaluationStopped: A cap is reached, or further calls would fail. The partial trial is recorded.
        """
        if known := self._store.find(proposal.candidate, unfinished=proposal.candidate in self._attempted):
            return known
        self._attempted.add(proposal.candidate)
        stop = None if proposal.proposer == BASELINE else self._stop_test(proposal.candidate)
        return await self._evaluated(proposal, stop)

    @property
    def usd_left(self) -> float | None:
        """USD of the cap of the run beyond the cost of the recorded trials; None without a cap.

        What else was spent is not subtracted: it may differ after a resume, and with it the agent's prompt.
        """
        cap = self._budget.caps.usd
        evaluations = [trial.evaluation for trial in self.trials]
        spent = sum(evaluation.usd_per_example * len(evaluation.scores) for evaluation in evaluations)
        return None if cap is None else max(0.0, cap - spent)

    async def failed_examples(self, trial: Trial, count: int) -> Sequence[FailedExample]:
        """At most `count` examples with the lowest scores under a trial, the lowest first."""
        return await self._failures(trial, count) if self._failures and count else ()

    async def complete(self, trial: Trial, note: str = COMPLETED, *, in_search: bool = False) -> Trial:
        """Evaluate a pruned trial on all rows; the responses that it has are not requested again.

        Args:
            trial: The trial.
            note: Why it is completed.
            in_search: Whether the search is to know all of its scores.

        Raises:
            EvaluationStopped: As by `run`.
        """
        note = "; ".join(filter(None, (trial.note, note)))
        proposal = Proposal(trial.candidate, trial.proposer, note, trial.fallback, in_search)
        return await self._evaluated(proposal, None)

    def emit(self, event: Event) -> None:
        """Pass `event` to the observers of the run."""
        self._observer(event)

    async def _evaluated(self, proposal: Proposal, stop: StopTest | None) -> Trial:
        number = self._store.number_of(proposal.candidate)
        self.emit(TrialStarted(number, proposal.candidate, proposal.proposer))
        with span("trial", lambda: _attributes(number, proposal)) as current:
            try:
                with self._outlook.watching(proposal.candidate, self._store.trials):
                    evaluation = await self._evaluator.evaluate(
                        proposal.candidate,
                        stop=stop,
                        on_result=lambda result: self.emit(ExampleDone(result)),
                    )
            except EvaluationStopped as error:
                if isinstance(error.partial, Evaluation) and error.partial.results:
                    await self._record(proposal, error.partial)
                raise
            current.set({"agentopt.trial.state": evaluation.state, "agentopt.score": evaluation.score})
        return await self._record(proposal, evaluation)

    async def _record(self, proposal: Proposal, evaluation: Evaluation) -> Trial:
        trial = await asyncio.to_thread(self._store.add, proposal, evaluation)
        choice = self._store.choice()
        best = BestSoFar(choice.best.number, choice.best_score) if choice else None
        self.emit(TrialDone(trial, best, self._outlook.remaining(self._store.space, self._store.trials, choice)))
        return trial

    def _stop_test(self, candidate: Candidate) -> StopTest | None:
        """The comparison with the trial to beat, which is within the cost limits.

        None if none is complete or scores have no known range. A candidate that costs less may be below it by the
        tolerance, for it may be recommended; in units, none may.
        """
        if self._early_stopping is None or not all(bounded(t.evaluation.scores.values()) for t in self._store.trials):
            return None
        space = with_measured_costs(self._store.space, self._store.trials)
        leader = highest_score([trial for trial in self._store.trials if within_limits(space, trial)])
        if leader is None:
            return None
        is_cheaper = space.measure != "units" and space.units(candidate) < leader.units
        margin = self._tolerance if is_cheaper else 0.0
        return StopTest(leader.evaluation.scores, f"trial {leader.number}", self._early_stopping, margin)


def _attributes(number: int, proposal: Proposal) -> dict[str, Attribute]:
    """What identifies a trial in its span; without system prompts, which may be confidential."""
    return {
        "agentopt.trial.number": number,
        "agentopt.trial.proposer": proposal.proposer,
        "agentopt.trial.choices": str(proposal.candidate),
    }
