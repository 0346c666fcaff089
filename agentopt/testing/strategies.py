"""Conformance suites of `Strategy` and `Search`, and an in-memory `Runner` for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentopt.core.candidate import Candidate
from agentopt.core.events import Event
from agentopt.core.records import Evaluation, ExampleResult, Trial, TrialState
from agentopt.search.base import Proposal, Search, SearchSpace, Strategy

ScoreFunction = Callable[[Candidate], float]
"""Returns the score of a candidate."""


def trial_of(
    space: SearchSpace, number: int, proposal: Proposal, score: float | None, state: TrialState = "complete"
) -> Trial:
    """Build a trial with one example.

    Args:
        space: The space that gives the candidate's cost.
        number: Number of the trial.
        proposal: The evaluated proposal.
        score: Score of the example; None if it failed, which makes the trial incomplete.
        state: State of the trial if there is a score.
    """
    result = ExampleResult("example", score, error=None if score is not None else "the call failed")
    state = state if score is not None else "incomplete"
    evaluation = Evaluation("validation", 1, (result,), state)
    candidate = proposal.candidate
    return Trial(number, candidate, evaluation, proposal.proposer, space.units(candidate), proposal.note)


class ScriptedRunner:
    """A `Runner` that evaluates candidates with a score function. The baseline is trial 0 from the start.

    Args:
        space: The search space.
        score: Returns the score of a candidate.
        max_trials: Cap on trials, including the baseline.
        fail_at: Number of the call of `run`, counted from 1, that raises `error`, as a crash would.
        error: The exception of that call.

    Attributes:
        events: All emitted events.
        runs: Number of calls of `run`.
    """

    def __init__(
        self,
        space: SearchSpace,
        score: ScoreFunction,
        max_trials: int,
        *,
        fail_at: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        self.events: list[Event] = []
        self.runs = 0
        self._space, self._score, self.max_trials = space, score, max_trials
        self._fail_at, self._error = fail_at, error or RuntimeError("the machine went down")
        self._trials = [trial_of(space, 0, Proposal(space.baseline, "baseline"), score(space.baseline))]

    @property
    def trials(self) -> Sequence[Trial]:
        return tuple(self._trials)

    @property
    def trials_left(self) -> int:
        return max(0, self.max_trials - len(self._trials))

    async def run(self, proposal: Proposal) -> Trial:
        self.runs += 1
        if self.runs == self._fail_at:
            raise self._error
        for trial in self._trials:
            if trial.candidate == proposal.candidate:
                return trial
        trial = trial_of(self._space, len(self._trials), proposal, self._score(proposal.candidate))
        self._trials.append(trial)
        return trial

    def emit(self, event: Event) -> None:
        self.events.append(event)


async def check_strategy(
    make: Callable[[], Strategy], space: SearchSpace, score: ScoreFunction, *, rounds: int = 4, k: int = 3
) -> None:
    """Check that a strategy behaves as `Strategy` requires, over a few rounds.

    Proposals are in the space, untried, distinct and at most `k`. The same history gives the same proposals, also from
    a new instance. An empty list is returned only if every affordable candidate was tried. The histories include pruned
    and incomplete trials.

    Args:
        make: Builds a new instance.
        space: The search space.
        score: Returns the score of a candidate.
        rounds: Number of rounds of proposals.
        k: Most proposals per round.

    Raises:
        AssertionError: A requirement does not hold.
    """
    trials = [trial_of(space, 0, Proposal(space.baseline, "baseline"), score(space.baseline))]
    strategy = make()
    for _ in range(rounds):
        proposals = await strategy.propose(space, tuple(trials), k)
        assert proposals == await make().propose(space, tuple(trials), k), "the same history, other proposals"
        assert proposals == await strategy.propose(space, tuple(trials), k), "a second call gave other proposals"
        _check_proposals(space, trials, proposals, k)
        for proposal in proposals:
            trials.append(_varied(space, len(trials), proposal, score(proposal.candidate)))
        if not proposals:
            break


async def check_strategy_tries_everything(strategy: Strategy, space: SearchSpace, score: ScoreFunction) -> None:
    """Check that a strategy proposes every affordable candidate once and then returns an empty list.

    Args:
        strategy: The strategy to check.
        space: A small search space.
        score: Score of each candidate.

    Raises:
        AssertionError: A candidate was repeated or left out.
    """
    trials = [trial_of(space, 0, Proposal(space.baseline, "baseline"), score(space.baseline))]
    every = {*space.candidates(), space.baseline}
    for _ in range(len(every) + 1):
        proposals = await strategy.propose(space, tuple(trials), 4)
        for proposal in proposals:
            trials.append(trial_of(space, len(trials), proposal, score(proposal.candidate)))
        if not proposals:
            break
    assert {t.candidate for t in trials} == every, "it ended before every candidate was tried"
    assert len(trials) == len(every), "it repeated a candidate"


async def check_search(make: Callable[[], Search], space: SearchSpace, score: ScoreFunction, *, trials: int) -> None:
    """Check that a search spends its trials as `Search` requires.

    It spends every trial, or the whole space if that is smaller; each candidate is affordable and tried once; a new
    instance makes the same trials; without trials left it evaluates nothing.

    Args:
        make: Builds a new instance.
        space: The search space.
        score: Returns the score of a candidate.
        trials: Cap on trials, including the baseline.

    Raises:
        AssertionError: A requirement does not hold.
    """
    runner, again = (ScriptedRunner(space, score, trials) for _ in range(2))
    await make().run(space, runner)
    await make().run(space, again)
    done = runner.trials
    assert len(done) == min(trials, len({*space.candidates(), space.baseline})), f"{len(done)} of {trials} trials spent"
    assert len({t.candidate for t in done}) == len(done), "a candidate was tried twice"
    assert all(space.contains(t.candidate) for t in done[1:]), "a trial is outside the space"
    assert again.trials == done, "a second run made other trials"
    runs = runner.runs
    if runner.trials_left == 0:
        await make().run(space, runner)
        assert runner.runs == runs, "a trial was run although none was left"


def _check_proposals(space: SearchSpace, trials: Sequence[Trial], proposals: Sequence[Proposal], k: int) -> None:
    candidates = [p.candidate for p in proposals]
    tried = {t.candidate for t in trials}
    assert len(candidates) <= k, f"at most {k} were requested, but got {len(candidates)}"
    assert len(set(candidates)) == len(candidates), "two proposals are equal"
    assert not tried.intersection(candidates), "a proposal was tried before"
    assert all(space.contains(c) for c in candidates), "a proposal is outside the space"
    assert all(p.proposer for p in proposals), "a proposal has no proposer"
    left = {*space.candidates()} - tried
    assert len(candidates) == min(k, len(left)), f"{len(left)} are left, but {len(candidates)} were proposed"


def _varied(space: SearchSpace, number: int, proposal: Proposal, score: float) -> Trial:
    if number % 4 == 3:
        return trial_of(space, number, proposal, None)
    return trial_of(space, number, proposal, score, "pruned" if number % 4 == 2 else "complete")
